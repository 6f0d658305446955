"""Tests the case that can be checked by hand, (w + 1)^2 from w = 5, with the whole command and the record."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.conftest import Answer
from tests.test_main_job import history, runs

COMMAND = [
    "mode=train",
    "dataset=quadratic",
    "optimizer=sgd",
    "optimizer.lr=0.2",
    "schedule=exponential",
    "schedule.decay_rate=0.95",
    "schedule.decay_steps=1",
    "schedule.staircase=true",
    "warmup=none",
    "train.steps=100",
    "train.device=cpu",
]


def by_hand(start: float = 5.0, steps: int = 100) -> tuple[list[float], float]:
    """Return the losses of the updates 0..steps, w(s+1) = w(s) - lr(s) * 2 (w(s) + 1)."""
    w, losses = start, []
    for step in range(steps):
        losses.append((w + 1) ** 2)
        w -= 0.2 * 0.95**step * 2 * (w + 1)
    return losses, (w + 1) ** 2


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float64", {"rtol": 0, "atol": 1e-9}), ("float32", {"rtol": 1e-3})]
)
def test_the_losses_are_those_of_the_recurrence(
    sweep: Callable[..., Answer], folder: Path, precision: str, tolerance: dict[str, float]
) -> None:
    answer = sweep(*COMMAND, f"train.precision={precision}")
    assert (answer.status, answer.err) == (0, "")
    (run,) = runs(folder, "train")
    expected, last = by_hand()
    losses = history(folder, run, "loss")
    assert [step for step, _ in losses] == list(range(100))
    np.testing.assert_allclose([loss for _, loss in losses], expected, **tolerance)
    ((step, at_the_end),) = history(folder, run, "val_loss")
    assert step == 100
    np.testing.assert_allclose(at_the_end, last, **tolerance)
    rates = [rate for _, rate in history(folder, run, "lr")]
    np.testing.assert_allclose(rates, 0.2 * 0.95 ** np.arange(100), rtol=1e-12)


def test_it_begins_where_it_is_told_to(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*COMMAND, "train.precision=float64", "model.start=0.5").status == 0
    (run,) = runs(folder, "train")
    losses = [loss for _, loss in history(folder, run, "loss")]
    np.testing.assert_allclose(losses, by_hand(start=0.5)[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", [["model=mlp", "dataset=quadratic"], ["dataset=quadratic", "model=mlp"]])
def test_another_model_may_be_asked_for(sweep: Callable[..., Answer], folder: Path, order: list[str]) -> None:
    assert sweep("mode=train", *order, "train.steps=40").status == 0
    (run,) = runs(folder, "train")
    assert (run.data.params["model.name"], run.data.params["dataset.name"]) == ("mlp", "quadratic")


def test_the_recorded_configuration_trains_it_again(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*COMMAND, "model.start=0.5").status == 0
    (first,) = runs(folder, "train")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    Path(client.download_artifacts(first.info.run_id, "config.yaml", str(folder))).rename(folder / "again.yaml")
    assert sweep("--config-dir", str(folder), "--config-name", "again").status == 0
    again = next(run for run in runs(folder, "train") if run.info.run_id != first.info.run_id)
    assert history(folder, again, "loss") == history(folder, first, "loss")
    assert again.data.params == first.data.params


def test_it_is_searched_like_any_other(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep("dataset=quadratic", "model=scalar,mlp", "train.steps=20", "study.n_trials=4", "sampler=random")
    assert answer.status == 0
    assert {run.data.params["model.name"] for run in runs(folder, "trial")} == {"scalar", "mlp"}
    assert sweep("dataset=quadratic", "train.steps=20", "study.n_trials=1").status == 0
    assert "quadratic-scalar-momentum-exponential" in sweep("mode=report").out


def test_losses_near_zero_are_told_apart(sweep: Callable[..., Answer], folder: Path) -> None:
    grid = ["sampler=grid", "space=none", "optimizer.lr=0.3,0.301,0.302,0.303", "study.n_trials=4"]
    plain = ["dataset=quadratic", "optimizer=sgd", "schedule=constant", "warmup=none", "train.steps=20"]
    answer = sweep(*plain, *grid, "engine=serial", "train.precision=float64")
    assert answer.status == 0
    recorded = sorted(run.data.metrics["val_loss"] for run in runs(folder, "trial"))
    table = answer.out.partition("Best trials")[2]
    lines, cells = r"complete +val_loss (\S+)", r"^ +\d +(\S+)"
    for shown in (re.findall(lines, answer.out), re.findall(cells, table, re.MULTILINE)):
        assert len(set(shown)) == 4
        assert sorted(map(float, shown)) == pytest.approx(recorded, rel=1e-3)


def test_a_configuration_of_their_own_may_build_on_it(sweep: Callable[..., Answer], folder: Path) -> None:
    theirs = "defaults:\n  - config\n  - override dataset: quadratic\n  - _self_\ntrain: {steps: 7}\n"
    (folder / "lab.yaml").write_text(theirs)
    assert sweep("--config-dir", str(folder), "--config-name", "lab", "mode=train").status == 0
    (run,) = runs(folder, "train")
    assert (run.data.params["model.name"], run.data.params["train.steps"]) == ("scalar", "7")
