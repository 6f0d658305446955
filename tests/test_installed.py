"""Tests that files in the working directory and packages of the wheel do not replace each other."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_main_job import runs

MLP = """
from math import prod

from torch import nn

from models.parts import Flat


class MLP(nn.Module):
    def __init__(self, input_shape, n_outputs, hidden=(8,), dropout=0.0):
        super().__init__()
        self.net = nn.Sequential(Flat(), nn.Linear(prod(input_shape), n_outputs))

    def forward(self, x):
        return self.net(x)
"""
NOBODY_ASKED = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
FILES = {
    "conf/config.yaml": "defaults: [{model: mlp}]\nevil: 1\n",
    "conf/model/mlp.yaml": "_target_: evil.Evil\n",
    "conf/__init__.py": NOBODY_ASKED,
    "configs/config.yaml": "evil: 1\n",
    "sweep/training/__init__.py": NOBODY_ASKED,
    "hydra_plugins/evil.py": NOBODY_ASKED,
    "torch.py": NOBODY_ASKED,
    "models/mlp.py": MLP,
    "models/parts.py": "from torch import nn\n\n\nclass Flat(nn.Flatten):\n    pass\n",
    "theirs/model/line.yaml": "_target_: models.mlp.MLP\nhidden: [8]\ndropout: 0.0\n",
}


def hostile(folder: Path) -> None:
    """Fill a working directory with FILES."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.long
def test_our_files_and_theirs_of_the_same_names_are_each_found_in_both_processes(tmp_path: Path) -> None:
    hostile(tmp_path)
    given = ["--config-dir", "theirs", "model=mlp,line", "trusted=[models]", "optimizer.lr=0.05,0.1", "space=none"]
    small = ["train.steps=20", "train.eval_every=20", "train.device=cpu", "engine=serial"]
    command = [sys.executable, "-m", "sweep", *given, *small, "sampler=random", "study.n_trials=4"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert not list(tmp_path.rglob("*.ran"))
    losses: dict[str, set[float]] = {"mlp": set(), "line": set()}
    for run in runs(tmp_path, "trial"):
        assert run.data.params["model._target_"] == "models.mlp.MLP"
        losses[json.loads(run.data.tags["sweep.values"])["model"]].add(run.data.metrics["val_loss"])
    assert all(losses.values())
    assert losses["mlp"].isdisjoint(losses["line"])


def test_a_wheel_installs_one_package_with_conf_and_models_below_it(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source, built = tmp_path / "source", tmp_path / "built"
    for name in ("conf", "models", "sweep"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    setup = "from setuptools import setup; setup()"
    build = [sys.executable, "-c", setup, "-q", "build_py", "--build-lib", str(built)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    assert [path.name for path in built.iterdir()] == ["sweep"]
    folder = tmp_path / "folder"
    hostile(folder)
    command = [sys.executable, "-m", "sweep", "--cfg", "job", "trusted=[models]", "schedule=cosine"]
    env = os.environ | {"PYTHONPATH": str(built)}
    answer = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "_target_: sweep.models.mlp.MLP" in answer.stdout
    located = (
        "import sweep.components as c; print(c.locate('model', 'models.mlp.MLP').__module__, c.own_folder('conf'))"
    )
    answer = subprocess.run([sys.executable, "-P", "-c", located], cwd=folder, env=env, capture_output=True, text=True)
    assert answer.stdout.split() == ["sweep.models.mlp", str(built / "sweep" / "conf")], answer.stderr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Create an environment with a wheel of this checkout and the dependencies of the current environment."""
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    for name in ("conf", "models", "sweep"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "bdist_wheel"]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    shutil.unpack_archive(wheel, packages, "zip")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return tmp_path / "env" / "bin" / "python"


def test_a_wheel_searches_by_command_and_by_library_beside_files_with_the_names_of_ours(
    installed: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for name in ("conf/config.yaml", "conf/__init__.py", "models/__init__.py", "sweep.yaml"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("evil: 1\n" if name.endswith("yaml") else NOBODY_ASKED)
    small = ["train.steps=20", "train.device=cpu", "sampler=random", "study.n_trials=2"]
    (work / "script.py").write_text(
        f"import sweep\nstudy = sweep.search({['schedule=cosine', *small]}, progress=False)\n"
        "print(sweep.__file__, study.best.status, study.report.is_file())\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for command in (["-m", "sweep", *small], ["script.py"]):
        answer = subprocess.run([installed, *command], cwd=work, env=env, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
    file, *found = answer.stdout.split()
    assert Path(file).is_relative_to(installed.parents[1])
    assert found == ["complete", "True"]
    assert not list(work.rglob("*.ran"))
    assert (next(installed.parents[1].rglob("site-packages")) / "sweep" / "py.typed").is_file()
