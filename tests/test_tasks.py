"""Tests tasks with the command: own losses and metrics in searches, schedules, comparisons, tables and the record."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest

from sweep.requests import build
from sweep.requests.compose import Composer
from tests.conftest import SMALL, Answer
from tests.test_main_job import history, runs
from tests.training import losses

TRAIN = [*SMALL, "mode=train", "train.eval_every=10"]
RECALL = "task.metrics.recall={_target_: mylab.losses.MacroRecall, direction: maximize}"


@pytest.fixture
def mylab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create a user's package in the working directory; return the override that trusts it."""
    (folder / "mylab").mkdir()
    shutil.copy(losses.__file__, folder / "mylab" / "losses.py")
    (folder / "mylab" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder))
    return "trusted=[mylab]"


def test_a_study_is_judged_by_a_metric_of_the_user_s(sweep: Callable[..., Answer], folder: Path, mylab: str) -> None:
    command = [*SMALL, mylab, RECALL, "study.metric=val_recall", "study.n_trials=3", "sampler=random"]
    answer = sweep(*command)
    assert answer.status == 0, answer.err
    (study,) = optuna.get_all_study_summaries("sqlite:///optuna.db")
    assert study.direction.name == "MAXIMIZE"
    assert study.best_trial is not None
    recorded = [history(folder, run, "val_recall")[-1][1] for run in runs(folder, "trial")]
    assert study.best_trial.value == max(recorded)
    assert "val_recall" in answer.out.partition("Best trials")[2]
    again = sweep(*command)
    assert again.status == 0
    assert "3 of 3 trials done" in again.out
    reported = sweep("mode=report")
    assert reported.status == 0
    assert "val_recall" in reported.out


@pytest.mark.parametrize(
    ("labels", "task", "warned"),
    [
        ([0.0, 1.0], "auto", True),
        ([0.0, 1.0], "regression", False),
        ([0, 1], "auto", False),
        ([0.0, 0.5], "auto", False),
    ],
)
def test_numbers_that_look_like_labels_are_trained_as_a_regression_with_a_warning(
    sweep: Callable[..., Answer], folder: Path, labels: list[float], task: str, warned: bool
) -> None:
    np.savez(folder / "points.npz", x=np.random.default_rng(0).normal(size=(60, 3)), y=np.array(labels * 30))
    answer = sweep(*TRAIN, "dataset=arrays", "dataset.path=points.npz", f"task={task}", "train.batch_size=20")
    assert answer.status == 0, answer.err
    said = "warning: task=auto trains a regression, because y holds the numbers 0.0, 1.0, ...; integers are labels"
    assert (said in answer.out) is warned
    assert ("val_accuracy" in answer.out) is isinstance(labels[0], int)


def test_further_metrics_are_columns_of_the_table_and_the_report(
    sweep: Callable[..., Answer], folder: Path, mylab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    answer = sweep(*SMALL, mylab, RECALL, "study.n_trials=2", "task=classification", "task.top_k=3")
    assert answer.status == 0, answer.err
    header = next(line for line in answer.out.splitlines() if line.split()[:2] == ["trial", "val_loss"])
    assert header.split()[1:5] == ["val_loss", "val_accuracy", "val_recall", "val_top3_accuracy"]
    (report,) = (folder / "reports").glob("*/report.html")
    assert "val_top3_accuracy" in report.read_text()


def test_a_plateau_watches_a_metric_of_the_user_s(sweep: Callable[..., Answer], folder: Path, mylab: str) -> None:
    """The metric is maximized; with a threshold that no improvement exceeds, the rate is cut at every evaluation."""
    watching = ["schedule=plateau", "schedule.metric=val_recall", "schedule.patience=0", "schedule.factor=0.5"]
    answer = sweep(
        *TRAIN, mylab, RECALL, *watching, "schedule.threshold=10", "schedule.threshold_mode=abs", "warmup=none"
    )
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    rates = [value for _, value in history(folder, run, "lr")]
    assert rates[0] > rates[-1]
    assert len(set(rates)) > 1


def test_a_loss_of_torch_is_trained(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*TRAIN, "task.loss._target_=torch.nn.MultiMarginLoss", "task.loss.margin=0.5")
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    assert history(folder, run, "loss")[0][1] == pytest.approx(0.45, abs=0.15)  # 0.9 margins of 0.5 at first
    assert run.data.params["task.loss.margin"] == "0.5"


def test_a_comparison_tests_by_the_metric_of_the_user_s(sweep: Callable[..., Answer], folder: Path, mylab: str) -> None:
    command = [*SMALL, mylab, RECALL, "mode=compare", "compare.schedules=[cosine,linear]", "study.metric=val_recall"]
    answer = sweep(*command, "compare.trials=2", "compare.seeds=2")
    assert answer.status == 0, answer.err
    assert "test_recall" in answer.out
    assert all(history(folder, run, "test_recall") for run in runs(folder, "final"))


@pytest.mark.parametrize(
    ("overrides", "refusal"),
    [
        (["task.loss._target_=mylab.losses.values"], "task.loss._target_=mylab.losses.values: must be in models,"),
        (["task.loss._target_=torch.hub.load"], "task.loss._target_=torch.hub.load: must be in models,"),
        (["task.loss=mse"], "task.loss=mse: must be null or a mapping such as {_target_: "),
        (["task.metrics=[a]"], "task.metrics=['a']: must be null or a mapping such as {f1: "),
        (
            ["task.metrics.f1={direction: up, _target_: torch.nn.L1Loss}"],
            "task.metrics.f1.direction=up: must be one of",
        ),
        (
            ["task.metrics.f1={_target_: torch.nn.L1Loss, bta: 1}"],
            "task.metrics.f1.bta=1: is not a key of torch.nn.L1Loss",
        ),
        (["task=classification", "task.label_smooth=0.1"], "task.label_smooth=0.1: no such key (did you mean"),
        (["task=regression"], "task=regression: needs numbers as targets, and dataset.y has integers"),
        (
            ["study.metric=val_f1"],
            "study.metric=val_f1: must be one of the metrics of this training, val_loss, val_accuracy",
        ),
        (["study.metric=loss"], "study.metric=loss: must be one of val_loss, "),
        (
            ["task.metrics.own={_target_: torch.nn.CrossEntropyLoss}", "study.metric=val_own"],
            "study.metric=val_own: has no known direction: give study.direction, or task.metrics.own.direction",
        ),
        (
            ["schedule=plateau", "schedule.metric=val_accuracy", "schedule.direction=minimize"],
            "schedule.direction=minimize: must be maximize for val_accuracy",
        ),
        (["schedule=plateau", "schedule.metric=val_f1"], "schedule.metric=val_f1: has no known direction"),
        (
            ["schedule=plateau", "schedule.metric=val_f1", "schedule.direction=maximize"],
            "schedule.metric=val_f1: waits for val_f1; this training has val_loss, val_accuracy, train_error",
        ),
        (
            ["task.label_smoothing=0,0.1", "task=classification"],
            "task.label_smoothing=0,0.1: cannot be searched: trials with different losses ",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused_in_one_line(
    sweep: Callable[..., Answer], folder: Path, overrides: list[str], refusal: str
) -> None:
    answer = sweep(*SMALL, *overrides)
    assert answer.status == 2
    assert answer.err.startswith(f"sweep: {refusal}"), answer.err
    assert len(answer.err.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_a_training_without_a_task_of_its_own_keeps_its_identity() -> None:
    """Studies of versions without the group can be continued."""
    assert "task" not in build.run_config(Composer().compose([])).identity
    assert "task" in build.run_config(Composer().compose(["task=classification"])).identity
