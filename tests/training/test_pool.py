"""Test engines in training processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sweep import forking
from sweep.components import Component
from sweep.config import EngineConfig
from sweep.core import Status
from sweep.messages import Work
from sweep.pool import PooledEngine, Trainer
from sweep.training import CPU, SerialEngine


class Failing(nn.Module):
    """Raises an error at a chosen place if it was built with seed 1.

    Args:
        how: init, forward, evaluation, exit, interrupt, left, which ends the process, asleep, which does not come back,
            or own, which is an error that cannot be pickled; all but the first at a batch of a training or after it.
        at: which batch.
    """

    def __init__(self, input_shape, n_outputs, how, at=100) -> None:
        super().__init__()
        self.linear, self.calls, self.at = nn.Linear(64, n_outputs), 0, at
        self.how = how if torch.initial_seed() == 1 else ""
        if self.how == "init":
            raise KeyError("width")

    def forward(self, x):
        self.calls += self.training
        if self.how and self.calls >= self.at and self.training is (self.how != "evaluation"):
            self.fail()
        return self.linear(x.flatten(1))

    def fail(self):
        if self.how == "exit":
            sys.exit()
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "asleep":
            time.sleep(1000)
        if self.how == "left":
            os._exit(5)
        if self.how == "own":
            raise OwnError(1, "mine")
        raise RuntimeError("a bad batch")


class OwnError(Exception):
    def __init__(self, code, text) -> None:
        super().__init__(text)
        self.file = open(os.devnull)  # noqa: SIM115


def failing(how, **keys):
    return Component("model", f"{__name__}.Failing", {"how": how, **keys}, trusted=(__name__,))


@pytest.fixture
def apart(make_trial):
    """Start engines in separate processes, and end them after the test."""
    begun = []

    def make(
        name="serial", slots=None, *, trials=8, learns=True, seconds=60.0, like_seed=99, compiled=False, of=None, **keys
    ):
        given = {"retries": 0, "say": print} | {key: keys.pop(key) for key in ("retries", "say") if key in keys}
        like = make_trial(**keys).config
        keys = {"checkpoint_seconds": seconds, "seed": like_seed, "compile": compiled}
        like = replace(like, train=replace(like.train, **keys))
        work = Work([like], trials, learns)
        begun.append(PooledEngine(Trainer(), EngineConfig(name, slots), work, **given, **(of or {})))
        return begun[-1]

    yield make
    for engine in begun:
        engine.close()
        engine._trainer.close()


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
    """Return the next progress."""
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
    """A trial's boundary never precedes the end of an earlier trial, because a pruner compares with ended trials."""
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


REASONS = {
    "forward": "RuntimeError: a bad batch (",
    "evaluation": "RuntimeError: a bad batch (",
    "exit": "SystemExit (",
    "interrupt": "KeyboardInterrupt (",
    "own": "OwnError: mine (",
}


def fails_alone(engine, make_trial, how):
    """Train four trials, of which the one with seed 1 fails. Return the results of the others and of the failed one."""
    model = failing(how)
    trials = [make_trial(n, seed=n, model=model, steps=300, eval_every=50) for n in range(4)]
    waiting, ended, losses = list(trials), {}, {trial.number: [] for trial in trials}
    while len(ended) < 4:
        while waiting and engine.free:
            engine.start(waiting.pop(0))
        for progress in engine.advance():
            assert progress.trial not in ended
            for part in progress.rows:
                assert part.first == len(losses[progress.trial]), "a row is missing, or given twice"
                losses[progress.trial] += part.loss.tolist()
            if progress.status is not None:
                ended[progress.trial] = progress
    failed = ended.pop(1)
    assert (failed.status, [end.status for end in ended.values()]) == (Status.FAILED, [Status.COMPLETE] * 3)
    del losses[1]
    return failed.failure, losses


@pytest.mark.parametrize("how", REASONS)
def test_an_error_is_the_failure_of_its_trial_alone(apart, make_trial, train, digits, how):
    engine = apart(learns=False, retries=3)
    first = engine.account and engine._trainer.pid
    failure, losses = fails_alone(engine, make_trial, how)
    assert failure.reason.startswith(REASONS[how])
    assert failure.reason.endswith(" in fail)")
    assert "    self.fail()\n" in failure.details
    assert "site-packages" not in failure.details
    healthy = [make_trial(n, seed=n, model=failing(how), steps=300, eval_every=50) for n in (0, 2, 3)]
    expected = train(SerialEngine(digits, CPU, "float64"), *healthy)
    assert losses == {number: history.loss for number, history in expected.items()}
    assert engine._trainer.pid == first  # nothing was begun anew


def test_an_error_in_an_update_of_several_trials_is_the_failure_of_one(apart, make_trial, train, digits):
    """The module in the stacked update is built with the seed of `like`."""
    said, model = [], failing("forward")
    keys = {"model": model, "steps": 300, "eval_every": 50}
    engine = apart("fused", 3, learns=False, like_seed=1, seconds=1e6, say=said.append, **keys)
    failure, losses = fails_alone(engine, make_trial, "forward")
    assert failure.reason.startswith(REASONS["forward"])
    (line,) = said
    assert line == f"an error in an update of several trials ({failure.reason}): continuing with one trial at a time"
    assert engine.account.name == "serial"
    healthy = [make_trial(n, seed=n, **keys) for n in (0, 2, 3)]
    for number, history in train(SerialEngine(digits, CPU, "float64"), *healthy).items():
        assert losses[number] == pytest.approx(history.loss, rel=1e-8)


@pytest.mark.parametrize(("name", "slots"), [("serial", None), ("fused", 3)])
def test_a_model_that_cannot_be_built_is_the_failure_of_its_trial_alone(apart, make_trial, name, slots):
    said = []
    engine = apart(name, slots, learns=False, model=failing("init"), say=said.append)
    failure, losses = fails_alone(engine, make_trial, "init")
    assert failure.reason.startswith("model={how: init}: was refused by test_pool.Failing: KeyError: 'width' (")
    assert 'raise KeyError("width")' in failure.details
    assert [len(losses[number]) for number in losses] == [300] * 3
    assert (said, engine.account.name) == ([], name)


def test_a_process_that_the_user_ends_is_lost_and_its_trial_tried_again(apart, make_trial):
    said = []
    failure, _ = fails_alone(apart(learns=False, retries=1, say=said.append), make_trial, "left")
    assert said == [
        "the training process ended with status 5: retrying trial 1",
        "the training process ended with status 5: trial 1 has failed",
    ]
    assert failure.reason == "the training process ended with status 5, at the last of 2 attempts"


@pytest.mark.parametrize("how", ["forward", "exit", "left"])
def test_an_engine_that_cannot_be_tried_is_not_chosen(apart, make_trial, how):
    """The model raises an error while its speed is measured, so the trials are trained one at a time."""
    said = []
    model = failing(how, at=5)
    engine = apart("auto", trials=10_000, learns=False, like_seed=1, model=model, steps=300, say=said.append)
    assert engine.free == 2
    assert engine.account.name == "serial"
    if how == "left":
        assert said == ["the training process ended with status 5: continuing with one trial at a time"]
    else:
        assert engine.account.why.startswith(f"no other engine could be tried: {REASONS[how]}")


def test_a_trial_is_begun_when_its_training_is_and_once(apart, make_trial):
    begun, model = [], failing("left")
    engine = apart(learns=False, retries=1, of={"on_begun": lambda trial: begun.append(trial.number)})
    engine.start(make_trial(1, seed=1, model=model, steps=300, eval_every=50))
    engine.start(make_trial(2, seed=2, model=model, steps=300, eval_every=50))
    reached(engine)
    assert begun == [1]
    while engine.free < 2:
        engine.advance()
    assert begun == [1, 2]


class Trapped(nn.Module):
    """Fails in the way that the file `trap` describes, `times` times in all, or always with -1.

    Args:
        trap: path of the file.
    """

    def __init__(self, input_shape, n_outputs, trap, times=1) -> None:
        super().__init__()
        self.linear, self.trap, self.times = nn.Linear(64, n_outputs), trap, times

    def forward(self, x):
        trap = Path(self.trap)
        try:
            how = trap.read_text() if self.training else ""
        except FileNotFoundError:  # there is none, or another worker has fallen into it
            how = ""
        if how:  # a file that is being written may still be empty
            if self.times > 0:
                trap.unlink(missing_ok=True)
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
    """Return a model and the file that makes it fail."""

    def make(times=1):
        arguments = {"trap": str(tmp_path / "trap"), "times": times}
        return Component("model", f"{__name__}.Trapped", arguments, trusted=(__name__,)), tmp_path / "trap"

    return make


def history(engine, *trials, then=lambda: None):
    """Start trials at once, and return all rows, evaluations and their status. Check that rows are consecutive.

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
    found = history(engine, trial, then=lambda: os.kill(engine._trainer.pid, signal.SIGKILL))
    assert found == expected
    assert said == ["the training process was killed by signal 9: retrying trial 0"]
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
    os.kill(engine._trainer.pid, signal.SIGKILL)
    while not (found := [part for progress in reached(engine) for part in progress.rows]):
        pass
    assert found[0].first >= step


def test_many_at_once_go_on_with_fewer_at_once(apart, make_trial, train, digits):
    said = []
    keys = {"steps": 120, "eval_every": 10}
    trials = [make_trial(number, seed=number, lr=0.02 * (number + 1), **keys) for number in range(5)]
    expected = train(SerialEngine(digits, CPU, "float64"), *trials)
    engine = apart("fused", 4, learns=False, seconds=0.5, say=said.append)
    found = history(engine, *trials, then=lambda: os.kill(engine._trainer.pid, signal.SIGKILL))
    assert said == ["the training process was killed by signal 9: continuing with fewer than 4 trials at once"]
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
    assert line.endswith("): continuing with fewer than 2 trials at once")
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
        "retrying trial 0",
        "retrying trial 0",
        "trial 0 has failed",
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
    os.kill(engine._trainer.pid, signal.SIGKILL)
    engine._trainer._process.join()
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
        os.kill(engine._trainer.pid, number)
    while engine.free == 0:
        (last,) = reached(engine)
    assert last.status is Status.COMPLETE


def test_a_process_whose_engine_is_closed_trains_with_the_next_one(apart, make_trial, digits, train):
    engine = apart()
    engine.start(make_trial(0, steps=1_000_000, eval_every=1_000_000))
    engine.account  # noqa: B018 (waits until it is chosen)
    first = engine._trainer.pid
    engine.close()
    trial = make_trial(1, steps=60, eval_every=20)
    after = PooledEngine(engine._trainer, EngineConfig("fused", 2), replace(engine._work, like=[trial.config]))
    expected = train(SerialEngine(digits, CPU, "float64"), trial)[1]
    found = train(after, trial)[1]
    assert engine._trainer.pid == first
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)


def test_a_process_that_does_not_release_its_engine_is_replaced(apart, make_trial):
    engine = apart()
    engine.start(make_trial(0, model=failing("asleep", at=1), seed=1, steps=1000, eval_every=10))
    until_asleep = time.monotonic() + 60
    while not engine._live[1].begun and time.monotonic() < until_asleep:
        engine.advance()
    time.sleep(0.5)
    first = engine._trainer.pid
    engine.close()
    assert engine._trainer.facts(make_trial(0).config.dataset).n_train == 1079
    engine._trainer.check([make_trial(0).config])
    assert engine._trainer.pid != first


def test_its_trainer_ends_when_it_is_closed(apart, make_trial):
    engine = apart()
    engine.start(make_trial(0, steps=1_000_000, eval_every=1000))
    engine.account  # noqa: B018 (waits until it is chosen)
    process, began = engine._trainer._process, time.monotonic()
    engine.close()
    engine._trainer.close()
    assert time.monotonic() - began < 20
    assert not process.is_alive()


def test_compiled_updates_take_over_while_trials_are_trained(apart, make_trial, tmp_path, monkeypatch):
    """The first time another process compiles them, and the second time they come from the cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # torch sets it where something was compiled before
    for before in (False, True):
        said = []
        engine = apart("fused", 2, trials=10**7, learns=False, compiled="auto", say=said.append)
        assert (engine.account.compiled, engine.account.compiles) == (False, not before)
        engine.start(make_trial(0, steps=10**7, eval_every=50))
        rows, until, deadline = 0, None, time.monotonic() + 300
        while until is None or rows < until:
            assert time.monotonic() < deadline
            for progress in reached(engine):
                for part in progress.rows:
                    assert part.first == rows
                    rows += len(part.lr)
            if engine.account.compiled and until is None:
                until = rows + 500
        assert said == ["engine: from now on updates are compiled"]


def test_the_server_does_not_decide_where_compiled_updates_are_kept():
    """By default it would, because importing torch's compiler sets a temporary directory."""
    code = "import os, sweep.training.preloaded; print('TORCHINDUCTOR_CACHE_DIR' in os.environ, flush=True)"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR_")}
    told = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


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
