"""Engines are left at random moments, others go on from their snapshots: every weight and every row, bit by bit."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
import torch

from sweep.components import Component
from sweep.config import DatasetConfig, OptimizerConfig, RunConfig, TrainConfig
from sweep.core import Engine, Progress, Trial
from sweep.data import Dataset, load
from sweep.schedules import DECAYS, WARMUPS
from sweep.training import FusedEngine, SerialEngine
from tests.faults.harness import LONG, flattened, same_states

CPU, STEPS, EVERY = torch.device("cpu"), 90, 10
ENGINES = {"serial": SerialEngine, "fused": partial(FusedEngine, slots=3)}
DIGITS = DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DIGITS)


def make_trial(number: int, lr: float) -> Trial:
    """A trial with all that a state has: momenta, masks of dropout, a position in the order of the data."""
    config = RunConfig(
        model=Component("model", "models.mlp.MLP", {"hidden": [8], "dropout": 0.2}),
        optimizer=OptimizerConfig(Component("optimizer", "torch.optim.Adam", {}), lr=lr),
        decay=DECAYS["constant"](),
        warmup=WARMUPS["none"](),
        dataset=DIGITS,
        train=TrainConfig(STEPS, 64, 0, EVERY, "cpu", "float64"),
        resolved={},
    )
    return Trial(number, config, seed=number, keeps_state=True)


class Book:
    """What was reached of each trial: its rows, its final state."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], tuple[float, float]] = {}
        self.states: dict[int, dict[str, Any]] = {}

    def take(self, progress: Progress) -> None:
        for rows in progress.rows:
            for step, lr, loss in zip(rows.steps.tolist(), rows.lr.tolist(), rows.loss.tolist(), strict=True):
                assert (progress.trial, step) not in self.rows, "a step twice"
                self.rows[progress.trial, step] = lr, loss
        if progress.status is not None:
            assert progress.state is not None
            self.states[progress.trial] = flattened(progress.state.content)


def train(make: Callable[[], Engine], trials: list[Trial], boundaries: Callable[[], int]) -> Book:
    """Trials to their end, a few boundaries with each engine."""
    book, live = Book(), {trial.number: trial for trial in trials}
    while live:
        engine, left = make(), boundaries()
        for trial in live.values():
            engine.start(trial)
        while live and left:
            left -= 1
            for progress in engine.advance():
                book.take(progress)
                if progress.status is not None:
                    del live[progress.trial]
        if live:
            for progress in engine.snapshots():
                book.take(progress)
                if progress.state is not None:
                    live[progress.trial] = replace(live[progress.trial], state=progress.state)
            live = dict(reversed(live.items()))  # to other slots
    return book


@pytest.mark.parametrize("name", ENGINES)
def test_a_training_that_goes_on_from_snapshots_ends_with_the_same_weights(
    name: str, digits: Dataset, note: Callable[..., None]
) -> None:
    trials = [make_trial(number, 0.003 * (number + 1)) for number in range(3 if name == "fused" else 1)]
    random, rounds = Random(name), 100 if LONG else 3
    make = partial(ENGINES[name], digits, CPU, "float64")
    whole = train(make, trials, lambda: 1000)
    assert sorted(whole.rows) == [(trial.number, step) for trial in trials for step in range(STEPS)]
    for _ in range(rounds):
        parts = train(make, trials, lambda: random.randint(1, 4))
        assert parts.rows == whole.rows
        assert all(same_states(parts.states[number], state) for number, state in whole.states.items())
    note("left and gone on with", f"engine {name}, in one process", rounds)
