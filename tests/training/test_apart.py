"""An engine in a process of its own."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sweep import forking
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

    def make(name="serial", slots=None, *, trials=8, learns=True, seconds=60.0, retries=0, say=print, **keys):
        like = make_trial(**keys).config
        like = replace(like, train=replace(like.train, checkpoint_seconds=seconds))
        work = Work([like], trials, learns)
        begun.append(EngineProcess(EngineConfig(name, slots), digits, CPU, work, retries=retries, say=say))
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


class Trapped(nn.Module):
    """Falls into a trap, which is a file with what happens in it; `times` in all, and -1 for always.

    Args:
        trap: path of the file.
    """

    def __init__(self, input_shape, n_outputs, trap, times=1) -> None:
        super().__init__()
        self.linear, self.trap, self.times = nn.Linear(64, n_outputs), trap, times

    def forward(self, x):
        trap = Path(self.trap)
        if self.training and trap.exists():
            how = trap.read_text()
            if self.times > 0:
                trap.unlink()
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ERRORS[how]
        return self.linear(x.flatten(1))


ERRORS = {
    "memory of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee also"),
    "memory of a CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    "memory of Python": MemoryError(),
    "driver": RuntimeError("CUDA error: out of memory"),
}


@pytest.fixture
def trapped(tmp_path):
    """A model, and the file that makes it fall."""

    def make(times=1):
        arguments = {"trap": str(tmp_path / "trap"), "times": times}
        return Component("model", f"{__name__}.Trapped", arguments, trusted=(__name__,)), tmp_path / "trap"

    return make


def history(engine, *trials, then=lambda: None):
    """All rows, evaluations and the status of trials that are started at once; every row is the next one.

    Args:
        then: done after something was reached for the first time.
    """
    found = {trial.number: ([], [], []) for trial in trials}
    for trial in trials:
        engine.start(trial)
    while not all(statuses for _, _, statuses in found.values()):
        for progress in reached(engine):
            rows, evaluations, statuses = found[progress.trial]
            assert not statuses
            for part in progress.rows:
                assert part.first == len(rows), "a row is missing, or given twice"
                rows += zip(part.lr.tolist(), part.loss.tolist(), strict=True)
            if progress.evaluation is not None:
                evaluations.append((progress.evaluation.step, progress.evaluation.metrics))
            statuses += [progress.status] if progress.status is not None else []
        then()
        then = lambda: None  # noqa: E731
    return found


DROPPING = Component("model", "models.mlp.MLP", {"hidden": [16], "dropout": 0.3})


@pytest.mark.parametrize("seconds", [60.0, 0.02])
def test_one_that_was_killed_is_replaced_and_nothing_is_lost_or_given_twice(apart, make_trial, seconds):
    said = []
    trial = make_trial(0, model=DROPPING, optimizer="adam", average=0.9, steps=1500, eval_every=50, precision="float32")
    expected = history(apart(precision="float32"), trial)
    engine = apart(seconds=seconds, retries=1, say=said.append, precision="float32")
    found = history(engine, trial, then=lambda: os.kill(engine._process.pid, signal.SIGKILL))
    assert found == expected
    assert said == ["the training process was killed by signal 9: trial 0 is tried again"]
    assert engine.finished().name == "serial"


def test_one_with_states_goes_on_from_the_last(apart, make_trial):
    engine = apart(seconds=0.05, retries=1)
    engine.start(make_trial(0, steps=100_000, eval_every=100_000))
    while not any(progress.state for progress in reached(engine)):
        pass
    (handed,) = engine._live.values()
    step = handed.trial.state.step
    assert handed.taken == {"": step}
    assert step > 0
    os.kill(engine._process.pid, signal.SIGKILL)
    while not (found := [part for progress in reached(engine) for part in progress.rows]):
        pass
    assert found[0].first >= step


def test_many_at_once_go_on_with_fewer_at_once(apart, make_trial, train, digits):
    said = []
    keys = {"steps": 120, "eval_every": 10}
    trials = [make_trial(number, seed=number, lr=0.02 * (number + 1), **keys) for number in range(5)]
    expected = train(SerialEngine(digits, CPU, "float64"), *trials)
    engine = apart("fused", 4, learns=False, seconds=0.5, say=said.append)
    found = history(engine, *trials, then=lambda: os.kill(engine._process.pid, signal.SIGKILL))
    assert said == ["the training process was killed by signal 9: going on with fewer than 4 trials at once"]
    assert (engine.account.name, engine.account.slots) == ("fused", 2)
    for number, (rows, evaluations, statuses) in found.items():
        wanted = expected[number]
        assert [lr for lr, _ in rows] == wanted.lr
        assert [loss for _, loss in rows] == pytest.approx(wanted.loss, rel=1e-8)
        assert [step for step, _ in evaluations] == [evaluation.step for evaluation in wanted.evaluations]
        assert statuses == [wanted.status] == [Status.COMPLETE]


@pytest.mark.parametrize("how", ERRORS)
def test_where_the_memory_is_too_small_fewer_are_trained_at_once(apart, make_trial, trapped, how):
    said = []
    model, trap = trapped()
    trials = [make_trial(number, model=model, steps=300, eval_every=10) for number in range(2)]
    engine = apart("fused", 2, model=model, say=said.append)
    found = history(engine, *trials, then=lambda: trap.write_text(how))
    assert [statuses for _, _, statuses in found.values()] == [[Status.COMPLETE]] * 2
    assert [len(rows) for rows, _, _ in found.values()] == [300] * 2
    (line,) = said
    assert line.startswith("out of memory (")
    assert line.endswith("): going on with fewer than 2 trials at once")
    assert "\n" not in line
    assert engine.account.name == "serial"


@pytest.mark.parametrize("how", ["killed", "memory of a GPU"])
def test_a_trial_that_it_happens_to_again_and_again_has_failed(apart, make_trial, trapped, how):
    said = []
    model, trap = trapped(times=-1)
    engine = apart(model=model, learns=False, retries=2, say=said.append)
    first, second = (make_trial(number, model=model, steps=300, eval_every=10) for number in range(2))
    found = history(engine, first, then=lambda: trap.write_text(how))
    assert found[0][2] == [Status.FAILED]
    assert [line.rpartition(": ")[2] for line in said] == [
        "trial 0 is tried again",
        "trial 0 is tried again",
        "trial 0 is given up",
    ]
    trap.unlink()
    assert history(engine, second)[1][2] == [Status.COMPLETE]


def test_without_retries_it_has_failed_at_once_and_the_next_is_trained(apart, make_trial, trapped):
    model, trap = trapped()
    engine = apart(model=model, learns=False)
    first, second = (make_trial(number, model=model, steps=300, eval_every=10) for number in range(2))
    found = history(engine, first, second, then=lambda: trap.write_text("killed"))
    assert [statuses for _, _, statuses in found.values()] == [[Status.FAILED], [Status.COMPLETE]]
    assert len(found[1][0]) == 300


# --- states


@pytest.mark.parametrize(("name", "slots"), [("serial", None), ("fused", 3)])
def test_told_to_stop_it_gives_what_it_has_reached_and_where_it_stands(apart, make_trial, name, slots):
    trials = [make_trial(n, seed=n, model=DROPPING, steps=600, eval_every=20) for n in range(slots or 1)]
    expected = history(apart(name, slots), *trials)
    engine = apart(name, slots)
    for trial in trials:
        engine.start(trial)
    given = [*reached(engine), *engine.snapshots()]
    last = {progress.trial: progress for progress in given if progress.state is not None}
    assert sorted(last) == [trial.number for trial in trials]
    rows = {trial.number: [] for trial in trials}
    for progress in given:
        for part in progress.rows:
            assert part.first == len(rows[progress.trial])
            rows[progress.trial] += zip(part.lr.tolist(), part.loss.tolist(), strict=True)
    later = apart(name, slots)
    for trial in trials:
        assert len(rows[trial.number]) == last[trial.number].state.step < 600
        later.start(replace(trial, state=last[trial.number].state))
    while later._live:
        for progress in reached(later):
            for part in progress.rows:
                assert part.first == len(rows[progress.trial])
                rows[progress.trial] += zip(part.lr.tolist(), part.loss.tolist(), strict=True)
    assert rows == {number: of for number, (of, _, _) in expected.items()}


def test_one_that_has_gone_gives_what_it_gave_before(apart, make_trial):
    engine = apart()
    engine.start(make_trial(0, steps=100_000, eval_every=10))
    reached(engine)
    os.kill(engine._process.pid, signal.SIGKILL)
    engine._process.join()
    given = engine.snapshots()
    assert all(progress.state is None for progress in given)


def test_one_that_is_not_chosen_yet_has_nothing_to_give(apart):
    began = time.monotonic()
    assert apart().snapshots() == []
    assert time.monotonic() - began < 3


def test_a_trial_that_is_halted_before_its_first_update_has_a_state(apart, make_trial):
    engine = apart(learns=False)
    engine.account  # noqa: B018 (waits until it is chosen)
    engine.start(make_trial(0, steps=100_000, eval_every=100_000))
    engine.start(make_trial(1, steps=100_000, eval_every=100_000))  # it waits for the first
    states = {progress.trial: progress.state for progress in engine.snapshots()}
    assert set(states) <= {0}


def test_states_come_every_so_many_seconds(apart, make_trial):
    engine = apart("fused", 2, seconds=0.2)
    for number in range(2):
        engine.start(make_trial(number, steps=1_000_000, eval_every=1_000_000))
    times = {0: [], 1: []}
    while min(map(len, times.values())) < 4:
        for progress in reached(engine):
            if progress.state is not None:
                assert progress.state.step == progress.rows[-1].first + len(progress.rows[-1].lr)
                times[progress.trial].append(time.monotonic())
    for of in times.values():
        assert of[3] - of[0] > 0.4


def test_a_signal_of_the_terminal_does_not_end_it(apart, make_trial):
    engine = apart()
    engine.start(make_trial(0, steps=60, eval_every=10))
    reached(engine)
    for number in forking.SIGNALS:
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
