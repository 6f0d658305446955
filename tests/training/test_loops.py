"""Test users' training loops in an engine."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweep.components import Component
from sweep.config import EngineConfig
from sweep.core import Progress, Status, Trial
from sweep.errors import InvalidValueError
from sweep.loops import LoopConfig
from sweep.messages import Work
from sweep.pool import PooledEngine, Trainer
from sweep.schedules import DECAYS, Event
from sweep.tracebacks import summary, user_traceback
from sweep.training import CPU
from sweep.training import loop as engine_of_loops
from sweep.training import run as run_of_loops
from sweep.training.loop import LoopEngine, UnusableProcessError, check_loop
from tests.training import user_loops

STEPS, EVERY = 25, 10


@pytest.fixture
def make_loop(make_trial):
    """Build a trial with a loop of user_loops."""

    def make(name, number=0, seed=3, *, final=False, keeps_state=False, keys=None, lr=0.05, **further) -> Trial:
        trial = make_trial(number, seed, lr=lr, **{"steps": STEPS, "eval_every": EVERY, **further})
        target = f"{user_loops.__name__}.{name}"
        component = Component("loop", target, keys or {}, trusted=(user_loops.__name__,))
        config = replace(trial.config, loop=LoopConfig(component), resolved={"loop": {"name": name}})
        return replace(trial, config=config, final=final, keeps_state=keeps_state)

    return make


@pytest.fixture
def make_engine(tmp_path):
    """Build an engine for a trial."""
    begun = []

    def make(trial, metric="val_loss") -> LoopEngine:
        engine = LoopEngine(CPU, Work([trial.config], 1, False, metric, str(tmp_path / "loops")))
        begun.append(engine)
        return engine

    yield make
    for engine in begun:
        if engine._slot is not None:
            engine.stop(engine._slot.trial)


def decayed(steps: int) -> dict[str, object]:
    return {"decay": DECAYS["exponential"](decay_rate=0.5, decay_steps=steps)}


def trained(engine, trial, train):
    return train(engine, trial)[trial.number]


@pytest.mark.parametrize("seed", [0, 3])
def test_two_optimizers_in_a_loop_give_what_the_plain_script_gives(make_loop, make_engine, train, seed):
    trial = make_loop("two", seed=seed, **decayed(7))
    history = trained(make_engine(trial), trial, train)
    curve = trial.config.schedule.curve(STEPS)
    losses, evaluations = user_loops.script(curve.tolist(), seed, EVERY)
    assert history.status is Status.COMPLETE
    assert history.steps == list(range(STEPS))
    np.testing.assert_allclose(history.lr, curve, rtol=1e-12, atol=0)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-12, atol=0)
    found = {evaluation.step: evaluation.metrics["val_loss"] for evaluation in history.evaluations}
    assert found == pytest.approx(evaluations, rel=1e-12, abs=0)
    assert [evaluation.metrics["global_step"] for evaluation in history.evaluations] == [10, 20, 25]


def losses_of(parts: list[Progress]) -> list[float]:
    return [loss for part in parts for rows in part.rows for loss in rows.loss.tolist()]


def paused_after(engine, updates: int) -> list[Progress]:
    """Train until a pause after a number of updates; return all progress, the last with the state."""
    engine.pause = lambda: engine._slot.session.step >= updates
    given: list[Progress] = []
    while engine._slot.session.step < updates:
        given += engine.advance()
    (last,) = engine.snapshots()
    assert last.state is not None
    assert last.state.step == updates
    return [*given, last]


@pytest.mark.parametrize("updates", [1, 9, 10, 11, 24])
def test_a_loop_that_was_interrupted_equals_one_that_was_not(make_loop, make_engine, train, updates):
    trial = make_loop("two", **decayed(7))
    expected = trained(make_engine(trial), trial, train)
    engine = make_engine(trial)
    engine.start(trial)
    before = paused_after(engine, updates)
    engine.stop(trial)
    again = replace(trial, state=before[-1].state)
    after = trained(make_engine(trial), again, train)
    assert losses_of(before) + after.loss == expected.loss
    assert after.steps == list(range(updates, STEPS))
    evaluations = [part.evaluation for part in before if part.evaluation is not None] + after.evaluations
    assert evaluations == expected.evaluations


def test_a_state_that_is_asked_for_too_early_is_given_as_soon_as_the_loop_offers_one(make_loop, make_engine):
    trial = make_loop("two")
    engine = make_engine(trial)
    engine.start(trial)
    assert list(engine.snapshots()) == []
    (progress,) = engine.advance()
    assert progress.state is not None
    assert progress.state.step == 1
    assert [len(rows.lr) for rows in progress.rows] == [1]
    (progress,) = engine.advance()
    assert progress.state is None
    assert progress.evaluation is not None


def test_the_state_at_the_end_trains_on(make_loop, make_engine, train):
    longer = make_loop("two", steps=35)
    expected = trained(make_engine(longer), longer, train)
    trial = make_loop("two", keeps_state=True)
    engine = make_engine(trial)
    engine.start(trial)
    reached: list[Progress] = []
    while not reached or reached[-1].status is None:
        reached += engine.advance()
    assert reached[-1].state is not None
    more = replace(trial, first=STEPS, state=reached[-1].state)
    config = replace(trial.config, train=replace(trial.config.train, more_steps=10))
    history = trained(make_engine(trial), replace(more, config=config), train)
    assert losses_of(reached) + history.loss == expected.loss


def test_a_trial_that_is_stopped_leaves_its_loop_and_another_one_is_trained(make_loop, make_engine, train, tmp_path):
    file = tmp_path / "left"
    trial = make_loop("two", keys={"file": str(file)})
    engine = make_engine(trial)
    engine.start(trial)
    engine.advance()
    assert engine.free == 0
    engine.stop(trial)
    assert engine.free == 1
    assert file.read_text() == "left at 9\n"
    assert not [thread for thread in threading.enumerate() if thread.name == "sweep-loop"]
    other = make_loop("two", 1)
    assert trained(engine, other, train).status is Status.COMPLETE


def test_a_loop_that_ignores_the_end_needs_another_process(make_loop, make_engine, monkeypatch):
    monkeypatch.setattr(engine_of_loops, "LOOP_EXIT_SECONDS", 0.1)
    trial = make_loop("steps", keys={"do": "deaf"})
    engine = make_engine(trial)
    engine.start(trial)
    engine.advance()
    with pytest.raises(UnusableProcessError, match="ignores the end"):
        engine.stop(trial)
    with pytest.raises(UnusableProcessError):
        engine.start(trial)
    with pytest.raises(UnusableProcessError):
        engine.close()


REFUSALS = {
    "before": "calls run.record outside of a step",
    "skips": "skips step 3: run.record(loss) must be called once in each step",
    "early": "returns after 3 of 25 updates: it must make an update for every step of run.steps()",
    "unasked": "records step 3 without its rate: call run.lr(step)",
    "other rate": "used the rate 0.0505 in step 0, but the schedule's rate is 0.05",
    "vector": "reports loss=a tensor of shape [2] in step 0: it must be one number",
    "evaluates first": "evaluates in step 0 before run.record(loss)",
    "twice": "records step 3 twice: run.record(loss) must be called once in each step",
    "never": "reports no val_loss after 10 updates, where an evaluation is due: if run.evaluating(step): run.evaluate(",
    "other metric": "reports no val_loss after 10 updates",
    "always": "evaluates after 1 updates, where no evaluation is due (train.eval_every=10)",
    "name": "reports the metric accuracy: names must begin with val_",
    "test": "reports test_loss, but only final runs may use the test split",
    "metric twice": "reports val_loss twice after 10 updates",
    "no function": "passes a dict to run.checkpoint: it must be a function that returns the state",
    "again": "calls run.steps() twice",
    "beyond": "calls run.record outside of a step",
}


def error_of(engine, trial) -> BaseException:
    engine.start(trial)
    with pytest.raises(BaseException) as raised:  # noqa: PT011, PT012 (which one is for the test to say)
        while True:
            assert all(progress.status is None for progress in engine.advance())
    engine.stop(trial)
    return raised.value


@pytest.mark.parametrize("do", REFUSALS)
def test_what_a_loop_does_wrong_is_refused_in_one_line(make_loop, make_engine, do):
    trial = make_loop("steps", keys={"do": do})
    error = error_of(make_engine(trial), trial)
    assert isinstance(error, InvalidValueError)
    assert str(error).startswith(f"loop._target_={user_loops.__name__}.steps: {REFUSALS[do]}")
    assert "\n" not in summary(error)


@pytest.mark.parametrize(("do", "said"), [("unstorable", "that cannot be stored: "), ("nothing", "returns None")])
def test_a_state_that_cannot_be_stored_is_refused(make_loop, make_engine, do, said):
    trial = make_loop("steps", keys={"do": do})
    engine = make_engine(trial)
    engine.start(trial)
    list(engine.snapshots())
    with pytest.raises(InvalidValueError, match=said):
        engine.advance()


def test_a_loop_that_catches_a_refusal_is_refused_all_the_same(make_loop, make_engine):
    trial = make_loop("swallows")
    assert "records step 0 without its rate" in str(error_of(make_engine(trial), trial))


def test_a_crash_shows_the_frames_of_the_user_and_the_next_trial_is_trained(make_loop, make_engine, train):
    trial = make_loop("steps", keys={"do": "crash"})
    engine = make_engine(trial)
    error = error_of(engine, trial)
    assert summary(error).startswith("ArithmeticError: step 3 is bad (")
    frames = [line for line in user_traceback(error).splitlines() if " in " in line]
    assert [line.rpartition(" in ")[2] for line in frames][-2:] == ["steps", "explode"]
    other = make_loop("steps", 1, keys={"do": ""})
    assert trained(engine, other, train).status is Status.COMPLETE


@pytest.mark.parametrize("do", ["nan", "nan tensor"])
def test_a_loss_that_is_not_finite_ends_the_trial_as_diverged(make_loop, make_engine, train, do):
    trial = make_loop("steps", keys={"do": do})
    history = trained(make_engine(trial), trial, train)
    assert history.status is Status.DIVERGED
    assert history.steps == [0, 1, 2, 3]
    assert np.isnan(history.loss[-1])
    assert history.evaluations[-1].step == 4


@pytest.mark.parametrize("do", ["", "nan tensor"])
def test_losses_on_a_device_are_read_at_the_evaluations(make_loop, make_engine, train, monkeypatch, do):
    """The losses, and the end of a diverging trial, do not depend on when losses are read."""
    trial = make_loop("steps", keys={"do": do})
    expected = trained(make_engine(trial), trial, train)
    monkeypatch.setattr(run_of_loops, "SYNCHRONOUS_DEVICES", ())
    history = trained(make_engine(trial), trial, train)
    np.testing.assert_array_equal(history.loss, expected.loss)
    assert (history.steps, history.evaluations) == (expected.steps, expected.evaluations)
    assert history.status is expected.status


def test_a_metric_that_is_not_finite_ends_the_trial_as_diverged(make_loop, make_engine, train):
    trial = make_loop("steps", keys={"do": "nan metric"})
    history = trained(make_engine(trial), trial, train)
    assert history.status is Status.DIVERGED
    assert history.steps == list(range(10))
    assert history.evaluations[-1].metrics == {"global_step": 10.0}


def test_a_reported_rate_may_be_a_float32(make_loop, make_engine, train):
    trial = make_loop("steps", keys={"do": "reported"}, lr=0.1)
    history = trained(make_engine(trial), trial, train)
    assert history.status is Status.COMPLETE
    assert history.lr == [float(np.float32(0.1))] * STEPS


def test_a_scheduler_of_torch_takes_the_rates_of_the_run(make_loop, make_engine, train):
    trial = make_loop("scheduled", **decayed(7))
    history = trained(make_engine(trial), trial, train)
    assert history.lr == trial.config.schedule.curve(STEPS).tolist()


VALUES = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9]
PLATEAU = {"decay": DECAYS["plateau"](factor=0.5, patience=1), "steps": 60}


def test_a_plateau_sees_the_evaluations_of_a_loop(make_loop, make_engine, train):
    trial = make_loop("watched", keys={"values": VALUES}, lr=0.8, **PLATEAU)
    history = trained(make_engine(trial), trial, train)
    assert history.loss == history.lr == [0.8] * 40 + [0.4] * 20


@pytest.mark.parametrize("updates", [25, 30, 39, 40, 45])
def test_what_a_plateau_remembers_is_part_of_the_state(make_loop, make_engine, train, updates):
    trial = make_loop("watched", keys={"values": VALUES}, lr=0.8, **PLATEAU)
    engine = make_engine(trial)
    engine.start(trial)
    before = paused_after(engine, updates)
    engine.stop(trial)
    assert before[-1].events == ((Event(40, "plateau"),) if updates >= 40 else ())
    after = trained(make_engine(trial), replace(trial, state=before[-1].state), train)
    assert losses_of(before) + after.loss == [0.8] * 40 + [0.4] * 20


def test_a_loop_draws_by_its_seed_alone(make_loop, make_engine, train):
    first, other = make_loop("drawing", 0, seed=5), make_loop("drawing", 1, seed=6)
    engine = make_engine(first)
    expected = trained(engine, first, train)
    trained(engine, other, train)
    again = trained(engine, replace(first, number=2), train)
    assert again.loss == expected.loss
    assert again.evaluations[0].metrics == expected.evaluations[0].metrics


def test_a_final_run_reports_the_test_split_at_its_end(make_loop, make_engine, train):
    trial = make_loop("two", final=True)
    history = trained(make_engine(trial), trial, train)
    assert [sorted(evaluation.metrics) for evaluation in history.evaluations] == [
        ["global_step", "val_loss"], ["global_step", "val_loss"], ["global_step", "test_loss", "val_loss"]
    ]  # fmt: skip
    other = make_loop("steps", final=True, keys={"do": ""})
    error = error_of(make_engine(other), other)
    assert str(error).endswith("no test_loss at the end of a final run: if run.test: run.evaluate(test_loss=...)")


def test_an_unknown_or_missing_key_is_refused_before_anything_is_trained(make_loop):
    with pytest.raises(InvalidValueError, match=r"loop.widht=3: is not a key of .*did you mean width"):
        check_loop(make_loop("two", keys={"widht": 3}).config)
    with pytest.raises(InvalidValueError, match=r"cannot be called with \(run\): missing a required argument: 'do'"):
        check_loop(make_loop("steps").config)
    check_loop(make_loop("steps", keys={"do": ""}).config)


def test_a_loop_keeps_files_of_its_own_in_a_folder_of_its_trial(make_loop, make_engine, train, tmp_path):
    trial = make_loop("two", 7)
    trained(make_engine(trial), trial, train)
    assert list(Path(tmp_path).glob("loops/7")) == []  # it kept none


@pytest.fixture
def pooled(tmp_path):
    """Start an engine in a separate process."""
    begun = []

    def make(trial, trials=2) -> PooledEngine:
        work = Work([trial.config], trials, False, "val_loss", str(tmp_path / "loops"))
        begun.append(PooledEngine(Trainer(), EngineConfig("auto"), work))
        return begun[-1]

    yield make
    for engine in begun:
        engine.close()
        engine._trainer.close()


def reached(engine: PooledEngine) -> list[Progress]:
    """Return the next progress."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := engine.advance():
            return list(found)
    raise AssertionError("nothing is reached")


def test_a_loop_that_ignores_the_end_does_not_hang_the_trainer(make_loop, pooled):
    deaf = make_loop("steps", 0, keys={"do": "deaf"}, steps=300_000)  # so many that it is stopped before its end
    other = make_loop("steps", 1, keys={"do": ""})
    engine = pooled(deaf)
    engine.start(deaf)
    assert reached(engine)[0].evaluation.step == 10
    before = engine._trainer.pid
    engine.stop(deaf)
    engine.start(other)
    steps, last = [], None
    while last is None:
        for progress in reached(engine):
            assert progress.trial == 1
            steps += [step for rows in progress.rows for step in rows.steps.tolist()]
            last = progress.status
    assert last is Status.COMPLETE
    assert steps == list(range(STEPS))
    assert engine._trainer.pid != before


def test_a_loop_is_trained_in_another_process_and_its_errors_come_back(make_loop, pooled):
    failing, other = make_loop("steps", 0, keys={"do": "skips"}), make_loop("steps", 1, keys={"do": ""})
    engine = pooled(failing)
    engine.start(failing)
    engine.start(other)
    (progress,) = reached(engine)
    assert progress.status is Status.FAILED
    assert progress.failure is not None
    rule = "skips step 3: run.record(loss) must be called once in each step"
    assert progress.failure.reason.startswith(f"loop._target_={user_loops.__name__}.steps: {rule}")
    while (progress := reached(engine)[0]).status is None:
        assert progress.trial == 1
    assert progress.status is Status.COMPLETE
    assert engine.account.name == "serial"
    assert engine.account.why == "the loop steps trains one trial at a time"
