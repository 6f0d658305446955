"""Tests searches, trainings and comparisons with trials whose code raises errors."""

import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from sweep.proposals.proposer import MOST_FAILURES
from tests.conftest import Answer
from tests.test_main_job import runs

CODE = '''
from math import prod

import torch
from torch import nn


class Norm(nn.Module):
    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, n_outputs))

    def forward(self, x):
        return self.layers(x)


class Wide(nn.Module):
    """A model that fails with some widths."""

    def __init__(self, input_shape, n_outputs, width=4, bad_from=5, bad_to=60, updates=10):
        super().__init__()
        self.first, self.last = nn.Linear(prod(input_shape), width), nn.Linear(width, n_outputs)
        self.bad, self.updates, self.calls = bad_from <= width <= bad_to, updates, 0

    def forward(self, x):
        self.calls += self.training
        if self.bad and self.calls > self.updates:
            self.refuse()
        return self.last(self.first(x.flatten(1)))

    def refuse(self):
        raise ArithmeticError("this width is not possible")


class Twice(nn.Module):
    """Fails on every second seed."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layer, self.bad, self.calls = nn.Linear(prod(input_shape), n_outputs), torch.initial_seed() % 2 == 1, 0

    def forward(self, x):
        self.calls += self.training
        if self.bad and self.calls > 10:
            raise ArithmeticError("an odd seed")
        return self.layer(x.flatten(1))


def data():
    return {"x": [[1.0]], "y": missing}


class Step(torch.optim.SGD):
    def step(self, closure=None):
        raise IndexError("no such group")
'''


def at(source: str, function: str) -> str:
    """Return file and number of a line of the code."""
    lines = [line.strip() for line in CODE.splitlines()]
    return f"mylab_fails/nets.py:{lines.index(source) + 1} in {function}"


REFUSE = at('raise ArithmeticError("this width is not possible")', "refuse")
DATA = at('return {"x": [[1.0]], "y": missing}', "data")
STEP = at('raise IndexError("no such group")', "step")
ODD = at('raise ArithmeticError("an odd seed")', "forward")
NORM = at("return self.layers(x)", "forward")


@pytest.fixture
def lab(sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Provide a function that runs a command line beside a user's package."""
    for name in [name for name in sys.modules if name.startswith("mylab_fails")]:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "mylab_fails").mkdir()
    (folder / "mylab_fails" / "__init__.py").touch()
    (folder / "mylab_fails" / "nets.py").write_text(CODE)
    models = folder / "myconf" / "model"
    models.mkdir(parents=True)
    for model in ("Norm", "Wide", "Twice"):
        keys = "width: 4\nbad_from: 5\nbad_to: 60\nupdates: 10\n" if model == "Wide" else ""
        (models / f"{model.lower()}.yaml").write_text(f"_target_: mylab_fails.nets.{model}\n{keys}")
    small = ["train.steps=30", "train.eval_every=15", "train.device=cpu", "warmup=none"]
    return lambda *given: sweep("--config-dir", "myconf", "trusted=[mylab_fails]", *small, *given)


def states(folder: Path) -> list[str]:
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{folder}/optuna.db")
    stored = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{folder}/optuna.db")
    return [trial.state.name for trial in stored.get_trials()]


def test_a_grid_with_one_point_that_raises(lab: Callable[..., Answer], folder: Path) -> None:
    """With 1,079 examples and batches of 49, the last batch has one example, with which BatchNorm fails."""
    grid = ["model=norm", "train.batch_size=range(48,52,1)", "sampler=grid", "space=none", "study.n_trials=4"]
    for _ in range(2):  # the second command has nothing to do
        answer = lab(*grid)
        assert answer.status == 0
        assert "4 trials: 3 complete, 1 failed\n" in answer.out
        assert answer.out.count(" failed: ValueError: Expected more than 1 value per channel when training") == 1
        assert f"({NORM})" in answer.out
    assert sorted(states(folder)) == ["COMPLETE"] * 3 + ["FAIL"]
    found = runs(folder, "trial")
    assert len(found) == 4
    (failed,) = [run for run in found if run.info.status == "FAILED"]
    assert (failed.data.params["train.batch_size"], failed.data.tags["sweep.status"]) == ("49", "failed")
    assert failed.data.tags["sweep.reason"].startswith("ValueError: Expected more than 1 value per channel")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    text = Path(client.download_artifacts(failed.info.run_id, "error.txt", str(folder))).read_text()
    assert text.endswith(f"  {NORM}\n    return self.layers(x)")


MIDDLE = ["model=wide", "model.width=int(interval(4,61))", "space=none", "optimizer.lr=0.1", "sampler=random"]


@pytest.mark.parametrize("engine", [["engine=serial"], ["engine=auto", "pruner=median"]])
def test_a_model_that_raises_in_the_middle_of_an_interval(
    lab: Callable[..., Answer], folder: Path, engine: list[str]
) -> None:
    lab_at = [*MIDDLE, *engine, "model.bad_from=20", "study.max_retries=0"]
    for total in (3, 5):  # a larger total afterwards trains none of the failed ones again
        answer = lab(*lab_at, f"study.n_trials={total}")
        assert answer.status == 0, answer
        found = states(folder)
        assert (found.count("COMPLETE") + found.count("PRUNED"), found[-1] == "FAIL") == (total, False)
    assert found.count("FAIL") > 3
    assert f" failed: ArithmeticError: this width is not possible ({REFUSE})" in answer.out
    assert {run.info.status for run in runs(folder, "trial")} == {"FINISHED", "FAILED"}


def test_a_model_that_always_raises_ends_the_search(lab: Callable[..., Answer], folder: Path) -> None:
    answer = lab("model=wide", "model.bad_from=1", "engine=serial", "sampler=random", "study.n_trials=30")
    assert answer.status == 1
    reason = f"ArithmeticError: this width is not possible ({REFUSE})"
    failed = len(states(folder))  # one more may have been asked ahead
    assert failed in (MOST_FAILURES, MOST_FAILURES + 1)
    expected = f"sweep: the last {failed} trials have failed one after another, trial {failed - 1} with {reason}"
    assert expected in answer.err
    assert states(folder) == ["FAIL"] * failed
    assert {run.info.status for run in runs(folder, "trial")} == {"FAILED"}


def test_a_grid_of_which_every_point_raises_ends_with_status_1(lab: Callable[..., Answer], folder: Path) -> None:
    answer = lab("model=wide", "model.width=6,7", "model.updates=20", "sampler=grid", "space=none")
    assert answer.status == 1
    assert (
        f"2 trials: 2 failed\ntrials 0, 1 failed: ArithmeticError: this width is not possible ({REFUSE})" in answer.out
    )


def test_a_training_that_raises(lab: Callable[..., Answer], folder: Path) -> None:
    answer = lab("mode=train", "model=wide", "model.bad_from=1", "model.updates=20")
    assert answer.status == 1
    assert answer.err == (
        "sweep: the training failed: ArithmeticError: this width is not possible\n"
        f"  {at('self.refuse()', 'forward')}\n"
        "    self.refuse()\n"
        f"  {REFUSE}\n"
        '    raise ArithmeticError("this width is not possible")\n'
    )
    (run,) = runs(folder, "train")
    assert (run.info.status, run.data.tags["sweep.status"]) == ("FAILED", "failed")
    assert run.data.metrics["val_loss"] > 0  # what was evaluated before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["model=wide", "model.bad_from=1", "model.updates=0"],
            f"ArithmeticError: this width is not possible ({REFUSE})",
        ),
        (
            ["model=wide", "model.width=-1"],
            at("self.first, self.last = nn.Linear(prod(input_shape), width), nn.Linear(width, n_outputs)", "__init__"),
        ),
        (
            ["dataset._target_=mylab_fails.nets.data"],
            f"NameError: name 'missing' is not defined ({DATA})",
        ),
        (["optimizer._target_=mylab_fails.nets.Step"], f"IndexError: no such group ({STEP})"),
    ],
)
def test_what_is_refused_before_training_names_file_and_line(
    lab: Callable[..., Answer], given: list[str], said: str
) -> None:
    answer = lab("mode=train", *given)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_final_runs_that_fail_are_ranked_behind(lab: Callable[..., Answer], folder: Path) -> None:
    """Trials have the seed 0, and final runs with odd seeds fail."""
    compared = ["mode=compare", "compare.schedules=[constant,linear]", "compare.trials=2", "compare.seeds=3"]
    for _ in range(2):  # the second command trains the failed ones again
        answer = lab("model=twice", *compared)
        assert answer.status == 0
        assert "failed on 2 of 3 seeds and is ranked for it." in answer.out
        assert f"constant: seeds 1, 3 failed: ArithmeticError: an odd seed ({ODD})" in answer.out
        assert len(list((folder / "reports").glob("*/report.html"))) == 1
    assert [run.info.status for run in runs(folder, "final")].count("FAILED") == 4
