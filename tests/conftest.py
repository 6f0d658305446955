"""Provides fixtures that run the command as a user does, in this process or in a new one."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.mark import ParameterSet

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="sweep-cache-")  # what is compiled is none of the user's
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share their machine

from sweep.cli import main
from sweep.requests.current_trainer import started_trainer

if TYPE_CHECKING:
    from tests.faults.harness import Zygote


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


ROOT = Path(__file__).parent.parent

SMALL = ["train.steps=40", "train.eval_every=20", "model.hidden=[8]", "train.device=cpu"]
"""Overrides for a short training."""


def diagonal(*axes: Sequence[object]) -> list[ParameterSet]:
    """Return all combinations of some parameters, for `parametrize`: those off the diagonal are marked `long`.

    The diagonal has as many cases as the longest axis, and each value of each axis is in one of them.
    """
    cases = [tuple(axis[index % len(axis)] for axis in axes) for index in range(max(map(len, axes)))]
    return [pytest.param(*case, marks=[] if case in cases else pytest.mark.long) for case in product(*axes)]


def long(*values: object) -> ParameterSet:
    """Return a case for `parametrize` that `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.long)


@dataclass(frozen=True)
class Answer:
    """The result of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Provide an empty working directory. Remove modules imported from it, whose names other tests use, too."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:  # of a test without this fixture
        del sys.modules[name]
    yield tmp_path
    for name, module in list(sys.modules.items()):
        places = [vars(module).get("__file__"), *(vars(module).get("__path__") or [])] if module else []
        if any(isinstance(place, str) and Path(place).is_relative_to(tmp_path) for place in places):
            del sys.modules[name]


@pytest.fixture(scope="session")
def copied_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give commands in this process a copy of an empty MLflow database, which MLflow takes 1.7 s to create."""
    from sweep.tracking import store  # MLflow takes two seconds to import, which not every test needs

    create, template = store._create_database, tmp_path_factory.mktemp("template") / "mlflow.db"

    def copy(file: Path) -> None:
        if not template.exists():
            create(template)
        new = file.with_name(f"{file.name}.copy")
        shutil.copy(template, new)
        os.replace(new, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_create_database", copy)
        yield


@pytest.fixture(autouse=True, scope="session")
def optuna_migrations() -> Iterator[None]:
    """Read Optuna's migration scripts once: reading them takes most of the 45 ms in which a study is opened."""
    from optuna.storages._rdb.storage import _VersionManager

    read, scripts = _VersionManager._create_alembic_script, []

    def read_once(manager: _VersionManager) -> object:
        if not scripts:
            scripts.append(read(manager))
        return scripts[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "_create_alembic_script", read_once)
        yield


@pytest.fixture
def sweep(folder: Path, copied_database: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Provide a function that runs a command line in this process, in `folder`."""

    def carry_out(*arguments: str) -> Answer:
        capsys.readouterr()
        status = main(list(arguments))
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return carry_out


@pytest.fixture(scope="session")
def sweep_in(copied_database: None) -> Callable[..., Answer]:
    """Provide a function that runs a command line in this process, in the folder that is its first argument."""

    def carry_out(folder: Path, *arguments: str) -> Answer:
        out, err = (TextIOWrapper(BytesIO(), encoding="utf-8", newline="", write_through=True) for _ in range(2))
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            status = main(list(arguments))
        return Answer(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]

    return carry_out


@pytest.fixture(autouse=True, scope="session")
def a_trainer() -> Iterator[None]:
    """Provide a trainer for tests that read requests without a command. The first question starts it."""
    with started_trainer():
        yield


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Zygote]":
    """Provide a process that forks command lines without importing again, because imports take 14 s of CPU time."""
    from tests.faults.harness import Zygote  # it imports torch, which not every test needs

    with Zygote(tmp_path_factory.mktemp("outputs")) as begun:
        yield begun


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Provide a function that starts a command line in a new process."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "sweep", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
