"""Test that trainings that stop between updates and resume in a new engine equal uninterrupted ones."""

import io
import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.core import Status
from sweep.schedules import DECAYS, WARMUPS
from sweep.training import CPU
from tests.conftest import diagonal
from tests.training.conftest import ENGINES, STACKED

DROPPING = Component("model", "models.mlp.MLP", {"hidden": [16], "dropout": 0.3})
LINEAR = Component("model", "models.mlp.MLP", {"hidden": []})
EVERY = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adadelta", "adam", "adamw", "nadam", "radam", "lion",
         "muon", "schedulefree")  # fmt: skip
TRAINED = [(kind, optimizer) for kind in ENGINES for optimizer in (STACKED if kind == "fused" else EVERY)]


class Normed(nn.Module):
    """A network of two layers with BatchNorm and dropout between them."""

    def __init__(self, input_shape, n_outputs) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(int(np.prod(input_shape)), 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(8, n_outputs),
        )

    def forward(self, x):
        return self.layers(x)


NORMED = Component("model", f"{__name__}.Normed", {}, trusted=(__name__,))


@dataclass
class Found:
    """Collects the results of one trial, with rows as (step, lr, loss)."""

    rows: list = field(default_factory=list)
    evaluations: list = field(default_factory=list)
    events: list = field(default_factory=list)
    status: Status | None = None
    state: object = None


def content(snapshot):
    """Return the content of a snapshot as tensors and plain data."""
    return torch.load(io.BytesIO(snapshot.content), weights_only=True)


def assert_equal(one, other):
    """Assert that plain data are equal and tensors are bit-identical."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for value, its in zip(one, other, strict=True):
            assert_equal(value, its)
    else:
        assert one == other


def built(kind, data, precision):
    return ENGINES[kind].build(data, CPU, precision)


def take(found, reached, live):
    """Collect progress, and check that rows are consecutive."""
    for progress in reached:
        own = found[progress.trial]
        assert own.status is None, "a trial that ended goes on"
        for rows in progress.rows:
            assert rows.steps[0] == len(own.rows), "a row is missing, or given twice"
            own.rows += zip(rows.steps.tolist(), rows.lr.tolist(), rows.loss.tolist(), strict=True)
        if progress.evaluation is not None:
            own.evaluations.append((progress.evaluation.step, dict(progress.evaluation.metrics)))
        own.events, own.status = list(progress.events), progress.status
        if progress.state is not None:
            own.state = progress.state
            live[progress.trial] = replace(live[progress.trial], state=progress.state)
        if progress.status is not None:
            del live[progress.trial]


def train(kinds, data, precision, trials, pause=lambda: False, cut=lambda: False, snap=lambda: False):
    """Train trials to their ends.

    Args:
        kinds: of the engines that follow each other; the first again after the last.
        pause: asked between two updates.
        cut: asked after each advance whether another engine goes on from snapshots.
        snap: asked whether snapshots are taken and the same engine goes on.
    """
    trials = [replace(trial, keeps_state=True) for trial in trials]
    found, live, used = {trial.number: Found() for trial in trials}, {t.number: t for t in trials}, 0
    waiting, engine = list(trials), built(kinds[0], data, precision)
    engine.pause = pause
    while live:
        while waiting and engine.free:
            engine.start(live[waiting.pop(0).number])
        take(found, engine.advance(), live)
        if cut():
            given = list(engine.snapshots())
            assert len(given) == engine.slots - engine.free
            take(found, given, live)
            waiting = [live[progress.trial] for progress in given] + [t for t in waiting if t.number in live]
            used += 1
            engine = built(kinds[used % len(kinds)], data, precision)
            engine.pause = pause
        elif snap():
            take(found, engine.snapshots(), live)
    return found


def cut_by_chance(kinds, data, precision, trials, seed=0, pauses=0.15, cuts=0.3):
    chance = random.Random(seed)
    return train(
        kinds,
        data,
        precision,
        trials,
        lambda: chance.random() < pauses,
        lambda: chance.random() < cuts,
        lambda: chance.random() < cuts,
    )


def assert_same(found, expected):
    """Assert that results are bit-identical."""
    assert found.keys() == expected.keys()
    for number, own in found.items():
        other = expected[number]
        np.testing.assert_equal(own.rows, other.rows)  # NaN equals itself
        assert own.evaluations == other.evaluations
        assert (own.events, own.status) == (other.events, other.status)
        if own.status is Status.COMPLETE:
            assert_equal(content(own.state), content(other.state))


def eventful(make_trial, number=0, **keys):
    """Return a trial with dropout, an average, clipped gradients, groups, a warmup until train_error, and a plateau."""
    options = {
        "model": DROPPING,
        "optimizer": "momentum",
        "lr": 0.5 + 0.1 * number,
        "clip_norm": 1.0,
        "groups": {"bias_and_norm": {"lr_factor": 2.0}},
        "average": 0.9,
        "warmup": WARMUPS["until_error"](until_error=0.6),
        "decay": DECAYS["plateau"](factor=0.5, patience=0, threshold=0.8),
        "steps": 73,
        "eval_every": 7,
    }
    return make_trial(number, seed=number, **options | keys)


@pytest.mark.parametrize(("trained", "precision"), diagonal(TRAINED, ["float32", "float64"]), ids=str)
def test_a_training_in_parts_is_the_training_in_one_to_the_bit(digits, make_trial, trained, precision):
    kind, optimizer = trained
    average = None if optimizer == "schedulefree" else 0.99
    decay = DECAYS["cosine"](decay_steps=40)
    trial = make_trial(optimizer=optimizer, model=DROPPING, decay=decay, steps=40, average=average, precision=precision)
    whole = train([kind], digits, precision, [trial])
    assert [row[0] for row in whole[0].rows] == list(range(40))
    found = cut_by_chance([kind], digits, precision, [trial], seed=EVERY.index(optimizer))
    assert_same(found, whole)


@pytest.mark.parametrize(("kind", "precision"), diagonal(list(ENGINES), ["float32", "float64"]))
def test_events_memories_averages_and_the_training_error_go_on(digits, make_trial, kind, precision):
    """Four trials, more than slots, are at different steps. An epoch has 17 updates, the last of 55 examples."""
    trials = [eventful(make_trial, number, precision=precision) for number in range(4)]
    whole = train([kind], digits, precision, trials)
    assert {event.name for event in whole[0].events} == {"warmup_end", "plateau"}
    assert whole[0].events[0].step > 7
    assert {"train_error", "val_loss_ema"} <= whole[0].evaluations[0][1].keys()
    assert_same(cut_by_chance([kind], digits, precision, trials), whole)


@pytest.mark.parametrize("kind", ENGINES)
def test_the_statistics_of_a_norm_go_on(digits, make_trial, kind):
    trials = [make_trial(n, seed=n, model=NORMED, optimizer="adam", steps=40, precision="float32") for n in range(2)]
    whole = train([kind], digits, "float32", trials)
    held = content(cut_by_chance([kind], digits, "float32", trials)[1].state)["model"]
    assert int(held["layers.2.num_batches_tracked"]) == 40
    assert_same(cut_by_chance([kind], digits, "float32", trials), whole)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_regression_goes_on(line, make_trial, kind):
    trial = make_trial(optimizer="nesterov", lr=0.01, batch_size=16, steps=30)
    assert_same(cut_by_chance([kind], line, "float64", [trial]), train([kind], line, "float64", [trial]))


@pytest.mark.parametrize("kind", ENGINES)
def test_a_pause_at_every_update_changes_nothing(digits, make_trial, kind):
    trials = [eventful(make_trial, number, steps=18) for number in range(2)]
    whole = train([kind], digits, "float64", trials)
    assert_same(train([kind], digits, "float64", trials, pause=lambda: True), whole)
    snapped = train([kind], digits, "float64", trials, pause=lambda: True, snap=lambda: True)
    assert_same(snapped, whole)
    assert_same(train([kind], digits, "float64", trials, pause=lambda: True, cut=lambda: True), whole)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_pause_that_is_always_asked_for_lets_one_update_pass(digits, make_trial, kind):
    engine = built(kind, digits, "float64")
    engine.pause = lambda: True
    engine.start(make_trial())
    for step in (1, 2, 3):
        assert engine.advance() == []
        (given,) = engine.snapshots()
        assert (given.state.step, [rows.steps.tolist() for rows in given.rows]) == (step, [[step - 1]])
    assert [rows for progress in engine.snapshots() for rows in progress.rows] == []


@pytest.mark.parametrize("kind", ENGINES)
def test_rows_that_a_snapshot_gave_do_not_come_again_with_the_boundary(digits, make_trial, kind):
    engine = built(kind, digits, "float64")
    asked = iter([False, False, True])
    engine.pause = lambda: next(asked, False)
    engine.start(make_trial(steps=20))
    assert engine.advance() == []
    (given,) = engine.snapshots()
    (boundary,) = engine.advance()
    assert [rows.steps.tolist() for rows in given.rows] == [[0, 1, 2]]
    assert [rows.steps.tolist() for rows in boundary.rows] == [list(range(3, 10))]
    assert boundary.evaluation.step == 10


@pytest.mark.parametrize("optimizer", STACKED)
@pytest.mark.parametrize("kind", ENGINES)
def test_a_trial_that_has_made_no_update_has_a_state_too(digits, make_trial, kind, optimizer):
    trial = make_trial(optimizer=optimizer, model=DROPPING, steps=20)
    whole = train([kind], digits, "float64", [trial])
    engine = built(kind, digits, "float64")
    engine.start(trial)
    (given,) = engine.snapshots()
    assert (given.rows, given.evaluation, given.status, given.state.step) == ([], None, None, 0)
    assert_same(train([kind], digits, "float64", [replace(trial, state=given.state)]), whole)
    assert next(engine.snapshots()).state.step == 0


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_without_trials_has_no_states(digits, kind):
    assert list(built(kind, digits, "float64").snapshots()) == []


@pytest.mark.parametrize("kinds", [("serial", "fused"), ("fused", "serial")], ids="->".join)
@pytest.mark.parametrize("optimizer", STACKED)
def test_what_one_kind_stops_with_the_other_goes_on_from(digits, make_trial, optimizer, kinds):
    decay = DECAYS["cosine"](decay_steps=40)
    trial = make_trial(optimizer=optimizer, model=DROPPING, decay=decay, steps=40, average=0.99)
    assert_near(cut_by_chance(kinds, digits, "float64", [trial]), train(["serial"], digits, "float64", [trial]))


@pytest.mark.parametrize("kinds", [("serial", "fused"), ("fused", "serial")], ids="->".join)
def test_events_go_on_with_the_other_kind(digits, make_trial, kinds):
    trials = [eventful(make_trial, number) for number in range(3)]
    assert_near(cut_by_chance(kinds, digits, "float64", trials), train(["serial"], digits, "float64", trials))


@pytest.mark.parametrize("kinds", [("serial", "fused"), ("fused", "serial")], ids="->".join)
def test_a_norm_goes_on_with_the_other_kind(digits, make_trial, kinds):
    trial = make_trial(model=NORMED, steps=40)
    assert_near(cut_by_chance(kinds, digits, "float64", [trial]), train(["serial"], digits, "float64", [trial]))


def assert_near(found, expected):
    """Assert equality within the tolerance between engines in float64."""
    for number, own in found.items():
        other = expected[number]
        np.testing.assert_allclose(own.rows, other.rows, rtol=1e-8)
        assert [step for step, _ in own.evaluations] == [step for step, _ in other.evaluations]
        for (_, metrics), (_, wanted) in zip(own.evaluations, other.evaluations, strict=True):
            assert metrics == pytest.approx(wanted, rel=1e-8)
        assert (own.events, own.status) == (other.events, other.status)
        held, wanted = content(own.state), content(other.state)
        for part in ("model", "average"):
            torch.testing.assert_close(held[part], wanted[part], rtol=1e-6, atol=1e-9)
        for part in ("events", "mistakes", "seen", "global_step"):
            assert held[part] == wanted[part]
        assert held["memories"].keys() == wanted["memories"].keys()
        for name, memory in held["memories"].items():
            assert memory == pytest.approx(wanted["memories"][name], rel=1e-8)


@pytest.mark.parametrize("kinds", [("serial",), ("fused",), ("serial", "fused")], ids="->".join)
def test_a_training_that_goes_on_diverges_where_it_would_have(line, make_trial, kinds):
    trial = make_trial(model=LINEAR, optimizer="sgd", lr=1e6, batch_size=16, steps=80, eval_every=100)
    whole = train(kinds[:1], line, "float64", [trial])
    assert whole[0].status is Status.DIVERGED
    assert len(whole[0].rows) > 12
    found = cut_by_chance(kinds, line, "float64", [trial])
    assert found[0].status is Status.DIVERGED
    assert [row[0] for row in found[0].rows] == [row[0] for row in whole[0].rows]
    assert found[0].evaluations == whole[0].evaluations
    if len(kinds) == 1:
        assert_same(found, whole)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_state_is_a_copy(digits, make_trial, kind):
    """Further training does not change the state, and a trial can resume from it twice."""
    trial = make_trial(optimizer="adam", model=DROPPING, steps=30)
    whole = train([kind], digits, "float64", [trial])
    engine = built(kind, digits, "float64")
    engine.start(trial)
    engine.advance()
    (given,) = engine.snapshots()
    before = given.state.content
    engine.advance()
    assert given.state.content == before
    for _ in range(2):
        again = built(kind, digits, "float64")
        again.start(replace(trial, state=given.state, keeps_state=True))
        reached = [progress for _ in range(2) for progress in again.advance()]
        rows = [row for p in reached for part in p.rows for row in zip(part.steps, part.lr, part.loss, strict=True)]
        assert rows == whole[0].rows[10:]
        assert_equal(content(reached[-1].state), content(whole[0].state))


def test_what_a_model_of_its_own_draws_goes_on_in_the_serial_engine(digits, make_trial):
    noisy = Component("model", f"{__name__}.Noisy", {}, trusted=(__name__,))
    trial = make_trial(model=noisy, steps=30)
    assert_same(
        cut_by_chance(["serial"], digits, "float64", [trial], cuts=0.8), train(["serial"], digits, "float64", [trial])
    )


class Noisy(Normed):
    """Draws noise from torch's default generator."""

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)
