"""Tests trials that are the same training: they are trained once, and each is recorded and reported."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweep.pool import PooledEngine
from tests.conftest import SMALL, Answer
from tests.faults.harness import Zygote
from tests.test_interruption import interrupt, record, trials
from tests.test_main_job import history, runs

GRID = ["sampler=grid", "space=none", "schedule.decay_rate=0.25,0.5", "schedule.decay_steps=10,20", "warmup=none"]
"""Four trials with three trainings, because 0.25 in 20 updates equals 0.5 in 10."""

METRICS = ("lr", "loss", "val_loss", "val_accuracy", "global_step")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the numbers of the trials that the engine gets."""
    given: list[int] = []
    begin = PooledEngine.start

    def start(self, trial, *rest):  # type: ignore[no-untyped-def]
        given.append(trial.number)
        begin(self, trial, *rest)

    monkeypatch.setattr(PooledEngine, "start", start)
    return given


def by_number(folder: Path) -> dict[int, Run]:
    return {int(run.data.tags["sweep.trial"]): run for run in runs(folder, "trial")}


def the_duplicate(folder: Path) -> tuple[Run, Run]:
    """Return the only trial that was not trained, and the one whose results it has."""
    found = by_number(folder)
    (duplicate,) = [run for run in found.values() if "sweep.duplicate_of" in run.data.tags]
    return duplicate, found[int(duplicate.data.tags["sweep.duplicate_of"])]


def histories(folder: Path, run: Run) -> dict[str, list[tuple[int, float]]]:
    return {key: history(folder, run, key) for key in METRICS}


def test_trials_with_the_same_curve_are_trained_once(
    sweep: Callable[..., Answer], folder: Path, trained: list[int]
) -> None:
    answer = sweep(*SMALL, *GRID)
    assert answer.status == 0
    duplicate, other = the_duplicate(folder)
    drawn = [
        (run.data.params["schedule.decay_rate"], run.data.params["schedule.decay_steps"]) for run in (duplicate, other)
    ]
    assert sorted(drawn) == [("0.25", "20"), ("0.5", "10")]
    number, of = int(duplicate.data.tags["sweep.trial"]), int(other.data.tags["sweep.trial"])
    assert sorted([*trained, number]) == [0, 1, 2, 3]
    assert [
        line for line in answer.out.splitlines() if line.startswith(f"trial {number:3d}") and f"as trial {of}" in line
    ]
    assert answer.out.count("as trial") == 1


def test_a_duplicate_is_recorded_and_told_as_any_trial(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, *GRID).status == 0
    duplicate, other = the_duplicate(folder)
    assert histories(folder, duplicate) == histories(folder, other)
    assert [step for step, _ in history(folder, duplicate, "loss")] == list(range(40))
    assert duplicate.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert {file.path for file in client.list_artifacts(duplicate.info.run_id)} >= {"config.yaml", "curve.svg"}
    storage = f"sqlite:///{folder}/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    told = optuna.load_study(study_name=name, storage=storage).get_trials()
    assert [trial.state.name for trial in told] == ["COMPLETE"] * 4
    one, two = (told[int(run.data.tags["sweep.trial"])] for run in (duplicate, other))
    assert (one.value, one.intermediate_values) == (two.value, two.intermediate_values)
    assert one.user_attrs["mlflow_run_id"] == duplicate.info.run_id
    (parent,) = runs(folder, "study")
    assert [step for step, _ in history(folder, parent, "val_loss")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "optimizer",
    [["optimizer=momentum"], ["optimizer=adam", "model.dropout=0.2"], ["optimizer=sgd", "optimizer.lr=1e6"]],
    ids=["momentum", "adam", "diverged"],
)
def test_a_duplicate_has_what_training_it_would_have_given(
    sweep: Callable[..., Answer], folder: Path, optimizer: list[str]
) -> None:
    assert sweep(*SMALL, *GRID, *optimizer, "model.hidden=[8,8]").status == 0
    for duplicate in [run for run in by_number(folder).values() if "sweep.duplicate_of" in run.data.tags]:
        drawn = [f"{key}={duplicate.data.params[key]}" for key in ("schedule.decay_rate", "schedule.decay_steps")]
        sweep("mode=train", *SMALL, "warmup=none", *optimizer, "model.hidden=[8,8]", *drawn)
        again = max(runs(folder, "train"), key=lambda run: run.info.start_time)
        assert again.data.tags["sweep.status"] == duplicate.data.tags["sweep.status"]
        recorded, alone = histories(folder, duplicate), histories(folder, again)
        np.testing.assert_allclose(recorded.pop("lr"), alone.pop("lr"), rtol=1e-15)
        for key, expected in alone.items():
            np.testing.assert_array_equal(recorded[key], expected, strict=True)
    assert the_duplicate(folder)[0].data.tags["sweep.status"] == (
        "diverged" if "optimizer.lr=1e6" in optimizer else "complete"
    )


def test_a_repeated_trial_is_not_trained_again_by_a_later_command(
    sweep: Callable[..., Answer], folder: Path, trained: list[int]
) -> None:
    one_value = ["sampler=random", "space=none", "optimizer.lr=choice(0.1)"]
    for total in (1, 2, 3):
        assert sweep(*SMALL, *one_value, f"study.n_trials={total}").status == 0
    assert trained == [0]
    found = by_number(folder)
    assert [found[number].data.tags.get("sweep.duplicate_of") for number in range(3)] == [None, "0", "0"]
    assert histories(folder, found[2]) == histories(folder, found[0])


def test_another_seed_is_another_study_and_trained(
    sweep: Callable[..., Answer], folder: Path, trained: list[int]
) -> None:
    for seed in (0, 1):
        assert sweep(*SMALL, f"train.seed={seed}", "sampler=random", "study.n_trials=1").status == 0
    assert trained == [0, 0]


def test_a_duplicate_of_what_was_trained_before_an_interruption(
    sweep_in: Callable[..., Answer], zygote: Zygote, tmp_path: Path
) -> None:
    """The command is interrupted after the first trial; the resumed command proposes its duplicate, the third."""
    command = [
        *SMALL,
        *GRID,
        "train.steps=1500",
        "train.eval_every=50",
        "engine=serial",
    ]  # auto may choose two, by speed
    interrupted, uninterrupted = tmp_path / "interrupted", tmp_path / "uninterrupted"
    for folder in (interrupted, uninterrupted):
        folder.mkdir()
    begun = zygote.start(interrupted, command)
    interrupt(begun, signal.SIGINT, after=1)
    assert begun.status == 130
    assert "sweep.duplicate_of" not in {tag for run in runs(interrupted, "trial") for tag in run.data.tags}
    for folder in (interrupted, uninterrupted):
        assert sweep_in(folder, *command).status == 0
        duplicate, other = the_duplicate(folder)
        assert (duplicate.data.tags["sweep.trial"], other.data.tags["sweep.trial"]) == ("2", "0")
    assert trials(interrupted) == trials(uninterrupted)
    assert record(interrupted) == record(uninterrupted)
