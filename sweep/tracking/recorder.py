"""Rows into MLflow: a run per trial."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sweep.core import Description, Evaluation, Event, Progress, Result, Rows, Status, Trial
from sweep.tracking.bulk import Change, Points, joined, now_ms, point
from sweep.tracking.parents import Parent
from sweep.tracking.reader import MlflowReader
from sweep.tracking.store import Store

RUN_STATUS = {
    Status.COMPLETE: "FINISHED",
    Status.PRUNED: "FINISHED",
    Status.DIVERGED: "FAILED",
    Status.FAILED: "FAILED",
}

BY_THEMSELVES = (Status.COMPLETE, Status.DIVERGED)
"""How a trial ends that depends on nothing but its own training."""


@dataclass
class OpenRun:
    """What is to be written of an open trial when it ends.

    Args:
        run_id: of its run.
        training: its tag `sweep.training`.
        clock: milliseconds since 1970, of the last rows taken.
        known: key -> steps that are recorded already, of a trial that goes on.
        parts: key -> points, in the order of their arrival.
        last: key -> the last point, where it is not among the parts: its step is not one that is recorded.
        tags: beside those that it was opened with.
        events: all so far.
    """

    run_id: str
    training: str | None
    clock: int
    known: Mapping[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, list[Points]] = field(default_factory=dict)
    last: dict[str, Points] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    events: Sequence[Event] = ()

    def take(self, points: Points) -> None:
        """Take points of one metric."""
        self.parts.setdefault(points.key, []).append(points)

    def take_every(self, points: Points, every: int) -> None:
        """Take points of one metric whose step `every` divides; and the last one, unless others follow it."""
        kept = points.steps % every == 0
        self.take(points.at(kept))
        self.last.pop(points.key, None)
        if not kept[-1]:
            self.last[points.key] = points.at(slice(-1, None))

    @property
    def points(self) -> list[Points]:
        """All that is to be written: for each metric, what is not recorded yet."""
        every = [joined([*parts, *([self.last[key]] if key in self.last else [])]) for key, parts in self.parts.items()]
        return [one.at(~np.isin(one.steps, self.known[one.key])) if one.key in self.known else one for one in every]


class MlflowRecorder:
    """One MLflow run per trial, its rows written when it ends. Trials with the same tag `sweep.training` are twins.

    Of a run that has the tag `sweep.status` everything is recorded; a database gets all of it in one transaction.

    Args:
        store: where to record.
        describe: what is recorded of a trial, beside its rows, when it begins and when events have changed its curve.
        parent: of the study, or of a family's finals; None for a single training.
        on_open: told the run of each trial that begins.
        goes_on: the run of the trial that has a state.
    """

    def __init__(
        self,
        store: Store,
        describe: Callable[[Trial, Sequence[Event]], Description],
        parent: Parent | None = None,
        on_open: Callable[[Trial, str], None] = lambda trial, run_id: None,
        goes_on: str | None = None,
    ) -> None:
        self.store, self.parent, self._goes_on = store, parent, goes_on
        self._describe, self._on_open = describe, on_open
        self._runs: dict[int, str] = {}
        self._open: dict[int, OpenRun] = {}
        """In the order of their opening."""
        self._trained: dict[str, tuple[int, str]] = {}
        """Trial and run of each training that was trained to its own end."""
        self._leftover: dict[int, list[str]] = {}
        for number, run in parent.children() if parent else []:
            tags = run.data.tags
            self._leftover.setdefault(number, []).append(run.info.run_id)
            if "sweep.twin_of" not in tags and tags.get("sweep.status") in BY_THEMSELVES:
                self._remember(tags.get("sweep.training"), number, run.info.run_id)

    def open(self, trial: Trial) -> None:
        """Begin a run. A run that an interrupted attempt left is deleted: the trial is trained from its start."""
        for run_id in self._leftover.pop(trial.number, []):
            self.store.client.set_terminated(run_id, "KILLED")  # a deleted run keeps the status it had
            self.store.client.delete_run(run_id)
        self._trained = {training: of for training, of in self._trained.items() if of[0] != trial.number}
        description = self._describe(trial, ())
        training = description.tags.get("sweep.training")
        if trial.state is None:
            self._open[trial.number] = OpenRun(self._begin(trial, description), training, now_ms())
        else:
            self._open[trial.number] = self._go_on(training)
        run_id = self._runs[trial.number] = self._open[trial.number].run_id
        self._on_open(trial, run_id)

    def _begin(self, trial: Trial, description: Description) -> str:
        """A new run."""
        kind = self.parent.child_tags(trial) if self.parent else {"sweep.kind": "train"}
        tags, files = {**description.tags, **kind}, description.artifacts
        return self.store.writer.create(self.store.experiment_id, description.name, tags, description.params, files)

    def _go_on(self, training: str | None) -> OpenRun:
        """The run that a trial with a state has. A command that ended before it kept its state may be in it too."""
        assert self._goes_on is not None
        client = self.store.client
        keys = client.get_run(self._goes_on).data.metrics
        known = {key: np.array([m.step for m in client.get_metric_history(self._goes_on, key)]) for key in keys}
        client.update_run(self._goes_on, status="RUNNING")
        return OpenRun(self._goes_on, training, now_ms(), known)

    def run_id(self, trial: Trial) -> str:
        """The run of a trial that was opened here."""
        return self._runs[trial.number]

    def twin_of(self, trial: Trial) -> int | None:
        training = self._open[trial.number].training
        if training is None:
            return None
        if training in self._trained:
            return self._trained[training][0]
        first = next(number for number, of in self._open.items() if of.training == training)
        return None if first == trial.number else first

    def replay(self, trial: Trial) -> list[Progress]:
        opened = self._open[trial.number]
        assert opened.training is not None
        twin, run_id = self._trained[opened.training]
        opened.tags["sweep.twin_of"] = str(twin)
        recorded = MlflowReader(self.store).progress(run_id, trial.number)
        return [replace(progress, twin_of=twin) for progress in recorded]

    def record(self, rows: Rows) -> None:
        opened, now = self._open[rows.trial], now_ms()
        times = np.linspace(opened.clock, now, len(rows.lr) + 1)[1:].astype(np.int64)
        opened.clock = now
        if len(rows.lr):
            steps = rows.steps
            for key, column in (("lr", rows.lr), ("loss", rows.loss)):
                values = np.where(np.isfinite(column), column, np.nan)  # MLflow would store inf as a number
                opened.take_every(Points(rows.series + key, steps, times, values), self.store.every)

    def evaluate(self, evaluation: Evaluation) -> None:
        opened, now = self._open[evaluation.trial], now_ms()
        for key, value in evaluation.metrics.items():
            opened.take(point(key, evaluation.step, now, value))

    def mark(self, trial: Trial, events: Sequence[Event]) -> None:
        self._open[trial.number].events = events

    def close(self, trial: Trial, result: Result) -> None:
        opened = self._open[trial.number]
        tags = {**opened.tags, **self._described_again(trial, opened), "sweep.status": result.status.value}
        ended = Change(opened.run_id, opened.points, tags, RUN_STATUS[result.status])
        parent = [self.parent.add(trial.number, result.value)] if self.parent and result.value is not None else []
        self.store.writer.write([ended, *parent])
        del self._open[trial.number]
        if result.status in BY_THEMSELVES:
            self._remember(opened.training, trial.number, opened.run_id)

    def _described_again(self, trial: Trial, opened: OpenRun) -> dict[str, str]:
        """Replace what was said of a curve that events have changed since: the files at once; the tags."""
        if not opened.events:
            return {}
        description = self._describe(trial, opened.events)
        self.store.writer.attach(opened.run_id, description.artifacts)
        return {**description.tags, "sweep.event": " ".join(map(str, opened.events))}

    def give_up(self, numbers: Iterable[int]) -> None:
        """End as FAILED what crashed trials left, which will not be trained again."""
        for number in numbers:
            for run_id in self._leftover.pop(number, []):
                failed = Change(run_id, tags={"sweep.status": Status.FAILED.value}, status=RUN_STATUS[Status.FAILED])
                self.store.writer.write([failed])

    def interrupt(self, trial: Trial) -> None:
        """End the run as KILLED, without rows; the next attempt deletes it."""
        if self._open.pop(trial.number, None) is not None:
            self.store.client.set_terminated(self._runs[trial.number], "KILLED")
            self._leftover[trial.number] = [self._runs.pop(trial.number)]

    def _remember(self, training: str | None, number: int, run_id: str) -> None:
        """A trial that its twins can be played back from: the one that was trained, not one of its twins."""
        if training is not None:
            self._trained.setdefault(training, (number, run_id))
