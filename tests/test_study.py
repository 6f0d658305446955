"""Tests the loop of a study with an engine, a proposer, a recorder and a monitor that log their calls."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sweep.core import Checkpoint, Evaluation, Failure, Progress, Result, Rows, Snapshot, Status, Trial
from sweep.schedules import Event
from sweep.study import FixedTrials, run

CLASSES = {"val_loss": 0.5, "val_accuracy": 0.9}


CONFIG = SimpleNamespace(train=SimpleNamespace(steps=100, more_steps=None))


def trial(number):
    return Trial(number, config=CONFIG, seed=0)


def rows(number, first=0):
    return Rows(number, first, lr=np.full(10, 0.1), loss=np.ones(10))


def boundary(number, step, status=None, loss=0.5):
    """Return the progress of ten updates that end at `step`, with an evaluation."""
    evaluation = Evaluation(number, step, CLASSES | {"val_loss": loss, "global_step": float(step)})
    return Progress(number, [rows(number, step - 10)], evaluation, status)


def trained(number, *losses):
    """Return a script with these losses at evaluations, the last one at the end."""
    last = len(losses) - 1
    return [
        boundary(number, 10 * (i + 1), Status.COMPLETE if i == last else None, loss) for i, loss in enumerate(losses)
    ]


def paused(number, first, step):
    """Return the progress of the updates first..step-1 with the state after them."""
    updates = [Rows(number, first, lr=np.full(step - first, 0.1), loss=np.ones(step - first))]
    return Progress(number, updates if step > first else [], None, None, state=Snapshot(step, b"state"))


def kept(number, step, *evaluated):
    """Return a checkpoint with evaluations at these steps."""
    evaluations = [Evaluation(number, at, CLASSES | {"global_step": float(at)}) for at in evaluated]
    return Checkpoint(0, 100, Snapshot(step, b"state"), evaluations, record=b"pending %d" % number)


class Log(list):
    """The calls in their order: (object, method, trial, ...)."""

    def of(self, *what):
        return [event for event in self if event[0] in what]

    def names(self):
        return [event[0] for event in self]


class FakeEngine:
    """An engine that follows a script for each trial: progress or an error at each boundary.

    Args:
        last: what it gives of live trials, in this order, when it is to stop; the state at step 1 by default.
    """

    def __init__(self, log, scripts, slots=1, last=None):
        self.log, self.scripts, self.slots, self.last = log, scripts, slots, last
        self.live, self.states = {}, {}

    @property
    def free(self):
        return self.slots - len(self.live)

    def start(self, trial):
        assert self.free > 0, "there is no free slot"
        self.log.append(("start", trial.number))
        self.states[trial.number] = trial.state
        self.live[trial.number] = iter(self.scripts[trial.number])

    def advance(self):
        assert self.live, "there is nothing to advance"
        self.log.append(("advance", *self.live))
        reached = []
        for number in list(self.live):
            step = next(self.live[number])
            if isinstance(step, BaseException):
                raise step
            if step.status is not None:
                del self.live[number]
            reached.append(step)
        return reached

    def snapshots(self):
        self.log.append(("snapshots", *self.live))
        return [paused(number, 0, 1) for number in self.live] if self.last is None else self.last

    def stop(self, trial):
        self.log.append(("stop", trial.number))
        del self.live[trial.number]  # an error for one that has left its slot


class FakeProposer:
    """Proposes the trials in order, prunes those in `prune` at their steps, and gives up the `hopeless`."""

    def __init__(self, log, numbers, prune=None, hopeless=()):
        self.log, self.waiting, self.prune, self.hopeless = log, list(numbers), prune or {}, hopeless
        self.reported = {}
        self.results = {}

    def ask(self):
        return trial(self.waiting.pop(0)) if self.waiting else None

    def give_up(self, trial):
        return trial.number in self.hopeless

    def report(self, trial, evaluation):
        self.log.append(("report", trial.number, evaluation.step))
        self.reported[trial.number] = evaluation.step

    def should_prune(self, trial, events):
        self.log.append(("should_prune", trial.number))
        return trial.number in self.prune and self.reported.get(trial.number) == self.prune[trial.number]

    def tell(self, trial, result):
        self.log.append(("tell", trial.number))
        assert trial.number not in self.results, "told twice"
        self.results[trial.number] = result

    def kept(self, trial):
        self.log.append(("kept", trial.number))

    def release(self, trial):
        self.log.append(("release", trial.number))


class FakeRecorder:
    """Raises what it is told to at its first call of a name.

    Args:
        whole: what is recorded of trials that were closed before.
        goes_on: whether it goes on with what an interrupted attempt left.
    """

    def __init__(self, log, raises=None, whole=None, goes_on=True):
        self.log, self.raises = log, raises or {}
        self.whole, self.goes_on = whole or {}, goes_on
        self.records = {}
        self.results = {}

    def _write(self, name, *rest):
        self.log.append((name, *rest))
        if name in self.raises:
            raise self.raises.pop(name)

    def ended(self, trial):
        return self.whole.get(trial.number)

    def open(self, trial, record=None):
        self._write("open", trial.number)
        self.records[trial.number] = record
        return record is not None and self.goes_on

    def pending(self, trial):
        self._write("pending", trial.number)
        return b"pending %d" % trial.number

    def flush(self, trial):
        self._write("flush", trial.number)

    def duplicate_of(self, trial):
        return None

    def note_weights(self, trial, path):
        self._write("weights", trial.number, path)

    def record(self, rows):
        self._write("record", rows.trial, rows.first)

    def evaluate(self, evaluation):
        self._write("evaluate", evaluation.trial, evaluation.step)

    def mark(self, trial, events):
        self._write("mark", trial.number, *map(str, events))

    def close(self, trial, result):
        self._write("close", trial.number)
        self.results[trial.number] = result

    def interrupt(self, trial):
        self._write("interrupt", trial.number)


class TwinRecorder(FakeRecorder):
    """Recognizes duplicates: trials with equal letters, where trial n has letter n.

    Args:
        scripts: what is played back of a trial that was trained.
        earlier: trials that an earlier command has trained.
    """

    def __init__(self, log, letters, scripts, earlier=(), raises=None):
        super().__init__(log, raises)
        self.letters, self.scripts = letters, scripts
        self.trained = {letters[number]: number for number in earlier}
        self.opened = []

    def open(self, trial, record=None):
        goes_on = super().open(trial, record)
        self.opened.append(trial.number)
        return goes_on

    def duplicate_of(self, trial):
        letter = self.letters[trial.number]
        before = [n for n in self.opened[: self.opened.index(trial.number)] if self.letters[n] == letter]
        return self.trained.get(letter, before[0] if before else None)

    def replay(self, trial):
        self._write("replay", trial.number)
        duplicate = self.trained[self.letters[trial.number]]
        return [as_trial(trial.number, progress, duplicate) for progress in self.scripts[duplicate]]

    def close(self, trial, result):
        super().close(trial, result)
        self.opened.remove(trial.number)
        if result.status in (Status.COMPLETE, Status.DIVERGED):
            self.trained.setdefault(self.letters[trial.number], trial.number)


def as_trial(number, progress, duplicate):
    """Return the progress of a trial as that of its duplicate `number`."""
    evaluation = progress.evaluation and replace(progress.evaluation, trial=number)
    rows = [replace(rows, trial=number) for rows in progress.rows]
    return replace(progress, trial=number, rows=rows, evaluation=evaluation, duplicate_of=duplicate)


class FakeCheckpoints:
    """Checkpoints in memory; `held` are those of an interrupted attempt, by trial."""

    def __init__(self, log, held=None, raises=None):
        self.log, self.held, self.raises = log, dict(held or {}), raises or {}
        self.final = {}

    def latest(self, trial):
        return self.held.get(trial.number)

    def save(self, trial, checkpoint):
        self.log.append(("save", trial.number, checkpoint.state.step))
        if "save" in self.raises:
            raise self.raises.pop("save")
        self.held[trial.number] = checkpoint

    def end(self, trial, last):
        self.log.append(("drop", trial.number))
        self.held.pop(trial.number, None)
        if last is not None:
            self.final[trial.number] = last


class FakeWeights:
    """Stores weights, or refers to those of a duplicate."""

    def __init__(self, log):
        self.log = log

    def keep(self, result, weights, duplicate_of):
        self.log.append(("keep", result.trial, result.value, weights, duplicate_of))
        return None if weights is None and duplicate_of is None else f"{result.trial}.pt"

    def forget_others(self):
        self.log.append(("forget",))


class FakeMonitor:
    def __init__(self, log):
        self.log = log

    def started(self, trial):
        self.log.append(("started", trial.number))

    def progressed(self, trial, progress):
        self.log.append(("progressed", trial.number))
        if progress.duplicate_of is not None:
            self.log.append(("shown as", trial.number, progress.duplicate_of))

    def ended(self, trial, result):
        self.log.append(("ended", trial.number, result.status))


class Study:
    """All objects with a common log."""

    def __init__(
        self,
        scripts,
        *,
        slots=1,
        prune=None,
        raises=None,
        proposer=None,
        held=None,
        last=None,
        numbers=None,
        **of,
    ):
        self.log = Log()
        self.engine = FakeEngine(self.log, scripts, slots, last)
        self.proposer = proposer or FakeProposer(self.log, scripts if numbers is None else numbers, prune)
        self.recorder = FakeRecorder(self.log, raises, **of)
        self.checkpoints = FakeCheckpoints(self.log, held, raises)

    def run(self, interrupted=lambda log: False, metric="val_loss"):
        run(
            self.proposer,
            self.engine,
            self.recorder,
            self.checkpoints,
            FakeMonitor(self.log),
            metric,
            lambda: interrupted(self.log),
        )
        return self


def after(boundaries):
    """Return a function that returns whether the engine has advanced this often."""
    return lambda log: len(log.of("advance")) >= boundaries


# --- the order


def with_weights(number, *losses):
    *before, last = trained(number, *losses)
    return [*before, replace(last, weights=b"weights")]


def run_with_weights(study):
    log = study.log
    parts = study.proposer, study.engine, study.recorder, study.checkpoints, FakeMonitor(log)
    run(*parts, "val_loss", weights=FakeWeights(log))
    return log.of("keep", "weights", "save", "close", "forget", "tell")


def test_weights_are_on_the_disk_and_named_before_the_record_is_closed_and_others_removed_after_it():
    found = run_with_weights(Study({0: with_weights(0, 0.7, 0.4), 1: trained(1, 0.5)}))
    assert [event[:2] for event in found] == [
        ("keep", 0),
        ("weights", 0),
        ("close", 0),
        ("forget",),
        ("tell", 0),
        ("keep", 1),
        ("close", 1),
        ("tell", 1),
    ]
    assert found[0] == ("keep", 0, 0.4, b"weights", None)


def test_a_trial_that_is_pruned_offers_no_value():
    found = run_with_weights(Study({0: with_weights(0, 0.7, 0.4)}, prune={0: 10}))
    assert [event[:3] for event in found if event[0] == "keep"] == [("keep", 0, None)]
    assert not [event for event in found if event[0] == "weights"]


def test_one_trial_from_its_opening_to_its_end():
    study = Study({0: trained(0, 0.7, 0.4)}).run()
    assert study.log == [
        ("open", 0),
        ("start", 0),
        ("started", 0),
        ("advance", 0),
        ("record", 0, 0),
        ("evaluate", 0, 10),
        ("report", 0, 10),
        ("should_prune", 0),
        ("progressed", 0),
        ("advance", 0),
        ("record", 0, 10),
        ("evaluate", 0, 20),
        ("report", 0, 20),
        ("progressed", 0),
        ("close", 0),
        ("tell", 0),
        ("drop", 0),
        ("ended", 0, Status.COMPLETE),
    ]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_record_is_closed_before_its_trial_is_told(slots):
    scripts = {0: trained(0, 0.7, 0.4), 1: [Progress(1, [rows(1)], None, Status.DIVERGED)], 2: trained(2, 0.7, 0.6, 1)}
    study = Study(scripts, slots=slots, prune={2: 20}).run()
    for number in scripts:
        assert study.log.index(("close", number)) < study.log.index(("tell", number))
    assert study.recorder.results == study.proposer.results
    assert [result.status for _, result in sorted(study.proposer.results.items())] == [
        Status.COMPLETE,
        Status.DIVERGED,
        Status.PRUNED,
    ]


def test_a_record_is_opened_before_its_trial_trains():
    study = Study({0: trained(0, 0.7), 1: trained(1, 0.6)}).run()
    assert study.log.index(("open", 1)) < study.log.index(("start", 1))


def test_every_row_is_recorded_also_of_several_series():
    series = [rows(0, 0), rows(0, 10), Rows(0, 0, np.ones(2), np.ones(2), series="D_")]
    last = boundary(0, 20, Status.COMPLETE)
    study = Study({0: [Progress(0, series, last.evaluation, Status.COMPLETE)]}).run()
    assert study.log.of("record") == [("record", 0, 0), ("record", 0, 10), ("record", 0, 0)]


def test_the_events_of_a_schedule_are_recorded_with_the_boundary_at_which_they_were_seen():
    seen = replace(boundary(0, 20), events=[Event(20, "plateau")])
    study = Study({0: [boundary(0, 10), seen, replace(boundary(0, 30, Status.COMPLETE), events=seen.events)]}).run()
    assert study.log.of("evaluate", "mark") == [
        ("evaluate", 0, 10),
        ("evaluate", 0, 20),
        ("mark", 0, "plateau@20"),
        ("evaluate", 0, 30),
        ("mark", 0, "plateau@20"),
    ]


# --- results


def test_the_value_is_the_metric_at_the_end_not_the_best_seen():
    study = Study({0: trained(0, 0.9, 0.1, 0.4)}).run()
    assert study.proposer.results[0] == Result(0, Status.COMPLETE, 0.4)


def test_the_value_is_of_the_metric_asked_for():
    study = Study({0: trained(0, 0.4)}).run(metric="val_accuracy")
    assert study.proposer.results[0].value == CLASSES["val_accuracy"]


def test_a_diverged_trial_has_no_value_and_was_not_stopped_as_it_had_left_its_slot():
    study = Study({0: [boundary(0, 10), Progress(0, [rows(0, 10)], None, Status.DIVERGED)], 1: trained(1, 0.5)}).run()
    assert study.proposer.results[0] == Result(0, Status.DIVERGED, None)
    assert ("stop", 0) not in study.log
    assert study.log.of("record") == [("record", 0, 0), ("record", 0, 10), ("record", 1, 0)]
    assert study.proposer.results[1].status is Status.COMPLETE


def test_a_trial_that_should_be_pruned_is_stopped_and_its_slot_used_again():
    study = Study({0: trained(0, 0.9, 0.8, 0.7), 1: trained(1, 0.5)}, prune={0: 20}).run()
    assert study.proposer.results[0] == Result(0, Status.PRUNED, None)
    assert study.log.of("evaluate") == [("evaluate", 0, 10), ("evaluate", 0, 20), ("evaluate", 1, 10)]
    order = [("report", 0, 20), ("stop", 0), ("close", 0), ("tell", 0), ("open", 1), ("start", 1)]
    assert [study.log.index(event) for event in order] == sorted(study.log.index(event) for event in order)
    assert study.proposer.results[1].status is Status.COMPLETE


def test_a_trial_at_its_end_is_complete_even_where_it_would_be_pruned():
    study = Study({0: trained(0, 0.9, 0.8)}, prune={0: 20}).run()
    assert study.proposer.results[0] == Result(0, Status.COMPLETE, 0.8)


# --- slots


def test_all_slots_are_filled_and_filled_again():
    scripts = {0: trained(0, 0.9, 0.8), 1: trained(1, 0.7), 2: trained(2, 0.6), 3: trained(3, 0.5)}
    study = Study(scripts, slots=2).run()
    assert study.log.of("advance") == [("advance", 0, 1), ("advance", 0, 2), ("advance", 3)]
    assert sorted(study.proposer.results) == [0, 1, 2, 3]


def test_pruning_one_trial_leaves_its_neighbour():
    study = Study({0: trained(0, 0.9, 0.8, 0.7), 1: trained(1, 0.9, 0.8, 0.7)}, slots=2, prune={0: 10}).run()
    assert study.log.of("stop") == [("stop", 0)]
    assert study.proposer.results == {0: Result(0, Status.PRUNED), 1: Result(1, Status.COMPLETE, 0.7)}


def test_a_proposer_without_a_trial_for_now_is_asked_again():
    class Waits(FakeProposer):
        """A proposer that proposes the second trial only after the result of the first."""

        def ask(self):
            return super().ask() if len(self.waiting) == 2 or self.results else None

    scripts = {0: trained(0, 0.9, 0.8), 1: trained(1, 0.7)}
    study = Study(scripts, slots=2)
    study.proposer = Waits(study.log, scripts)
    study.run()
    assert study.log.of("advance") == [("advance", 0), ("advance", 0), ("advance", 1)]
    assert sorted(study.proposer.results) == [0, 1]


def test_without_trials_nothing_happens():
    assert Study({}).run().log == []


# --- interruption


@pytest.mark.parametrize("slots", [1, 2])
def test_an_interruption_keeps_interrupts_and_releases_what_is_live(slots):
    scripts = {number: trained(number, 0.9, 0.8, 0.7) for number in range(3)}
    study = Study(scripts, slots=slots).run(interrupted=after(1))
    for number in range(slots):
        ways = ("save", "flush", "kept", "interrupt", "release")
        assert [event[:2] for event in study.log if event[0] in ways and event[1] == number] == [
            (way, number) for way in ways
        ]
    assert study.log.of("open") == [("open", number) for number in range(slots)]
    assert study.log.of("close", "tell", "stop", "drop") == []
    assert study.log.of("snapshots") == [("snapshots", *range(slots))]
    assert sorted(study.checkpoints.held) == list(range(slots))


def test_what_ended_before_an_interruption_stays_told():
    study = Study({0: trained(0, 0.5), 1: trained(1, 0.6, 0.5)}).run(interrupted=after(2))
    assert study.log.of("tell", "interrupt", "release") == [("tell", 0), ("interrupt", 1), ("release", 1)]


def test_an_interruption_before_the_first_trial_asks_for_none():
    study = Study({0: trained(0, 0.5)}).run(interrupted=lambda log: True)
    assert study.log == []
    assert study.proposer.waiting == [0]


# --- exceptions


@pytest.mark.parametrize(
    "error", [RuntimeError("no memory"), KeyboardInterrupt(), SystemExit(1)], ids=lambda e: repr(e)
)
def test_what_the_engine_raises_interrupts_the_records_and_propagates(error):
    study = Study({0: [boundary(0, 10), error], 1: trained(1, 0.9, 0.8, 0.7)}, slots=2)
    with pytest.raises(type(error)) as raised:
        study.run()
    assert raised.value is error
    assert study.log.of("interrupt") == [("interrupt", 0), ("interrupt", 1)]
    assert study.log.of("close", "tell") == []


def test_a_crash_is_not_released_as_if_it_were_asked_for():
    """A released trial is proposed again without counting as a retry."""
    study = Study({0: [RuntimeError("no memory")]})
    with pytest.raises(RuntimeError, match="no memory"):
        study.run()
    assert study.log.of("interrupt", "release") == [("interrupt", 0)]


@pytest.mark.parametrize("call", ["open", "record", "evaluate", "pending", "save", "flush", "close"])
def test_a_trial_whose_record_fails_is_not_told(call):
    study = Study({0: [paused(0, 0, 5), *trained(0, 0.5)]}, raises={call: OSError("disk full")})
    with pytest.raises(OSError, match="disk full"):
        study.run()
    assert study.log.of("tell", "drop") == []
    assert study.log.of("interrupt") == [("interrupt", 0)]


def test_what_ended_before_an_exception_is_not_interrupted():
    study = Study({0: trained(0, 0.5), 1: [RuntimeError("no memory")]})
    with pytest.raises(RuntimeError, match="no memory"):
        study.run()
    assert study.log.of("tell", "interrupt") == [("tell", 0), ("interrupt", 1)]


def test_what_raised_first_is_what_propagates():
    study = Study({0: [RuntimeError("no memory")]}, raises={"interrupt": OSError("disk full")})
    with pytest.raises(RuntimeError, match="no memory"):
        study.run()


def test_a_record_that_cannot_be_interrupted_does_not_keep_the_others_from_it():
    scripts = {0: [RuntimeError("no memory")], 1: trained(1, 0.5)}
    study = Study(scripts, slots=2, raises={"interrupt": OSError("disk full")})
    with pytest.raises(RuntimeError, match="no memory"):
        study.run()
    assert study.log.of("interrupt") == [("interrupt", 0), ("interrupt", 1)]


# --- checkpoints


def test_a_state_is_kept_before_its_rows_are_in_the_record():
    """`pending` returns them, so that they are recorded later if a crash occurs between the two."""
    study = Study({0: [paused(0, 0, 7), boundary(0, 10), paused(0, 10, 10), boundary(0, 20, Status.COMPLETE)]}).run()
    assert study.log.of("record", "pending", "save", "flush", "kept", "close", "tell", "drop") == [
        ("record", 0, 0),
        ("pending", 0),
        ("save", 0, 7),
        ("flush", 0),
        ("kept", 0),
        ("record", 0, 0),
        ("pending", 0),
        ("save", 0, 10),
        ("flush", 0),
        ("kept", 0),
        ("record", 0, 10),
        ("close", 0),
        ("tell", 0),
        ("drop", 0),
    ]


def test_a_state_that_comes_with_an_evaluation_is_kept_with_it():
    study = Study({0: [replace(boundary(0, 10), state=Snapshot(10, b"state")), boundary(0, 20)]})
    study.run(interrupted=after(1))
    assert study.log.index(("evaluate", 0, 10)) < study.log.index(("save", 0, 10))
    assert [evaluation.step for evaluation in study.checkpoints.held[0].evaluations] == [10]


def test_a_state_is_kept_once_it_is_decided_that_its_trial_goes_on():
    """The resumed trial would not be pruned for an evaluation before that state."""
    script = [replace(boundary(0, step), state=Snapshot(step, b"state")) for step in (10, 20, 30)]
    study = Study({0: script}, prune={0: 20}).run()
    assert study.log.of("should_prune", "save", "stop", "close") == [
        ("should_prune", 0),
        ("save", 0, 10),
        ("should_prune", 0),
        ("stop", 0),
        ("close", 0),
    ]


def test_a_checkpoint_is_what_a_trial_goes_on_from():
    study = Study({0: [boundary(0, 10), paused(0, 10, 14)]}).run(interrupted=after(2))
    found = replace(study.checkpoints.held[0], state=Snapshot(14, b"state"))
    assert (found.record, [evaluation.step for evaluation in found.evaluations]) == (b"pending 0", [10])
    later = Study({0: [replace(boundary(0, 20, Status.COMPLETE), rows=[])]}, held={0: found}).run()
    assert later.engine.states == {0: Snapshot(14, b"state")}
    assert later.recorder.records == {0: b"pending 0"}
    assert later.log.names()[:4] == ["open", "report", "start", "started"]
    assert later.log.of("report", "evaluate") == [
        ("report", 0, 10),
        ("evaluate", 0, 20),
        ("report", 0, 20),
    ]
    assert later.proposer.results[0].status is Status.COMPLETE
    assert later.checkpoints.held == {}


def test_the_evaluations_of_a_checkpoint_are_in_the_next_one_too():
    study = Study({0: [boundary(0, 30), paused(0, 30, 33)]}, held={0: kept(0, 25, 10, 20)}).run(interrupted=after(2))
    assert [evaluation.step for evaluation in study.checkpoints.held[0].evaluations] == [10, 20, 30]
    assert study.log.of("evaluate") == [("evaluate", 0, 30)]  # the others are in what was pending, or recorded


def test_a_record_that_does_not_go_on_lets_its_trial_begin_anew():
    study = Study({0: trained(0, 0.7, 0.4)}, held={0: kept(0, 25, 10, 20)}, goes_on=False).run()
    assert study.engine.states == {0: None}
    assert study.recorder.records == {0: b"pending 0"}
    assert study.log.of("report") == [("report", 0, 10), ("report", 0, 20)]
    assert study.log.index(("drop", 0)) < study.log.index(("start", 0))  # it is newer than what comes now


def test_after_a_training_that_began_anew_its_own_evaluations_are_kept():
    study = Study({0: [boundary(0, 10)]}, held={0: kept(0, 25, 10, 20)}, goes_on=False).run(interrupted=after(1))
    assert [evaluation.step for evaluation in study.checkpoints.held[0].evaluations] == [10]


def test_a_trial_that_is_recorded_to_its_end_is_only_told():
    study = Study({1: trained(1, 0.5)}, numbers=[0, 1], whole={0: trained(0, 0.7, 0.4)}, held={0: kept(0, 15)}).run()
    own = [event for event in study.log if event[0] not in ("advance", "snapshots") and event[1] == 0]
    assert own == [
        ("started", 0),
        ("report", 0, 10),
        ("progressed", 0),
        ("report", 0, 20),
        ("progressed", 0),
        ("tell", 0),
        ("drop", 0),
        ("ended", 0, Status.COMPLETE),
    ]
    assert study.proposer.results[0] == Result(0, Status.COMPLETE, 0.4)
    assert study.proposer.results[1] == Result(1, Status.COMPLETE, 0.5)
    assert 0 not in study.checkpoints.held


@pytest.mark.parametrize("status", [Status.PRUNED, Status.DIVERGED])
def test_a_recorded_trial_is_told_as_it_ended(status):
    broken = Evaluation(0, 13, {"global_step": 13.0})
    end = boundary(0, 20, status) if status is Status.PRUNED else Progress(0, [rows(0, 10)], broken, status)
    study = Study({}, numbers=[0], whole={0: [boundary(0, 10), end]}).run()
    assert study.proposer.results[0] == Result(0, status)
    expected = [("report", 0, 10), ("report", 0, 20)] if status is Status.PRUNED else [("report", 0, 10)]
    assert study.log.of("report") == expected


def test_a_trial_that_is_given_up_is_not_opened():
    study = Study({2: trained(2, 0.5)}, held={0: kept(0, 15)})
    study.proposer = FakeProposer(study.log, [0, 1, 2], hopeless=[0, 1])
    study.run()
    assert study.log.of("open", "start", "tell") == [("open", 2), ("start", 2), ("tell", 2)]


def test_a_trial_that_would_be_given_up_is_told_as_its_record_ended():
    """The interrupt came after the end of the record and before the result was reported."""
    study = Study({}, whole={0: trained(0, 0.7, 0.4)})
    study.proposer = FakeProposer(study.log, [0], hopeless=[0])
    study.run()
    assert study.proposer.results == {0: Result(0, Status.COMPLETE, 0.4)}


def test_many_recorded_trials_take_no_slot():
    whole = {number: trained(number, 0.5) for number in range(5)}
    study = Study({5: trained(5, 0.4)}, numbers=range(6), whole=whole).run()
    assert study.log.of("start", "open") == [("open", 5), ("start", 5)]
    assert sorted(study.proposer.results) == list(range(6))


def test_a_trial_that_goes_on_is_no_duplicate():
    """Its training continues, even if a duplicate has ended."""
    study = Duplicates("aa", {1: [boundary(1, 20, Status.COMPLETE)]}, earlier=[0])
    study.checkpoints.held[1] = kept(1, 15, 10)
    study.run()
    assert study.log.of("start", "replay") == [("start", 1)]


def test_an_end_is_told_before_its_checkpoint_is_dropped():
    for script, prune in ((trained(0, 0.7, 0.4), None), (trained(0, 0.7, 0.4), {0: 10})):
        study = Study({0: [paused(0, 0, 5), *script]}, prune=prune).run()
        order = [("save", 0, 5), ("flush", 0), ("close", 0), ("tell", 0), ("drop", 0)]
        assert [event for event in study.log if event in order] == order


def test_a_trial_that_is_not_told_keeps_its_checkpoint():
    class Failing(FakeProposer):
        def tell(self, trial, result):
            raise OSError("disk full")

    study = Study({0: [paused(0, 0, 5), *trained(0, 0.7)]})
    study.proposer = Failing(study.log, [0])
    with pytest.raises(OSError, match="disk full"):
        study.run()
    assert sorted(study.checkpoints.held) == [0]
    assert study.log.of("drop", "interrupt") == []  # its record is closed


@pytest.mark.parametrize("wanted", [False, True])
def test_the_state_that_a_trial_ends_with_is_kept_where_it_is_wanted(wanted):
    """This happens before its record is closed, from where a later command takes the result."""
    end = replace(boundary(0, 10, Status.COMPLETE), state=Snapshot(10, b"end") if wanted else None)
    fixed = FixedTrials([replace(trial(0), keeps_state=wanted)])
    study = Study({0: [end]}, proposer=fixed).run()
    assert study.log.of("save", "flush", "close") == [*([("save", 0, 10)] if wanted else []), ("close", 0)]
    assert {n: found.state for n, found in study.checkpoints.held.items()} == (
        {0: Snapshot(10, b"end")} if wanted else {}
    )


def test_a_failed_training_is_told_as_such():
    why = Failure("KeyError: 'a'")
    study = Study({0: [Progress(0, [], None, Status.FAILED, failure=why)], 1: trained(1, 0.5)}).run()
    assert study.proposer.results[0] == study.recorder.results[0] == Result(0, Status.FAILED, failure=why)
    assert study.proposer.results[1].status is Status.COMPLETE
    assert study.log.of("stop") == []
    assert study.log.index(("close", 0)) < study.log.index(("tell", 0))


# --- halting


def test_what_is_reached_until_all_have_stopped_is_taken():
    """Tests a boundary, an end, and a pruned trial whose state arrives later."""
    scripts = {number: trained(number, 0.9, 0.8, 0.7) for number in range(3)}
    last = [
        boundary(0, 20),
        boundary(1, 20),
        boundary(2, 30, Status.COMPLETE, loss=0.3),
        paused(0, 20, 24),
        paused(1, 20, 24),
    ]
    study = Study(scripts, slots=3, prune={1: 20}, last=last).run(interrupted=after(1))
    assert study.proposer.results == {
        1: Result(1, Status.PRUNED),
        2: Result(2, Status.COMPLETE, 0.3),
    }
    assert study.log.of("save") == [("save", 0, 24)]
    assert study.log.of("interrupt", "release") == [("interrupt", 0), ("release", 0)]
    assert [evaluation.step for evaluation in study.checkpoints.held[0].evaluations] == [10, 20]


def test_a_trial_whose_state_takes_too_long_is_released_too():
    scripts = {number: trained(number, 0.9, 0.8) for number in range(2)}
    study = Study(scripts, slots=2, last=[paused(0, 10, 12)]).run(interrupted=after(1))
    assert study.log.of("save") == [("save", 0, 12)]
    assert study.log.of("interrupt", "release") == [
        ("interrupt", 0),
        ("release", 0),
        ("interrupt", 1),
        ("release", 1),
    ]


def test_a_trial_that_ends_after_its_last_state_is_told_and_not_released():
    """A state arrives after all trials were asked to stop, and the end follows immediately."""
    last = [paused(0, 10, 12), replace(boundary(0, 20, Status.COMPLETE), rows=[rows(0, 12)]), paused(1, 10, 13)]
    scripts = {number: trained(number, 0.9, 0.8) for number in range(2)}
    study = Study(scripts, slots=2, last=last).run(interrupted=after(1))
    assert study.log.of("close", "tell", "flush", "release") == [
        ("close", 0),
        ("tell", 0),
        ("flush", 1),
        ("release", 1),
    ]


def test_a_checkpoint_that_cannot_be_kept_at_the_end_leaves_all_as_after_a_crash():
    scripts = {number: trained(number, 0.9, 0.8) for number in range(2)}
    study = Study(scripts, slots=2, raises={"save": OSError("disk full")})
    with pytest.raises(OSError, match="disk full"):
        study.run(interrupted=after(1))
    assert study.log.of("flush", "release") == []
    assert study.log.of("interrupt") == [("interrupt", 0), ("interrupt", 1)]


# --- duplicates


class Duplicates(Study):
    """Run trials of which those with equal letters are duplicates; `scripts` has the ones to train."""

    def __init__(self, letters, scripts, *, slots=1, prune=None, raises=None, earlier=()):
        super().__init__(scripts, slots=slots, prune=prune)
        numbers = [number for number in range(len(letters)) if number not in earlier]
        self.proposer = FakeProposer(self.log, numbers, prune)
        self.recorder = TwinRecorder(self.log, letters, scripts, earlier, raises)


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
def test_the_same_training_is_trained_once_and_recorded_and_told_for_each(slots):
    study = Duplicates("abab", {0: trained(0, 0.7, 0.4), 1: trained(1, 0.6, 0.5)}, slots=slots).run()
    assert study.log.of("start") == [("start", 0), ("start", 1)]
    assert study.recorder.results == study.proposer.results
    values = {number: result.value for number, result in study.proposer.results.items()}
    assert values == {0: 0.4, 1: 0.5, 2: 0.4, 3: 0.5}
    for number in range(4):
        happened = [event for event in study.log if event[1] == number and event[0] in ("record", "evaluate", "report")]
        assert happened == [
            ("record", number, 0),
            ("evaluate", number, 10),
            ("report", number, 10),
            ("record", number, 10),
            ("evaluate", number, 20),
            ("report", number, 20),
        ]
    assert set(study.log.of("shown as")) == {("shown as", 2, 0), ("shown as", 3, 1)}


def test_a_duplicate_goes_the_way_of_a_training():
    """The calls for it have the same order as for a trained trial."""
    study = Duplicates("aa", {0: trained(0, 0.7, 0.4)}).run()

    def way(number):
        own = [event for event in study.log if event[0] not in ("advance", "start", "replay", "shown as")]
        return [(what, *rest) for what, of, *rest in own if of == number]

    assert way(1) == way(0)


def test_a_duplicate_of_an_earlier_command_s_trial_is_not_trained():
    study = Duplicates("aba", {0: trained(0, 0.7, 0.4), 1: trained(1, 0.5)}, earlier=[0]).run()
    assert study.log.of("start") == [("start", 1)]
    assert study.proposer.results[2] == Result(2, Status.COMPLETE, 0.4)


def test_a_diverged_training_stands_for_its_duplicate():
    study = Duplicates("aa", {0: [boundary(0, 10), Progress(0, [rows(0, 10)], None, Status.DIVERGED)]}).run()
    assert study.log.of("start") == [("start", 0)]
    assert study.proposer.results[1] == Result(1, Status.DIVERGED)
    assert study.log.of("record")[2:] == [("record", 1, 0), ("record", 1, 10)]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_pruned_training_does_not_stand_for_its_duplicate(slots):
    scripts = {number: trained(number, 0.9, 0.8, 0.7) for number in (0, 1)}
    study = Duplicates("aaa", scripts, slots=slots, prune={0: 20}).run()
    assert study.log.of("start") == [("start", 0), ("start", 1)]
    statuses = [result.status for _, result in sorted(study.proposer.results.items())]
    assert statuses == [Status.PRUNED, Status.COMPLETE, Status.COMPLETE]


def test_a_duplicate_may_be_pruned_where_the_training_was_not():
    study = Duplicates("aab", {0: trained(0, 0.9, 0.8, 0.7), 2: trained(2, 0.5)}, prune={1: 20}).run()
    assert study.proposer.results[1] == Result(1, Status.PRUNED)
    assert [event for event in study.log.of("record", "evaluate") if event[1] == 1] == [
        ("record", 1, 0),
        ("evaluate", 1, 10),
        ("record", 1, 10),
        ("evaluate", 1, 20),
    ]
    assert study.log.of("stop") == []  # it was in no slot
    assert study.log.of("start") == [("start", 0), ("start", 2)]


def test_no_trial_is_asked_for_while_a_duplicate_is_played_back():
    """A proposer that learns from results gets those of the duplicate, as if it had been trained."""
    scripts = {0: trained(0, 0.9, 0.8), 2: trained(2, 0.5)}
    study = Duplicates("aab", scripts, slots=1).run()
    assert study.log.index(("tell", 1)) < study.log.index(("open", 2))


def test_a_duplicate_of_a_live_training_waits_and_keeps_its_slot():
    scripts = {0: trained(0, 0.9, 0.8, 0.7), 2: trained(2, 0.5)}
    study = Duplicates("aab", scripts, slots=2).run()
    assert study.log.of("start", "replay") == [("start", 0), ("start", 2), ("replay", 1)]
    assert study.log.index(("open", 1)) < study.log.index(("tell", 0)) < study.log.index(("open", 2))


def test_an_interruption_releases_a_duplicate_that_waits_without_a_checkpoint():
    study = Duplicates("aa", {0: trained(0, 0.9, 0.8)}, slots=2).run(interrupted=after(1))
    assert study.log.of("stop") == []
    assert study.log.of("snapshots", "save", "interrupt", "release") == [
        ("snapshots", 0),
        ("save", 0, 1),
        ("interrupt", 0),
        ("release", 0),
        ("interrupt", 1),
        ("release", 1),
    ]


def test_an_interruption_releases_a_duplicate_that_is_played_back():
    study = Duplicates("aa", {0: trained(0, 0.9, 0.8)}).run(interrupted=lambda log: ("record", 1, 0) in log)
    assert study.log.of("record", "stop", "interrupt", "release") == [
        ("record", 0, 0),
        ("record", 0, 10),
        ("record", 1, 0),
        ("interrupt", 1),
        ("release", 1),
    ]
    assert list(study.proposer.results) == [0]


def test_a_duplicate_that_cannot_be_read_back_is_not_told():
    study = Duplicates("aa", {0: trained(0, 0.5)}, raises={"replay": OSError("disk full")})
    with pytest.raises(OSError, match="disk full"):
        study.run()
    assert study.log.of("tell", "interrupt") == [("tell", 0), ("interrupt", 1)]


# --- fixed trials


def test_fixed_trials_are_trained_in_their_order_and_none_is_pruned():
    fixed = FixedTrials([trial(3), trial(1), trial(2)])
    scripts = {number: trained(number, 0.9, number / 10) for number in (1, 2, 3)}
    study = Study(scripts, proposer=fixed).run()
    assert study.log.of("start") == [("start", 3), ("start", 1), ("start", 2)]
    assert fixed.results == [
        Result(3, Status.COMPLETE, 0.3),
        Result(1, Status.COMPLETE, 0.1),
        Result(2, Status.COMPLETE, 0.2),
    ]
    assert fixed.ask() is None


def test_a_released_trial_is_the_next_one():
    fixed = FixedTrials([trial(0), trial(1)])
    Study({0: trained(0, 0.9, 0.8), 1: trained(1, 0.5)}, proposer=fixed).run(interrupted=after(1))
    assert fixed.results == []
    assert [fixed.ask().number, fixed.ask().number, fixed.ask()] == [0, 1, None]


def test_released_trials_come_again_in_their_order():
    fixed = FixedTrials([trial(number) for number in range(3)])
    scripts = {number: trained(number, 0.9, 0.8) for number in range(3)}
    Study(scripts, slots=2, proposer=fixed).run(interrupted=after(1))
    assert [fixed.ask().number for _ in range(3)] == [0, 1, 2]


def test_a_trial_that_went_on_is_given_back_as_it_was_given():
    given = [trial(0), trial(1)]
    fixed = FixedTrials(given)
    study = Study({0: trained(0, 0.9, 0.8)}, proposer=fixed, held={0: kept(0, 5)})
    study.run(interrupted=after(1))
    assert study.log.of("save", "interrupt") == [("save", 0, 1), ("interrupt", 0)]
    assert [fixed.ask(), fixed.ask(), fixed.ask()] == [*given, None]


def test_fixed_trials_do_not_change_the_list_they_were_given():
    given = [trial(0)]
    FixedTrials(given).ask()
    assert [t.number for t in given] == [0]
