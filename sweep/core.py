"""The types that flow between the packages, and the interfaces of the packages."""

import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from sweep.config import RunConfig
from sweep.schedules import Event

Value = bool | int | float | str
"""What a search draws for one key."""


class Status(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Snapshot:
    """Where a training stands between two updates.

    Args:
        step: updates completed.
        content: all that it goes on with, bit by bit the same; any engine reads it.
    """

    step: int
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """One training: its number in its study, its configuration, what the search drew, its seed.

    Args:
        first: the update that it begins with, if it is not interrupted.
        state: where it goes on from; None for the start.
        keeps_state: whether the state that it ends with is wanted.
        final: whether it is evaluated on the test split too, at its end. No other trial touches it.
    """

    number: int
    config: RunConfig
    seed: int
    values: Mapping[str, Any] = field(default_factory=dict)
    first: int = 0
    state: Snapshot | None = None
    keeps_state: bool = False
    final: bool = False

    @property
    def last(self) -> int:
        """The updates completed at its end: those of the horizon, or `train.more_steps` more than at its beginning."""
        train = self.config.train
        return train.steps if train.more_steps is None else self.first + train.more_steps


LONGEST_RECORD_NAME = 250
"""Characters of the longest name that MLflow accepts for a metric, param or tag."""


@lru_cache(4096)
def is_record_name(name: str) -> bool:
    """Return whether MLflow accepts the name for a metric, param or tag.

    It consists of letters, digits and "_-. :/", and as a path it is relative and in normal form.
    """
    if len(name) > LONGEST_RECORD_NAME or not re.fullmatch(r"[\w.\- :/]+", name):
        return False
    return posixpath.normpath(name) == name and name != "." and not name.startswith(("/", ".."))


@dataclass(frozen=True)
class Description:
    """What is recorded of a trial when it begins.

    Args:
        name: tells it from its siblings in a legend.
        params: the resolved configuration, flattened with dots, as text.
        tags: of its curve.
        artifacts: file name -> contents.
    """

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    artifacts: Mapping[str, bytes]


SERIES = ("", "G_", "D_")
"""What the names of lr and loss begin with: nothing; of a GAN, those of the generator and of the critic."""


@dataclass(frozen=True)
class Rows:
    """Updates of one trial and one optimizer, in the order of their steps.

    Args:
        trial: number of the trial.
        steps: int64 [n], the step of each update, counted from 0.
        lr: float64 [n], the rate each update used.
        loss: float64 [n], the loss of each batch before its update. Only the last row of a trial that diverged may have
            a loss that is not finite.
        series: one of SERIES.
    """

    trial: int
    steps: np.ndarray
    lr: np.ndarray
    loss: np.ndarray
    series: str = ""

    def __len__(self) -> int:
        return len(self.steps)

    def split(self, step: int) -> tuple["Rows", "Rows"]:
        """Return the rows of the updates before `step`, and those of the updates from `step` on."""
        n = int(np.searchsorted(self.steps, step))
        parts = (slice(n), slice(n, None))
        before, after = (replace(self, steps=self.steps[i], lr=self.lr[i], loss=self.loss[i]) for i in parts)
        return before, after


def take_joined(rows: list[Rows]) -> list[Rows]:
    """Empty a list of rows of one trial, and return them joined: one `Rows` for each series."""
    of_series: dict[str, list[Rows]] = {}
    for part in rows:
        of_series.setdefault(part.series, []).append(part)
    rows.clear()
    joined = []
    for series, parts in of_series.items():
        steps, lr, loss = map(np.concatenate, zip(*((part.steps, part.lr, part.loss) for part in parts), strict=True))
        if len(steps):
            joined.append(Rows(parts[0].trial, steps, lr, loss, series))
    return joined


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one trial after `step` completed updates.

    Args:
        samples: [n, *shape of an example], what a generator makes of the same latent numbers at every evaluation; None
            where there is none, and of one that was recorded before.
    """

    trial: int
    step: int
    metrics: Mapping[str, float]
    samples: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Failure:
    """The reason for which a trial has failed.

    Args:
        reason: one short line.
        details: several lines, with the frames of the user's code; empty where there are none.
    """

    reason: str
    details: str = ""


GIVEN_UP = Failure("its training was interrupted without warning more often than study.max_retries allows")
"""The failure of a trial whose processes were lost in several commands."""


@dataclass(frozen=True)
class Progress:
    """What an engine gives back at a boundary, or between two: the rows since the last time, and what happened."""

    trial: int
    rows: Sequence[Rows]
    evaluation: Evaluation | None
    status: Status | None
    """Set when the trial ended by itself, COMPLETE or DIVERGED, and when it could not be trained, FAILED."""
    events: Sequence[Event] = ()
    """All that its schedule waited for and that has happened so far."""
    state: Snapshot | None = None
    """Where the trial stands, where it is to be kept: after these rows and this evaluation."""
    duplicate_of: int | None = None
    """The trial whose record this is, where this one is the same training and was not trained itself."""
    failure: Failure | None = None
    """The reason, where the status is FAILED."""
    weights: bytes | None = field(default=None, repr=False)
    """The state dict of the model as torch saves it, where the trial is complete and may be the best."""


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Args:
        value: the objective: the metric at the end of the horizon, of complete trials only.
        failure: the reason, of failed trials only.
    """

    trial: int
    status: Status
    value: float | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a trial goes on from after an interruption.

    Args:
        first, last: of the trial.
        state: where it stands.
        evaluations: all of its own so far.
        record: what the recorder has of it that is not in the record yet.
    """

    first: int
    last: int
    state: Snapshot
    evaluations: Sequence[Evaluation]
    record: bytes = field(repr=False)


class Proposer(Protocol):
    """Where trials come from."""

    def ask(self) -> Trial | None:
        """The next trial, or None when there is none (for now, or for good if no trial is live)."""

    def give_up(self, trial: Trial) -> bool:
        """Give up a trial whose training was begun too often, and return whether it was.

        For a trial that was asked, before its record is opened.
        """

    def report(self, trial: Trial, evaluation: Evaluation) -> None:
        """Take an intermediate evaluation."""

    def should_prune(self, trial: Trial, events: Sequence[Event]) -> bool:
        """Whether the trial is not worth going on after the evaluation last reported.

        Args:
            events: all of the trial so far: they tell whether its warmup has ended.
        """

    def tell(self, trial: Trial, result: Result) -> None:
        """Take how a trial ended. Once for each trial asked that was not given up."""

    def kept(self, trial: Trial) -> None:
        """A checkpoint of the trial was kept: whatever interrupted it before has not made it begin anew."""

    def release(self, trial: Trial) -> None:
        """Give back a trial that was interrupted on request: it will be asked for again."""


class Engine(Protocol):
    """Slots that train trials."""

    @property
    def free(self) -> int:
        """How many more trials can be started now."""

    def start(self, trial: Trial) -> None:
        """Put a trial into a free slot, at step 0 or where its state goes on."""

    def advance(self) -> list[Progress]:
        """Train all live slots to the nearest boundary; the events of those that reached theirs.

        A trial whose status is set has left its slot.
        """

    def snapshots(self) -> Iterable[Progress]:
        """Where each live trial stands, with its state; before it what was reached until then. For when it must end."""

    def stop(self, trial: Trial) -> None:
        """Take a live trial out of its slot."""


class Recorder(Protocol):
    """Where the record goes. Rows arrive in order, in arrays; they are in the record when a checkpoint covers them."""

    def ended(self, trial: Trial) -> Sequence[Progress] | None:
        """What is recorded of a trial whose record was closed before; None of any other.

        Such a trial was interrupted after that, and before it was told.
        """

    def open(self, trial: Trial, record: bytes | None = None) -> bool:
        """Begin the record of a trial, or go on with the one that an interrupted attempt left.

        Args:
            record: what `pending` gave then; None for a trial that begins with its first update.

        Returns:
            Whether it is gone on with. If not, the trial has to begin with its first update.
        """

    def duplicate_of(self, trial: Trial) -> int | None:
        """The trial that is the same training as this open one: one that ended by itself, or was opened before it.

        None if there is none, and if nobody knows. A pruned trial is none: pruning depends on the others.
        """

    def replay(self, trial: Trial) -> Sequence[Progress]:
        """Return what is recorded of the trial that an open trial is a duplicate of, as the open trial's own progress.

        The open trial is recorded as a duplicate from this call on.
        """

    def record(self, rows: Rows) -> None:
        """Take the rows of consecutive updates."""

    def evaluate(self, evaluation: Evaluation) -> None:
        """Take an evaluation."""

    def mark(self, trial: Trial, events: Sequence[Event]) -> None:
        """Take all events of a trial so far."""

    def pending(self, trial: Trial) -> bytes:
        """What was taken of an open trial and is not in the record yet, for its checkpoint."""

    def flush(self, trial: Trial) -> None:
        """Bring what was taken of an open trial into the record: a checkpoint has it."""

    def note_weights(self, trial: Trial, path: str) -> None:
        """Record which file has the weights of an open trial."""

    def close(self, trial: Trial, result: Result) -> None:
        """End the record of a trial, with all that was taken of it."""

    def interrupt(self, trial: Trial) -> None:
        """Leave the record of a trial that was interrupted as it is: what was not flushed is not in it."""


class Checkpoints(Protocol):
    """Where checkpoints are kept."""

    def latest(self, trial: Trial) -> Checkpoint | None:
        """The last one of a trial that is whole; None without one."""

    def save(self, trial: Trial, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint and the one before it; when this returns, no crash can take it away."""

    def end(self, trial: Trial, last: Checkpoint | None) -> None:
        """Forget those of a trial that has ended; but keep the state that it has ended with, where it is given."""


class Weights(Protocol):
    """Stores the weights of the best trial."""

    def keep(self, result: Result, weights: bytes | None, duplicate_of: int | None) -> str | None:
        """Keep the weights of a trial that has ended, if it is the best so far; those of the best before stay.

        Args:
            weights: None if the trial was not trained, or is not better than others.
            duplicate_of: the trial that it is a duplicate of, whose weights are also its own.

        Returns:
            The path of the file; None if its weights are not kept.
        """

    def forget_others(self) -> None:
        """Remove all weights except those of the best trial, whose record is closed."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it is recorded.

    Args:
        number: its number in its study; None for a single training.
        run_id: of its MLflow run.
        name: of its MLflow run.
        status: None while it runs or was interrupted.
        params: the configuration, flattened with dots, as text.
        metrics: the last value of each metric.
        half_life: updates, None where the rate never halves.
        stalled_at: step, None where the curve does not stall.
        reason: for which it has failed, one line; None of trials that have not.
        values: what the search drew, key or group -> value; empty for a single training and in older records.
        weights: path of the file that had its weights when it ended; None without one.
    """

    number: int | None
    run_id: str
    name: str
    status: Status | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    half_life: float | None
    stalled_at: int | None
    reason: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    @property
    def series(self) -> list[str]:
        """Those of SERIES that are recorded."""
        return [series for series in SERIES if f"{series}lr" in self.metrics]

    def param(self, key: str) -> str | None:
        """Return the text of a configured key, also of one within a mapping or list that is one param; None without it.

        The text of a group, also of `critic.schedule`, is the chosen option: a param of its own if it is not the name.
        """
        group = f"{key}.name"
        whole = group if key not in self.params and ("." not in key or group in self.params) else key
        name, within = whole, ""
        while name not in self.params and "." in name:
            name, _, leaf = name.rpartition(".")
            within = f"{leaf}.{within}" if within else leaf
        if name == whole or name not in self.params:
            text = self.params.get(whole)
        else:
            text = _within_text(self.params[name], within)
        if text is None and key in self.values:  # a mapping, which is recorded as several params
            return _text(self.values[key])
        return text


def _within_text(text: str, path: str) -> str | None:
    """Return the text of what a path leads to in a param; None if it leads nowhere, as in the option of a group."""
    try:
        return _within(json.loads(text), path)
    except json.JSONDecodeError:
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _within(value: Any, path: str) -> str | None:
    """Return the text of what a path leads to in a mapping or list; names may have dots; None if it leads nowhere."""
    if not isinstance(value, (Mapping, list)):
        return None
    for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        name = str(key)
        if path == name:
            return _text(inner)
        if path.startswith(f"{name}.") and (found := _within(inner, path.removeprefix(f"{name}."))) is not None:
            return found
    return None


@dataclass(frozen=True)
class StudyRecord:
    """A study as it is recorded.

    Args:
        metric, minimize: what it is judged by.
        searched: the keys it draws, groups first.
        command: the overrides that were given, but for the search's own; with the values of a trial they train it.
        trials: in the order of their numbers.
    """

    name: str
    run_id: str
    experiment_id: str
    metric: str
    minimize: bool
    searched: Sequence[str]
    command: str
    trials: Sequence[TrialRecord]

    @property
    def ranked(self) -> list[TrialRecord]:
        """The complete trials, best first; the earlier of equals first."""
        complete = [t for t in self.trials if t.status is Status.COMPLETE and self.metric in t.metrics]
        return sorted(complete, key=lambda t: t.metrics[self.metric] * (1 if self.minimize else -1))


@dataclass(frozen=True)
class Measurement:
    """An evaluation as it is recorded.

    Args:
        step: updates completed.
        seconds: since the run began.
        metrics: as evaluated.
    """

    step: int
    seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class FinalRecord:
    """A final run: the configuration of a family's best trial, trained on a fresh seed and tested.

    Args:
        trial: number of that trial in the family's study.
        seed: of this training.
        run: as recorded; its metrics are those of the end.
        evaluations: in the order of their steps.
    """

    trial: int
    seed: int
    run: TrialRecord
    evaluations: Sequence[Measurement]


@dataclass(frozen=True)
class FamilyRecord:
    """One schedule on one data set: the study that tuned it, and its final runs."""

    dataset: str
    schedule: str
    study: StudyRecord
    finals: Sequence[FinalRecord]


@dataclass(frozen=True)
class ComparisonRecord:
    """A comparison as it is recorded.

    Args:
        metric, minimize: what trials are judged by, on the validation split.
        trials: tuning trials of each family that count: the first so many of its study.
        seeds: of the final runs, the same for every family.
        confidence: of the intervals; 1 - confidence is the level of the tests.
        target: of `metric`, to which updates and seconds are counted; None for the median of the first family's finals.
        test: "t" or "wilcoxon".
        families: in the order asked for, data set by data set.
    """

    name: str
    run_id: str
    experiment_id: str
    metric: str
    minimize: bool
    trials: int
    seeds: Sequence[int]
    confidence: float
    target: float | None
    test: str
    families: Sequence[FamilyRecord]


class Reader(Protocol):
    """What is recorded, read back."""

    def names(self) -> list[str]:
        """The names of the comparisons, and of the studies that belong to none, newest first."""

    def study(self, name: str) -> StudyRecord | None:
        """One study with its trials; None where none of that name is recorded."""

    def comparison(self, name: str) -> ComparisonRecord | None:
        """One comparison with its studies and finals; None where none of that name is recorded."""

    def trainings(self) -> list[TrialRecord]:
        """The single trainings, newest first."""

    def rows(self, run_id: str, series: str = "") -> Rows:
        """The rows of one optimizer of a run, in the order of their steps."""


class Monitor(Protocol):
    """Who watches a search: the display."""

    def started(self, trial: Trial) -> None:
        """A trial begins."""

    def progressed(self, trial: Trial, progress: Progress) -> None:
        """A trial reached a boundary."""

    def ended(self, trial: Trial, result: Result) -> None:
        """A trial ended."""
