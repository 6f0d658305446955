"""An engine in a process of its own."""

import os
import signal
import time

import pytest
from torch import nn

from sweep.config import Component, EngineConfig
from sweep.core import Status
from sweep.training import CPU, EngineProcess, SerialEngine, Work


class Failing(nn.Module):
    """Raises at the hundredth batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(64, 10), 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 100:
            raise RuntimeError("the hundredth batch")
        return self.linear(x.flatten(1))


@pytest.fixture
def apart(digits, make_trial):
    """Engines in processes of their own, which end with the test."""
    begun = []

    def make(name="serial", slots=None, *, trials=8, learns=True, **keys):
        like = [make_trial(**keys).config]
        begun.append(EngineProcess(EngineConfig(name, slots), digits, CPU, Work(like, trials, learns)))
        return begun[-1]

    yield make
    for engine in begun:
        engine.close()


@pytest.mark.parametrize(("name", "slots"), [("serial", None), ("fused", 3)])
def test_it_gives_what_the_engine_gives(apart, make_trial, train, digits, name, slots):
    trials = [make_trial(n, seed=n, lr=0.02 * (n + 1)) for n in range(5)]
    expected = train(SerialEngine(digits, CPU, "float64"), *trials)
    for number, history in train(apart(name, slots), *trials).items():
        assert history.loss == pytest.approx(expected[number].loss, rel=1e-9)
        assert history.lr == expected[number].lr
        assert [e.step for e in history.evaluations] == [e.step for e in expected[number].evaluations]


def test_trials_are_taken_ahead_unless_each_proposal_depends_on_the_last_result(apart):
    assert apart("serial", learns=True).free == 1
    assert apart("serial", learns=False).free == 2
    assert apart("fused", 3, learns=True).free == 6


def reached(engine):
    """What is reached next."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := engine.advance():
            return found
    raise AssertionError("nothing is reached")


def until_it_raises(engine):
    while True:
        reached(engine)


def test_boundaries_of_a_trial_come_one_at_a_time_in_order(apart, make_trial):
    engine = apart()
    engine.start(make_trial(0, steps=50, eval_every=10))
    reached(engine)
    time.sleep(1)  # the engine has gone on meanwhile, to the end
    for step in (20, 30, 40, 50):
        (progress,) = reached(engine)
        assert progress.evaluation.step == step
    assert progress.status is Status.COMPLETE


def test_what_is_reached_comes_in_its_order(apart, make_trial):
    """No boundary of the next trial before the end of the one before it: a pruner compares with what has ended."""
    engine = apart(learns=False)
    engine.start(make_trial(0, steps=30, eval_every=10))
    engine.start(make_trial(1, steps=30, eval_every=10))
    engine.account  # noqa: B018 (waits until it is chosen)
    time.sleep(2)
    came = []
    while engine.free < 2:
        came += [(progress.trial, progress.evaluation.step) for progress in reached(engine)]
    assert came == [(0, 10), (0, 20), (0, 30), (1, 10), (1, 20), (1, 30)]


def test_a_stop_that_comes_late_does_not_stop_the_next_trial(apart, make_trial):
    engine = apart(learns=False)
    engine.start(first := make_trial(0, steps=20, eval_every=10))
    engine.start(make_trial(1, steps=2000, eval_every=100))
    reached(engine)
    time.sleep(0.3)  # the first has ended there, but not here
    engine.stop(first)
    steps = []
    while engine.free < 2:
        steps += [progress.evaluation.step for progress in reached(engine)]
    assert steps == list(range(100, 2001, 100))


def test_what_a_stopped_trial_reached_meanwhile_is_forgotten(apart, make_trial):
    engine = apart()
    engine.start(trial := make_trial(0, steps=50, eval_every=10))
    reached(engine)
    time.sleep(1)
    engine.stop(trial)
    assert engine.free == 1
    assert engine.advance() == []
    engine.start(make_trial(0, steps=20, eval_every=10))  # under the same number
    assert [reached(engine)[0].evaluation.step for _ in range(2)] == [10, 20]


def test_a_trial_that_is_stopped_before_its_turn_is_not_trained(apart, make_trial):
    engine = apart(learns=False)
    first, second = make_trial(0, steps=400, eval_every=10), make_trial(1)
    engine.start(first)
    engine.start(second)
    engine.stop(second)
    seen = set()
    while engine.free < 2:
        seen |= {progress.trial for progress in reached(engine)}
    assert seen == {0}


def test_what_fails_there_is_raised_here(apart, make_trial):
    failing = Component("model", f"{__name__}.Failing", {}, trusted=(__name__,))
    engine = apart(model=failing)
    engine.start(make_trial(0, model=failing, steps=200, eval_every=50))
    with pytest.raises(RuntimeError, match=r"(?s)the training failed:.*the hundredth batch"):
        until_it_raises(engine)


def test_a_process_that_was_killed_is_noticed(apart, make_trial):
    engine = apart()
    engine.start(make_trial(0, steps=100_000, eval_every=10))
    reached(engine)
    os.kill(engine._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"^the training process was killed by signal 9$"):
        until_it_raises(engine)


def test_a_signal_of_the_terminal_does_not_end_it(apart, make_trial):
    engine = apart()
    engine.start(make_trial(0, steps=60, eval_every=10))
    reached(engine)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(engine._process.pid, number)
    while engine.free == 0:
        (last,) = reached(engine)
    assert last.status is Status.COMPLETE


def test_it_ends_when_it_is_closed(apart, make_trial):
    engine = apart()
    engine.start(make_trial(0, steps=1_000_000, eval_every=1000))
    engine.account  # noqa: B018 (waits until it is chosen)
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 20
    assert not engine._process.is_alive()


def test_its_account(apart, make_trial):
    engine = apart("fused", 2)
    for number in range(4):
        engine.start(make_trial(number, steps=50, eval_every=10))
    while engine.free < 4:
        reached(engine)
    account = engine.finished()
    assert (account.name, account.slots, account.compiled, account.updates) == ("fused", 2, False, 200)
    assert account.why == "as asked for"
    assert account.busy == 1.0
    assert 0 <= account.waited < account.seconds
    assert account.prepared > 0
