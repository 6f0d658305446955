"""Tests the public functions as a script or notebook calls them."""

import html
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
import torch
from torch import nn

import sweep
from sweep.cli import main
from sweep.errors import InvalidValueError, TrainingFailedError
from tests.conftest import ROOT, SMALL

pytestmark = pytest.mark.usefixtures("folder", "copied_database")

QUICK = {"train.steps": 40, "train.eval_every": 20, "train.device": "cpu"}


class Linear(nn.Module):
    """A model that a script defines."""

    def __init__(self, input_shape: tuple[int, ...], n_outputs: int, width: int = 8) -> None:
        super().__init__()
        n_inputs = int(np.prod(input_shape))
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Raising(Linear):
    """A model whose code fails during training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = getattr(self, "seen", 0) + self.training
        if self.seen > 15:
            raise RuntimeError("the head exploded")
        return super().forward(x)


class Fragile(Linear):
    """A model with which some trials fail."""

    def __init__(self, input_shape: tuple[int, ...], n_outputs: int, fails: bool = False) -> None:
        super().__init__(input_shape, n_outputs)
        self.fails, self.seen = fails, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += self.training
        if self.fails and self.seen > 15:
            raise RuntimeError("the tail exploded")
        return super().forward(x)


def points() -> dict[str, np.ndarray]:
    """Return 300 points of two classes."""
    x = np.random.default_rng(0).normal(size=(300, 4))
    return {"x": x, "y": (x[:, 0] > 0).astype(int)}


def run_script(folder: Path, source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script that has no `if __name__ == "__main__"`."""
    (folder / "script.py").write_text(textwrap.dedent(source))
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, env=env, timeout=300)


def test_a_search_equals_that_of_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = sweep.search(
        {**QUICK, "model.hidden": [8], "sampler": "random", "study.n_trials": 3, "engine": "serial"}, progress=False
    )
    assert capsys.readouterr().out == ""
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert {trial.status for trial in study.trials} == {"complete"}
    frame = study.to_frame()
    assert study.best.metrics["val_loss"] == frame["val_loss"].min()
    assert study.best.values.keys() == {
        "schedule.decay_rate", "schedule.decay_steps", "warmup.steps", "optimizer.lr",
    }  # fmt: skip
    assert study.report is not None
    assert study.report.is_file()
    assert (folder / "optuna.db").is_file()
    stored = optuna.load_study(study_name=study.name, storage="sqlite:///optuna.db")
    assert stored.best_trial.number == study.best.number

    assert main([*SMALL, "sampler=random", "study.n_trials=3", "engine=serial"]) == 0  # the same study, which is done
    assert f"{study.name}: 3 of 3 trials done" in capsys.readouterr().out

    more = sweep.search([*SMALL, "sampler=random", "study.n_trials=4", "engine=serial"], progress=False)
    assert more.name == study.name
    assert len(more.trials) == 4
    loaded = sweep.load(study.name)
    assert isinstance(loaded, sweep.Study)
    assert loaded.to_frame().equals(more.to_frame())
    assert sweep.load().name == study.name
    assert "val_loss" in loaded._repr_html_()
    assert frame["reason"].isna().all()
    assert "reason" not in loaded._repr_html_()
    cells = re.findall("<th>(.+?)</th>", loaded.best._repr_html_())
    assert cells == [f"trial {loaded.best.number}", "status", *loaded.best.values, *loaded.best.metrics]
    assert f"<td>{loaded.best.metrics['val_loss']:.6g}</td>" in loaded.best._repr_html_()

    again = sweep.train({**QUICK, "model.hidden": [8], **more.best.values}, progress=False)
    assert again.metrics["val_loss"] == more.best.metrics["val_loss"]
    assert (again.rows() == more.best.rows()).all(axis=None)


@pytest.mark.parametrize("interface", ["command", "library"])
def test_a_search_says_that_its_timeout_has_ended_it(interface: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [*SMALL, "study.n_trials=24", "study.timeout=1e-9"]
    if interface == "command":
        assert main(texts) == 0
    else:
        assert repr(sweep.search(texts)).endswith(": 0 trials, 0 complete>")
    said = capsys.readouterr()
    lines = (said.out if interface == "command" else said.err).splitlines()
    assert lines.count("stopped after study.timeout=1e-09 s: 0 of 24 trials") == 1


def test_a_training_gives_its_rows_and_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    trial = sweep.train([*SMALL, "schedule=cosine", "warmup=none", "optimizer.lr=0.2"])
    assert "engine: serial (one training)\n" in capsys.readouterr().err
    rows = trial.rows()
    assert list(rows.columns) == ["lr", "loss"]
    assert list(rows.index) == list(range(40))
    assert rows["lr"].to_numpy() == pytest.approx(sweep.schedule("cosine", lr=0.2, steps=40).curve(40), rel=1e-6)
    assert trial.status == "complete"
    assert trial.number is None
    assert trial.metrics["global_step"] == 40
    assert trial.params["schedule.name"] == "cosine"
    assert "complete" in repr(trial)
    assert re.findall("<th>(.+?)</th>", trial._repr_html_())[:2] == ["training", "status"]
    run = mlflow.MlflowClient("sqlite:///mlflow.db").get_run(trial.run_id)
    assert run.data.metrics["val_loss"] == trial.metrics["val_loss"]


def test_a_model_and_arrays_of_a_script_are_searched() -> None:
    """A key of the class is searched, and the best trial can be trained again."""
    given = {**QUICK, "sampler": "random", "engine": "serial"}
    searched = {"model.width": sweep.choice(4, 8), "optimizer.lr": sweep.loguniform(1e-3, 1)}
    study = sweep.search(
        {**given, **searched, "study.n_trials": 3, "space": "none", "warmup": "none"},
        model=Linear,
        dataset=points(),
        progress=False,
    )
    assert study.name.startswith("arrays-Linear-momentum-exponential-")
    assert {trial.values["model.width"] for trial in study.trials} <= {4, 8}
    assert study.trials[0].params["model._target_"].startswith("python.Linear_")
    again = sweep.train(
        {**QUICK, "warmup": "none", **study.best.values}, model=Linear, dataset=points(), progress=False
    )
    assert again.metrics["val_loss"] == study.best.metrics["val_loss"]
    assert study.report is not None
    shown = html.unescape(study.report.read_text())
    assert "python -m sweep mode=train" not in shown, "a command line has no such objects"
    calls = re.findall(r"sweep\.train\(.*?dataset=arrays\)", shown)
    best = next(call for call in calls if repr(study.best.values["optimizer.lr"]) in call)
    copied = eval(best, {"sweep": sweep, "Linear": Linear, "arrays": points()})
    assert copied.metrics["val_loss"] == study.best.metrics["val_loss"]


def test_a_training_of_a_given_model_is_that_of_the_same_class_by_its_import_path() -> None:
    texts = ["train.steps=30", "train.device=cpu", "schedule=constant", "optimizer.lr=0.1", "warmup=none"]
    given = sweep.train([*texts, "model.width=5"], model=Linear, progress=False)
    named = sweep.train(
        [*texts, "+model.width=5", f"model._target_={__name__}.Linear", "trusted=[tests]"], progress=False
    )
    assert (given.rows() == named.rows()).all(axis=None)
    assert given.metrics["val_loss"] == named.metrics["val_loss"]


def test_a_data_set_is_a_function_a_pair_or_a_mapping() -> None:
    losses = [
        sweep.train({**QUICK, "model.hidden": [4]}, dataset=data, progress=False).metrics["val_loss"]
        for data in (points, points(), (points()["x"], points()["y"]), lambda: tuple(points().values()))
    ]
    assert len(set(losses)) == 1


def test_the_fused_engine_trains_a_given_model() -> None:
    texts = {**QUICK, "sampler": "random", "study.n_trials": 4, "train.precision": "float64", "engine.slots": 2}
    fused = sweep.search({**texts, "engine": "fused", "train.compile": False}, model=Linear, progress=False)
    del texts["engine.slots"]
    serial = sweep.search(
        {**texts, "engine": "serial", "tracking.experiment": "other", "study.name": "other"},
        model=Linear,
        progress=False,
    )
    assert fused.to_frame()["val_loss"].to_numpy() == pytest.approx(serial.to_frame()["val_loss"].to_numpy(), rel=1e-9)


def test_a_comparison_gives_its_verdict_and_table() -> None:
    texts = {"compare.schedules": ["constant", "cosine"], "compare.trials": 2, "compare.seeds": 3}
    found = sweep.compare({**QUICK, **texts}, model=Linear, dataset=points, progress=False)
    assert "cosine" in found.verdict
    frame = found.to_frame()
    assert set(frame["schedule"]) == {"constant", "cosine"}
    assert list(frame["rank"]) == [1, 2]
    assert found.report is not None
    assert found.report.is_file()
    assert {len(finals) for finals in found.finals.values()} == {3}
    assert {len(study.trials) for study in found.studies.values()} == {2}
    loaded = sweep.load(found.name)
    assert isinstance(loaded, sweep.Comparison)
    assert loaded.verdict == found.verdict
    assert loaded.to_frame().equals(frame)
    assert "<table" in loaded._repr_html_()


def test_a_preview_gives_curves_and_writes_nothing(folder: Path) -> None:
    drawn = sweep.preview(
        {"schedule": sweep.choice("cosine", "linear"), "warmup": "none", "train.steps": 50, "optimizer.lr": 0.1}
    )
    assert list(drawn.curves) == ["cosine", "linear"]
    assert drawn.to_frame().shape == (50, 2)
    assert (drawn.curves["cosine"] == sweep.schedule("cosine", lr=0.1, steps=50).curve(50)).all()
    assert drawn.figures["linear"].peak == pytest.approx(0.1)
    pictures = [shown._repr_html_() for shown in (drawn, sweep.preview(["train.steps=5"]))]
    assert list(folder.iterdir()) == []
    sweep.preview(["preview.path=here.csv", "train.steps=5"])
    assert (folder / "here.csv").read_text().startswith("step,lr\n")
    for picture, label in zip(pictures, ("cosine, linear", "lr"), strict=True):
        assert picture.startswith('<img src="data:image/png;base64,iVBOR')
        assert picture.endswith(f'" alt="&lt;Preview of {label}&gt;">')
    assert b64encode((folder / "here.png").read_bytes()).decode() in pictures[1], "as mode=preview draws it"


def test_the_table_of_a_study_has_the_reasons_of_failed_trials() -> None:
    texts = {**QUICK, "space": "none", "sampler": "grid", "engine": "serial", "model.fails": sweep.choice(False, True)}
    study = sweep.search(texts, model=Fragile, progress=False)
    reasons = study.to_frame().set_index("status")["reason"]
    assert reasons.isna().to_dict() == {"complete": True, "failed": False}
    assert re.fullmatch(r"RuntimeError: the tail exploded \(.*test_calls\.py:\d+ in forward\)", reasons["failed"])
    assert "the tail exploded" in study._repr_html_()
    (failed,) = [trial for trial in study.trials if trial.status == "failed"]
    assert "the tail exploded" in failed._repr_html_()


def test_code_of_the_model_that_fails_shows_its_own_frames() -> None:
    with pytest.raises(TrainingFailedError, match=r"(?s)test_calls\.py.*the head exploded"):
        sweep.train(QUICK, model=Raising, progress=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sweep.search({"train.steps": 0}), "train.steps=0: must be an integer >= 1"),
        (lambda: sweep.search(["train.stepz=5"]), "train.stepz=5: no such key"),
        (lambda: sweep.train({"optimizer.lr": sweep.interval(0.1, 1)}), "must be a plain value with mode=train"),
        (lambda: sweep.search(["mode=train"]), "mode=train: must not be given in Python"),
        (lambda: sweep.search(model=Linear(input_shape=(4,), n_outputs=2)), "because each trial trains its own"),
        (lambda: sweep.search(model=3), "model=3: must be a class or function"),
        (lambda: sweep.search(dataset=[1, 2, 3]), "dataset=list: must be arrays"),
        (lambda: sweep.search({"model.depth": 3}, model=Linear), "model.depth=3: is not a key of"),
        (lambda: sweep.search(model="resnet200"), "model=resnet200: is not an option"),
        (lambda: sweep.search(dataset={"y": [1.0]}), "must give x and y"),
        (lambda: sweep.load("nothing"), "has no experiment sweep yet"),
        (lambda: sweep.train(["dataset=digits,breast_cancer"]), "dataset=digits,breast_cancer: cannot be searched"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_and_writes_nothing(call, message: str, folder: Path) -> None:
    with pytest.raises(InvalidValueError) as error:
        call()
    assert message in str(error.value)
    assert list(folder.iterdir()) == []


def test_a_script_without_a_guard_defines_its_model_and_calls_twice(folder: Path) -> None:
    """The script runs once, and its progress is printed as plain lines on standard error."""
    source = """
        import torch, sweep
        print("the script begins")
        class Net(torch.nn.Module):
            def __init__(self, n_outputs, width=4):
                super().__init__()
                self.net = torch.nn.Sequential(
                    torch.nn.Flatten(), torch.nn.LazyLinear(width), torch.nn.ReLU(), torch.nn.LazyLinear(n_outputs))
            def forward(self, x):
                return self.net(x)
        quick = {"train.steps": 20, "sampler": "random", "study.n_trials": 2}
        one = sweep.search(quick, model=Net)
        two = sweep.search({**quick, "model.width": 6}, model=Net)
        print(one.best.status, two.best.status, one.name != two.name)
        print(sweep.train(["train.steps=20"], model=lambda n_outputs: Net(n_outputs)).status)
    """
    done = run_script(folder, source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the script begins", "complete complete True", "complete"]
    assert "[2/2]" in done.stderr


def test_a_script_in_a_folder_with_the_names_of_ours_and_in_a_program_that_uses_hydra(folder: Path) -> None:
    for name in ("conf", "models", "configs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    (folder / "conf" / "config.yaml").write_text("alpha: 1\n")
    source = """
        import hydra, sweep
        @hydra.main(config_path="conf", config_name="config", version_base="1.3")
        def run(config):
            assert config.alpha == 1
            print(sweep.train(["train.steps=10"], progress=False).status)
            print(hydra.core.global_hydra.GlobalHydra.instance().is_initialized())
        run()
    """
    done = run_script(folder, source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["complete", "True"]


def test_importing_is_quick_and_changes_nothing(folder: Path) -> None:
    source = """
        import logging, os, signal, sys, warnings
        before = [os.umask(0o22), sys.excepthook, list(warnings.filters), dict(os.environ), signal.getsignal(2)]
        os.umask(before[0])
        import sweep
        assert sorted(set(dir(sweep)) & set(sweep.__all__)) == sorted(sweep.__all__)
        heavy = {"torch", "mlflow", "optuna", "hydra", "pandas", "numpy"} & set(sys.modules)
        mask = os.umask(0o22)
        os.umask(mask)
        after = [mask, sys.excepthook, list(warnings.filters), dict(os.environ), signal.getsignal(2)]
        print(heavy, before == after)
    """
    done = run_script(folder, source)
    assert done.stdout.strip() == "set() True", done.stderr


def test_an_interrupted_search_resumes_with_the_same_call(folder: Path) -> None:
    source = """
        import sweep
        study = sweep.search({
            "train.steps": 1200, "sampler": "random", "study.n_trials": 3, "engine": "serial", "model.hidden": [8],
            "train.checkpoint_seconds": 0.2, "study.name": "long",
        })
        print([trial.metrics["global_step"] for trial in study.trials])
    """
    (folder / "script.py").write_text(textwrap.dedent(source))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "script.py"], stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    for line in process.stderr:
        if "trial   0  complete" in line:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(60) != 0
    assert "KeyboardInterrupt: " in said
    assert "the same call resumes" in said
    again = run_script(folder, source)
    assert again.stdout.strip() == "[1200.0, 1200.0, 1200.0]", again.stderr
    assert "trial   0" not in again.stderr
    assert "trial   1  resumes at step" in again.stderr


@pytest.mark.parametrize("interface", ["command", "library"])
def test_each_process_imports_only_what_it_needs_in_a_whole_search(folder: Path, interface: str) -> None:
    """The coordinator does not import torch, and the trainer does not import Hydra, Optuna and MLflow."""
    (folder / "listing.py").write_text(
        textwrap.dedent("""
            import os, sys, torch
            class Net(torch.nn.Module):
                def __init__(self, n_outputs):
                    super().__init__()
                    self.layer = torch.nn.Linear(64, n_outputs)
                def forward(self, x):
                    with open(f"modules.{os.getpid()}", "w") as file:
                        file.write("\\n".join(sys.modules))
                    return self.layer(x.flatten(1))
        """)
    )
    search = ["train.steps=20", "sampler=random", "study.n_trials=2", "model._target_=listing.Net", "trusted=[listing]"]
    search += ["schedule.decay_steps=${epochs:1}"]  # the length of an epoch is a question too
    call = {
        "command": f"from sweep.cli.main import main; assert main({search}) == 0",
        "library": f"import sweep; assert sweep.search({search}, progress=False).best",
    }[interface]
    listed = "import sys; open('modules.coordinator', 'w').write('\\n'.join(sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"{call}\n{listed}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    coordinator = set((folder / "modules.coordinator").read_text().split("\n"))
    assert {"hydra", "optuna", "mlflow"} <= coordinator
    assert not coordinator & {"torch", "listing", "sweep.training"}
    (trainer,) = [set(file.read_text().split("\n")) for file in folder.glob("modules.[0-9]*")]
    assert "torch" in trainer
    foreign = {"hydra", "omegaconf", "optuna", "mlflow", "sqlalchemy", "pandas", "matplotlib", "rich", "sklearn"}
    ours = {f"sweep.{name}" for name in ("app", "cli", "api", "proposals", "report", "requests", "tracking")}
    assert not trainer & (foreign | ours)


def test_a_call_leaves_the_state_of_the_program_as_it_was() -> None:
    """A call does not change generators, signal handlers, the environment, and Hydra's resolvers and state."""

    def handler(number: int, frame: object) -> None:
        pass

    before_handler = signal.signal(signal.SIGUSR1, handler)
    try:
        torch.manual_seed(11)
        np.random.seed(12)
        before = dict(os.environ)
        expected = (torch.rand(3), np.random.rand(3))
        torch.manual_seed(11)
        np.random.seed(12)
        sweep.train(QUICK, model=Linear, progress=False)
        drawn = (torch.rand(3), np.random.rand(3))
        assert torch.equal(drawn[0], expected[0])
        assert (drawn[1] == expected[1]).all()
        assert {key: os.environ.get(key) for key in before} == before
        assert "PYTHONSAFEPATH" not in os.environ.keys() - before.keys()
        assert signal.getsignal(signal.SIGUSR1) is handler
    finally:
        signal.signal(signal.SIGUSR1, before_handler)


def test_calls_in_threads_do_not_disturb_each_other() -> None:
    def call(seed: int) -> str:
        texts = {**QUICK, "train.seed": seed, "train.checkpoint_dir": f"checkpoints{seed}"}
        return str(sweep.train(texts, model=Linear, progress=False).status)

    call(0)  # creates the databases
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(call, [1, 2])) == ["complete", "complete"]


@pytest.mark.parametrize(
    "overrides", [{"model": "cnn"}, {"model": "cnn,mlp"}, {"model._target_": "models.mlp.MLP"}, {"dataset": "digits"}]
)
def test_what_is_given_as_an_object_and_as_an_override_is_refused(overrides: dict[str, str]) -> None:
    with pytest.raises(InvalidValueError, match="must not be given twice, as an override and as"):
        sweep.search(overrides, model=Linear, dataset=points)


def test_a_model_that_cannot_be_sent_is_refused_before_anything_is_written(folder: Path) -> None:
    lock = threading.Lock()

    class Locked(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with lock:
                return super().forward(x)

    with pytest.raises(InvalidValueError, match=r"^model=Locked: cannot be sent to the process that trains"):
        sweep.search(QUICK, model=Locked)
    assert list(folder.iterdir()) == []


def test_a_model_of_a_module_that_another_process_cannot_import(folder: Path) -> None:
    source = (
        "import torch\nclass Net(torch.nn.Linear):\n"
        "    def __init__(self, n_outputs): super().__init__(64, n_outputs)\n"
        "    def forward(self, x): return super().forward(x.flatten(1))\n"
    )
    (folder / "somewhere").mkdir()
    (folder / "somewhere" / "nets.py").write_text(source)
    spec = importlib.util.spec_from_file_location("unfindable_nets", folder / "somewhere" / "nets.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["unfindable_nets"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert sweep.train(QUICK, model=module.Net, progress=False).status == "complete"
