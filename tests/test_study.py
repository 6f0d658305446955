"""The loop of a study, with an engine, a proposer, a recorder and a monitor that write down what they are asked."""

from dataclasses import replace

import numpy as np
import pytest

from sweep.core import Evaluation, Event, Progress, Result, Rows, Status, Trial
from sweep.study import FixedTrials, run

CLASSES = {"val_loss": 0.5, "val_accuracy": 0.9}


def trial(number):
    return Trial(number, config=None, seed=0)


def rows(number, first=0):
    return Rows(number, first, lr=np.full(10, 0.1), loss=np.ones(10))


def boundary(number, step, status=None, loss=0.5):
    """Ten updates that end at `step`, with an evaluation there."""
    evaluation = Evaluation(number, step, CLASSES | {"val_loss": loss, "global_step": float(step)})
    return Progress(number, [rows(number, step - 10)], evaluation, status)


def trained(number, *losses):
    """A training with these losses at its evaluations, the last at its end."""
    last = len(losses) - 1
    return [
        boundary(number, 10 * (i + 1), Status.COMPLETE if i == last else None, loss) for i, loss in enumerate(losses)
    ]


class Log(list):
    """What happened, in its order: (who, what, trial, ...)."""

    def of(self, *what):
        return [event for event in self if event[0] in what]

    def names(self):
        return [event[0] for event in self]


class FakeEngine:
    """Plays a script for each trial: what it gives at each boundary, or what it raises."""

    def __init__(self, log, scripts, slots=1):
        self.log, self.scripts, self.slots = log, scripts, slots
        self.live = {}

    @property
    def free(self):
        return self.slots - len(self.live)

    def start(self, trial):
        assert self.free > 0, "there is no free slot"
        self.log.append(("start", trial.number))
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

    def stop(self, trial):
        self.log.append(("stop", trial.number))
        del self.live[trial.number]  # an error for one that has left its slot


class FakeProposer:
    """Gives the trials one after another; prunes those in `prune` at the step given there."""

    def __init__(self, log, numbers, prune=None):
        self.log, self.waiting, self.prune = log, list(numbers), prune or {}
        self.reported = {}
        self.results = {}

    def ask(self):
        return trial(self.waiting.pop(0)) if self.waiting else None

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

    def release(self, trial):
        self.log.append(("release", trial.number))


class FakeRecorder:
    """Raises what it is told to at its first call of a name."""

    def __init__(self, log, raises=None):
        self.log, self.raises = log, raises or {}
        self.results = {}

    def _write(self, name, *rest):
        self.log.append((name, *rest))
        if name in self.raises:
            raise self.raises.pop(name)

    def open(self, trial):
        self._write("open", trial.number)

    def twin_of(self, trial):
        return None

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
    """Knows which trials are the same training: those of equal letters, trial n having the nth.

    Args:
        scripts: what is played back of a trial that was trained.
        earlier: trials that an earlier command has trained.
    """

    def __init__(self, log, letters, scripts, earlier=(), raises=None):
        super().__init__(log, raises)
        self.letters, self.scripts = letters, scripts
        self.ended = {letters[number]: number for number in earlier}
        self.opened = []

    def open(self, trial):
        super().open(trial)
        self.opened.append(trial.number)

    def twin_of(self, trial):
        letter = self.letters[trial.number]
        before = [n for n in self.opened[: self.opened.index(trial.number)] if self.letters[n] == letter]
        return self.ended.get(letter, before[0] if before else None)

    def replay(self, trial):
        self._write("replay", trial.number)
        twin = self.ended[self.letters[trial.number]]
        return [as_trial(trial.number, progress, twin) for progress in self.scripts[twin]]

    def close(self, trial, result):
        super().close(trial, result)
        self.opened.remove(trial.number)
        if result.status in (Status.COMPLETE, Status.DIVERGED):
            self.ended.setdefault(self.letters[trial.number], trial.number)


def as_trial(number, progress, twin):
    """The progress of a twin, as that of trial `number`."""
    evaluation = progress.evaluation and replace(progress.evaluation, trial=number)
    rows = [replace(rows, trial=number) for rows in progress.rows]
    return replace(progress, trial=number, rows=rows, evaluation=evaluation, twin_of=twin)


class FakeMonitor:
    def __init__(self, log):
        self.log = log

    def started(self, trial):
        self.log.append(("started", trial.number))

    def progressed(self, trial, progress):
        self.log.append(("progressed", trial.number))
        if progress.twin_of is not None:
            self.log.append(("shown as", trial.number, progress.twin_of))

    def ended(self, trial, result):
        self.log.append(("ended", trial.number, result.status))


class Study:
    """The four of them around one log."""

    def __init__(self, scripts, *, slots=1, prune=None, raises=None, proposer=None):
        self.log = Log()
        self.engine = FakeEngine(self.log, scripts, slots)
        self.proposer = proposer or FakeProposer(self.log, scripts, prune)
        self.recorder = FakeRecorder(self.log, raises)

    def run(self, interrupted=lambda: False, metric="val_loss"):
        run(self.proposer, self.engine, self.recorder, FakeMonitor(self.log), metric, interrupted)
        return self


def after(boundaries):
    """Answers true once it was asked more often than that."""
    answers = iter([False] * boundaries)
    return lambda: next(answers, True)


# --- the order


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
        """Has its second trial only once it was told of the first."""

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
def test_an_interruption_stops_interrupts_and_releases_what_is_live(slots):
    scripts = {number: trained(number, 0.9, 0.8, 0.7) for number in range(3)}
    study = Study(scripts, slots=slots).run(interrupted=after(1))
    for number in range(slots):
        order = [("stop", number), ("interrupt", number), ("release", number)]
        assert [
            event for event in study.log if event[0] in ("stop", "interrupt", "release") and event[1] == number
        ] == order
    assert study.log.of("open") == [("open", number) for number in range(slots)]
    assert study.log.of("close", "tell") == []
    assert study.engine.live == {}


def test_what_ended_before_an_interruption_stays_told():
    study = Study({0: trained(0, 0.5), 1: trained(1, 0.6, 0.5)}).run(interrupted=after(2))
    assert study.log.of("tell", "interrupt", "release") == [("tell", 0), ("interrupt", 1), ("release", 1)]


def test_an_interruption_before_the_first_trial_asks_for_none():
    study = Study({0: trained(0, 0.5)}).run(interrupted=lambda: True)
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
    """A released trial is asked for again without counting as a retry."""
    study = Study({0: [RuntimeError("no memory")]})
    with pytest.raises(RuntimeError, match="no memory"):
        study.run()
    assert study.log.of("interrupt", "release") == [("interrupt", 0)]


@pytest.mark.parametrize("call", ["open", "record", "evaluate", "close"])
def test_a_trial_whose_record_fails_is_not_told(call):
    study = Study({0: trained(0, 0.5)}, raises={call: OSError("disk full")})
    with pytest.raises(OSError, match="disk full"):
        study.run()
    assert study.log.of("tell") == []
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


# --- twins


class Twins(Study):
    """Trials of equal letters are the same training; `scripts` are of those that are to be trained."""

    def __init__(self, letters, scripts, *, slots=1, prune=None, raises=None, earlier=()):
        super().__init__(scripts, slots=slots, prune=prune)
        numbers = [number for number in range(len(letters)) if number not in earlier]
        self.proposer = FakeProposer(self.log, numbers, prune)
        self.recorder = TwinRecorder(self.log, letters, scripts, earlier, raises)


@pytest.mark.parametrize("slots", [1, 2, 3, 4])
def test_the_same_training_is_trained_once_and_recorded_and_told_for_each(slots):
    study = Twins("abab", {0: trained(0, 0.7, 0.4), 1: trained(1, 0.6, 0.5)}, slots=slots).run()
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


def test_a_twin_goes_the_way_of_a_training():
    """It is opened, recorded, reported, asked whether to prune, closed and told in the same order."""
    study = Twins("aa", {0: trained(0, 0.7, 0.4)}).run()

    def way(number):
        own = [event for event in study.log if event[0] not in ("advance", "start", "replay", "shown as")]
        return [(what, *rest) for what, of, *rest in own if of == number]

    assert way(1) == way(0)


def test_a_twin_of_an_earlier_command_s_trial_is_not_trained():
    study = Twins("aba", {0: trained(0, 0.7, 0.4), 1: trained(1, 0.5)}, earlier=[0]).run()
    assert study.log.of("start") == [("start", 1)]
    assert study.proposer.results[2] == Result(2, Status.COMPLETE, 0.4)


def test_a_diverged_training_stands_for_its_twin():
    study = Twins("aa", {0: [boundary(0, 10), Progress(0, [rows(0, 10)], None, Status.DIVERGED)]}).run()
    assert study.log.of("start") == [("start", 0)]
    assert study.proposer.results[1] == Result(1, Status.DIVERGED)
    assert study.log.of("record")[2:] == [("record", 1, 0), ("record", 1, 10)]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_pruned_training_does_not_stand_for_its_twin(slots):
    scripts = {number: trained(number, 0.9, 0.8, 0.7) for number in (0, 1)}
    study = Twins("aaa", scripts, slots=slots, prune={0: 20}).run()
    assert study.log.of("start") == [("start", 0), ("start", 1)]
    statuses = [result.status for _, result in sorted(study.proposer.results.items())]
    assert statuses == [Status.PRUNED, Status.COMPLETE, Status.COMPLETE]


def test_a_twin_may_be_pruned_where_the_training_was_not():
    study = Twins("aab", {0: trained(0, 0.9, 0.8, 0.7), 2: trained(2, 0.5)}, prune={1: 20}).run()
    assert study.proposer.results[1] == Result(1, Status.PRUNED)
    assert [event for event in study.log.of("record", "evaluate") if event[1] == 1] == [
        ("record", 1, 0),
        ("evaluate", 1, 10),
        ("record", 1, 10),
        ("evaluate", 1, 20),
    ]
    assert study.log.of("stop") == []  # it was in no slot
    assert study.log.of("start") == [("start", 0), ("start", 2)]


def test_no_trial_is_asked_for_while_a_twin_is_played_back():
    """A proposer that learns from results knows of the twin's, as it would if the twin had been trained."""
    scripts = {0: trained(0, 0.9, 0.8), 2: trained(2, 0.5)}
    study = Twins("aab", scripts, slots=1).run()
    assert study.log.index(("tell", 1)) < study.log.index(("open", 2))


def test_a_twin_of_a_live_training_waits_and_keeps_its_slot():
    scripts = {0: trained(0, 0.9, 0.8, 0.7), 2: trained(2, 0.5)}
    study = Twins("aab", scripts, slots=2).run()
    assert study.log.of("start", "replay") == [("start", 0), ("start", 2), ("replay", 1)]
    assert study.log.index(("open", 1)) < study.log.index(("tell", 0)) < study.log.index(("open", 2))


def test_an_interruption_releases_a_twin_that_waits_without_stopping_it():
    study = Twins("aa", {0: trained(0, 0.9, 0.8)}, slots=2).run(interrupted=after(1))
    assert study.log.of("stop") == [("stop", 0)]
    assert study.log.of("interrupt", "release") == [
        ("interrupt", 0),
        ("release", 0),
        ("interrupt", 1),
        ("release", 1),
    ]


def test_an_interruption_releases_a_twin_that_is_played_back():
    study = Twins("aa", {0: trained(0, 0.9, 0.8)}).run(interrupted=after(3))
    assert study.log.of("record", "stop", "interrupt", "release") == [
        ("record", 0, 0),
        ("record", 0, 10),
        ("record", 1, 0),
        ("interrupt", 1),
        ("release", 1),
    ]
    assert list(study.proposer.results) == [0]


def test_a_twin_that_cannot_be_read_back_is_not_told():
    study = Twins("aa", {0: trained(0, 0.5)}, raises={"replay": OSError("disk full")})
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


def test_fixed_trials_do_not_change_the_list_they_were_given():
    given = [trial(0)]
    FixedTrials(given).ask()
    assert [t.number for t in given] == [0]
