"""The types that the packages exchange, and the interfaces of the packages."""

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
"""A value that a search draws for one key."""


class Status(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Snapshot:
    """The state of a training between two updates.

    Args:
        step: completed updates.
        content: the state as bytes. Any engine resumes from it, with bit-identical results.
    """

    step: int
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        number: its number in its study.
        values: the values that the search drew, by key or group.
        first: the step of its first update; later than 0 if it continues another training.
        state: the state that it resumes from; None at the start.
        keeps_state: whether the state at its end is stored.
        final: whether it is also evaluated on the test split at its end. No other trial uses that split.
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
        """Return the completed updates at its end: the horizon, or `first + train.more_steps`."""
        train = self.config.train
        return train.steps if train.more_steps is None else self.first + train.more_steps


MAX_RECORD_NAME_CHARACTERS = 250
"""Length of the longest name that MLflow accepts for a metric, param or tag."""


@lru_cache(4096)
def is_record_name(name: str) -> bool:
    """Return whether MLflow accepts the name for a metric, param or tag.

    It consists of letters, digits and "_-. :/", and as a path it is relative and in normal form.
    """
    if len(name) > MAX_RECORD_NAME_CHARACTERS or not re.fullmatch(r"[\w.\- :/]+", name):
        return False
    return posixpath.normpath(name) == name and name != "." and not name.startswith(("/", ".."))


@dataclass(frozen=True)
class Description:
    """The part of a trial's record that is known when it begins.

    Args:
        name: distinguishes the trial from the others of its study in a legend.
        params: the resolved configuration, flattened with dots, as text.
        tags: key figures and digests of its curve.
        artifacts: file name -> content.
    """

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    artifacts: Mapping[str, bytes]


SERIES = ("", "G_", "D_")
"""Prefixes of the names lr and loss: of a model with one optimizer, and of the generator and the critic of a GAN."""


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
        samples: [n, *shape of an example], the output of a generator for the same latent numbers at every evaluation;
            None for other models, and for an evaluation that is read from the record.
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
    """The progress of a trial since the last one: at a boundary (an evaluation or the end), or between two."""

    trial: int
    rows: Sequence[Rows]
    evaluation: Evaluation | None
    status: Status | None
    """COMPLETE, DIVERGED or FAILED if the trial has ended, otherwise None."""
    events: Sequence[Event] = ()
    """All events of its schedule so far."""
    state: Snapshot | None = None
    """The state after these rows and this evaluation, if a checkpoint is due."""
    duplicate_of: int | None = None
    """The trial whose record this is, if this trial is a duplicate and was not trained itself."""
    failure: Failure | None = None
    """The reason, if the status is FAILED."""
    weights: bytes | None = field(default=None, repr=False)
    """The state dict of the model as torch saves it, if the trial is complete and may be the best."""


@dataclass(frozen=True)
class Result:
    """The result of a trial.

    Args:
        value: the objective, which is the metric at the end of the horizon; None unless the trial is complete.
        failure: the reason; None unless the trial has failed.
    """

    trial: int
    status: Status
    value: float | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Checkpoint:
    """All that a trial is resumed from after an interruption.

    Args:
        first, last: those of the trial.
        evaluations: all evaluations of the trial so far.
        record: what the recorder has taken and not recorded yet, from `Recorder.pending`.
    """

    first: int
    last: int
    state: Snapshot
    evaluations: Sequence[Evaluation]
    record: bytes = field(repr=False)


class Proposer(Protocol):
    """Proposes trials."""

    def ask(self) -> Trial | None:
        """Return the next trial; None if there is none now. If no trial is in training, there will be none later."""

    def give_up(self, trial: Trial) -> bool:
        """Give up a trial whose training was lost too often, and return whether it was given up.

        Called after `ask`, before the record of the trial is opened.
        """

    def report(self, trial: Trial, evaluation: Evaluation) -> None:
        """Take an intermediate evaluation."""

    def should_prune(self, trial: Trial, events: Sequence[Event]) -> bool:
        """Return whether to stop the trial after the last evaluation that was reported.

        Args:
            events: all events of the trial so far, which say whether its warmup has ended.
        """

    def tell(self, trial: Trial, result: Result) -> None:
        """Take the result of a trial. Called once for each trial that was asked and not given up."""

    def kept(self, trial: Trial) -> None:
        """Note that a checkpoint of the trial was stored, so that earlier interruptions no longer count."""

    def release(self, trial: Trial) -> None:
        """Give back a trial that was interrupted on request. `ask` will return it again."""


class Engine(Protocol):
    """Trains trials in slots."""

    @property
    def free(self) -> int:
        """Return the number of trials that can be started now."""

    def start(self, trial: Trial) -> None:
        """Put a trial into a free slot. It starts at step 0, or resumes from its state."""

    def advance(self) -> list[Progress]:
        """Train all trials to the nearest boundary, and return the progress of those that reached theirs.

        A trial whose status is set has left its slot.
        """

    def snapshots(self) -> Iterable[Progress]:
        """Return the state of each trial in training, preceded by its progress until then. Called before an end."""

    def stop(self, trial: Trial) -> None:
        """Remove a trial from its slot."""


class Recorder(Protocol):
    """Persists the record of trials. Rows are recorded after a checkpoint that contains them was stored."""

    def ended(self, trial: Trial) -> Sequence[Progress] | None:
        """Return the recorded progress of a trial whose record was closed before; None for any other trial.

        Such a trial was interrupted between `close` and `Proposer.tell`.
        """

    def open(self, trial: Trial, record: bytes | None = None) -> bool:
        """Begin the record of a trial, or resume the record of an interrupted attempt.

        Args:
            record: what `pending` returned then; None for a trial that begins with its first update.

        Returns:
            Whether the record is resumed. If not, the trial must begin with its first update.
        """

    def duplicate_of(self, trial: Trial) -> int | None:
        """Return the trial that is the same training as this open trial; None if none is known.

        It has ended as COMPLETE or DIVERGED, or was opened before this one. Pruned trials do not count, because pruning
        depends on other trials.
        """

    def replay(self, trial: Trial) -> Sequence[Progress]:
        """Return the recorded progress of the trial that `duplicate_of` named, with the number of the open trial.

        The open trial is recorded as a duplicate from this call on.
        """

    def record(self, rows: Rows) -> None:
        """Take the rows of consecutive updates."""

    def evaluate(self, evaluation: Evaluation) -> None:
        """Take an evaluation."""

    def mark(self, trial: Trial, events: Sequence[Event]) -> None:
        """Take all events of a trial until now."""

    def pending(self, trial: Trial) -> bytes:
        """Return what was taken of an open trial and is not recorded yet, for its checkpoint."""

    def flush(self, trial: Trial) -> None:
        """Record what was taken of an open trial. Called after it was stored in a checkpoint."""

    def note_weights(self, trial: Trial, path: str) -> None:
        """Record the path of the file that has the weights of an open trial."""

    def close(self, trial: Trial, result: Result) -> None:
        """Record all that was taken of a trial, and its result, and end its record."""

    def interrupt(self, trial: Trial) -> None:
        """Leave the record of an interrupted trial as it was after the last `flush`."""


class Checkpoints(Protocol):
    """Stores checkpoints."""

    def latest(self, trial: Trial) -> Checkpoint | None:
        """Return the last valid checkpoint of a trial; None if there is none."""

    def save(self, trial: Trial, checkpoint: Checkpoint) -> None:
        """Store a checkpoint and keep the one before it. It is fsynced when this returns."""

    def end(self, trial: Trial, last: Checkpoint | None) -> None:
        """Remove the checkpoints of a trial that has ended, and store its last state if one is given."""


class Weights(Protocol):
    """Stores the weights of the best trial."""

    def keep(self, result: Result, weights: bytes | None, duplicate_of: int | None) -> str | None:
        """Store the weights of a trial that has ended, if it is the best so far. Those of the best before it stay.

        Args:
            weights: None if the trial was not trained, or is not better than others.
            duplicate_of: the trial that it is a duplicate of, whose weights are also its own.

        Returns:
            The path of the file; None if the weights are not stored.
        """

    def forget_others(self) -> None:
        """Remove all weights except those of the best trial, whose record is closed."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it is recorded.

    Args:
        number: its number in its study; None for a single training.
        run_id, name: of its MLflow run.
        status: None if it runs or was interrupted.
        params: the configuration, flattened with dots, as text.
        metrics: the last value of each metric.
        half_life: in updates; None if the rate never halves.
        stalled_at: the step at which the curve stalls; None if it does not.
        reason: the reason for its failure, one line; None if it has not failed.
        values: the values that the search drew, by key or group; empty for a single training and in older records.
        weights: path of the file with its weights; None if they are not stored.
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
        """Return the elements of SERIES that are recorded."""
        return [series for series in SERIES if f"{series}lr" in self.metrics]

    def param(self, key: str) -> str | None:
        """Return the text of a configured key; None if it is not recorded.

        A key within a mapping or list is found in the param of the whole. The text of a group, also of
        `critic.schedule`, is the chosen option: a param of its own if it differs from the name.
        """
        text, whole = self.params.get(key, self.params.get(f"{key}.name")), key
        while text is None and "." in whole:
            whole = whole.rpartition(".")[0]
            if whole in self.params:
                text = _within_text(self.params[whole], key.removeprefix(f"{whole}."))
                break
        if text is None and key in self.values:  # a mapping, which is recorded as several params
            return _text(self.values[key])
        return text


def _within_text(text: str, path: str) -> str | None:
    """Return the text of an entry of a param; None if there is none, as in the option of a group."""
    try:
        return _within(json.loads(text), path)
    except json.JSONDecodeError:
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _within(value: Any, path: str) -> str | None:
    """Return the text of an entry of a mapping or list; None if there is none. Names may have dots."""
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
        metric, minimize: the metric that trials are ranked by, and whether less is better.
        searched: the searched keys, groups first.
        command: the overrides of the command without those of the search; with the values of a trial they train it.
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
        """Return the complete trials, best first; of equal trials the earlier first."""
        complete = [t for t in self.trials if t.status is Status.COMPLETE and self.metric in t.metrics]
        return sorted(complete, key=lambda t: t.metrics[self.metric] * (1 if self.minimize else -1))


@dataclass(frozen=True)
class Measurement:
    """An evaluation as it is recorded.

    Args:
        step: completed updates.
        seconds: since the start of the run.
    """

    step: int
    seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class FinalRecord:
    """A final run: the configuration of the best trial of a family, trained with a new seed and tested.

    Args:
        trial: number of that trial in the study of the family.
        seed: the seed of this training.
        run: the record of this training, with the metrics at its end.
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
        metric, minimize: the validation metric that trials are ranked by, and whether less is better.
        trials: number of trials of each family that count as its tuning: the first ones of its study.
        seeds: of the final runs, the same for every family.
        confidence: of the intervals; 1 - confidence is the level of the tests.
        target: the value of `metric` to which updates and seconds are counted; None for the median of the final runs of
            the first family.
        test: "t" or "wilcoxon".
        families: in the requested order, one data set after another.
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
    """Reads the record."""

    def names(self) -> list[str]:
        """Return the names of the comparisons, and of the studies that belong to none, newest first."""

    def study(self, name: str) -> StudyRecord | None:
        """Return a study with its trials; None if none of that name is recorded."""

    def comparison(self, name: str) -> ComparisonRecord | None:
        """Return a comparison with its studies and final runs; None if none of that name is recorded."""

    def trainings(self) -> list[TrialRecord]:
        """Return the single trainings, newest first."""

    def rows(self, run_id: str, series: str = "") -> Rows:
        """Return the rows of one optimizer of a run, in the order of their steps."""


class Monitor(Protocol):
    """Shows the progress of a search."""

    def started(self, trial: Trial) -> None:
        """Note that a trial begins."""

    def progressed(self, trial: Trial, progress: Progress) -> None:
        """Note the progress of a trial."""

    def ended(self, trial: Trial, result: Result) -> None:
        """Note that a trial has ended."""
