"""Record trials in MLflow, one run each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from mlflow.entities import Run

from sweep.core import GIVEN_UP, Description, Evaluation, Progress, Result, Rows, Status, Trial
from sweep.errors import RemovedError
from sweep.plurals import plural
from sweep.schedules import Event
from sweep.tracking.bulk import Change, Points, now_ms, point
from sweep.tracking.open_run import OpenRun
from sweep.tracking.parents import Parent
from sweep.tracking.reader import REASON, WEIGHTS, MlflowReader
from sweep.tracking.server import reason_of
from sweep.tracking.store import Store

RUN_STATUS = {
    Status.COMPLETE: "FINISHED",
    Status.PRUNED: "FINISHED",
    Status.DIVERGED: "FAILED",
    Status.FAILED: "FAILED",
}

ERROR_FILE = "error.txt"
"""The artifact of a failed trial that shows its error with the frames of the user's code."""

BY_THEMSELVES = (Status.COMPLETE, Status.DIVERGED)
"""Statuses that depend only on the training of the trial itself: a pruner is not involved."""


@dataclass(frozen=True)
class _Left:
    """A run that an earlier attempt has left.

    Args:
        ended: whether its trial ended, so that the record is complete.
        running: whether its status in MLflow is RUNNING.
        rows: whether it has rows.
        failed: whether its training failed.
    """

    run_id: str
    ended: bool = False
    running: bool = False
    rows: bool = False
    failed: bool = False

    @classmethod
    def of(cls, run: Run) -> "_Left":
        status, running = run.data.tags.get("sweep.status"), run.info.status == "RUNNING"
        failed = status == Status.FAILED
        return cls(run.info.run_id, status is not None, running, bool(run.data.metrics), failed)


class MlflowRecorder:
    """Records each trial as one MLflow run. Rows are written when a checkpoint covers them, and when the trial ends.

    Trials with the same tag `sweep.training` are duplicates. The record of a run with the tag `sweep.status` is
    complete: the tag is written with the last rows, in one transaction. A run whose trial is not being trained is
    ended; an interrupted one as KILLED.

    Args:
        store: the MLflow store.
        describe: returns name, params, tags and artifacts of a trial; called when the trial begins, and again when
            events have changed its curve.
        parent: finds the runs of the trials.
        on_open: called with each trial that begins and its run id.
        draw: draws samples as a PNG picture; returns None if they are not images.
        retrains_failed: whether a trial whose recorded training failed is trained again.
    """

    def __init__(
        self,
        store: Store,
        describe: Callable[[Trial, Sequence[Event]], Description],
        parent: Parent,
        on_open: Callable[[Trial, str], None] = lambda trial, run_id: None,
        draw: Callable[[np.ndarray], bytes | None] = lambda samples: None,
        retrains_failed: bool = False,
    ) -> None:
        self.store, self.parent, self._retrains_failed = store, parent, retrains_failed
        self._describe, self._on_open, self._draw = describe, on_open, draw
        self._runs: dict[int, str] = {}
        self._open: dict[int, OpenRun] = {}
        """Open trials, in the order in which they were opened."""
        self._trials: dict[int, Trial] = {}
        """Trials that were opened by this process."""
        self._trained: dict[str, tuple[int, str]] = {}
        """Tag `sweep.training` -> number and run of the trial with this training, if it was complete or diverged."""
        self._replays: dict[int, list[Progress]] = {}
        """Trial number -> the recorded progress that `replay` returns; read by `duplicate_of`."""
        self._left: dict[int, list[_Left]] = {}
        """Trial number -> runs of earlier attempts, until the trial is opened."""
        self.weights: dict[int, str] = {}
        """Trial number -> file with the weights, from the tags of trials that were recorded before."""
        for number, run in parent.children():
            tags = run.data.tags
            self._left.setdefault(number, []).append(_Left.of(run))
            if WEIGHTS in tags:
                self.weights[number] = tags[WEIGHTS]
            if not tags.keys() & {"sweep.duplicate_of", "sweep.twin_of"} and tags.get("sweep.status") in BY_THEMSELVES:
                self._remember(tags.get("sweep.training"), number, run.info.run_id)
        self._reap()

    def _reap(self) -> None:
        """End the runs that a crash left RUNNING."""
        running = [run for runs in self._left.values() for run in runs if run.running]
        self.store.write([Change(run.run_id, status="KILLED") for run in running])

    def ended(self, trial: Trial) -> Sequence[Progress] | None:
        left = self._left.get(trial.number, [])
        whole = [run for run in left if run.ended and not (run.failed and self._retrains_failed)]
        if not whole or trial.keeps_state:  # the record does not contain the state
            return None
        self._runs[trial.number] = whole[0].run_id
        return MlflowReader(self.store).progress(whole[0].run_id, trial.number)

    def open(self, trial: Trial, record: bytes | None = None) -> bool:
        left = self._left.pop(trial.number, [])
        if left or trial.number in self._runs:  # only then it may have been trained before
            self._trained = {training: of for training, of in self._trained.items() if of[0] != trial.number}
        description = self._describe(trial, ())
        opened = self._kept(left, record)
        resumes = opened is not None
        if opened is None:
            opened = OpenRun(self._empty(trial, left, description), None, now_ms())
        opened.training = description.tags.get("sweep.training")
        self._open[trial.number], self._runs[trial.number] = opened, opened.run_id
        self._trials[trial.number] = trial
        self._on_open(trial, self.store.public_id(opened.run_id))
        return resumes

    def _kept(self, left: Sequence[_Left], record: bytes | None) -> OpenRun | None:
        """Return the buffer of a checkpoint if its run still exists, and set the run to RUNNING."""
        if record is None:
            return None
        opened = OpenRun.unpacked(record)
        for run in left:
            if opened.run_id == run.run_id:
                opened.clock, opened.flushed = now_ms(), True
                if run.failed:  # this attempt may not fail
                    opened.tags[REASON] = ""
                self.store.write([Change(run.run_id, status="RUNNING")])
                opened.known = self.store.steps(run.run_id, opened.recorded)  # may be more than the checkpoint has
                return opened
        return None

    def _empty(self, trial: Trial, left: Sequence[_Left], description: Description) -> str:
        """Return a run without rows: one of an interrupted attempt, or a new one. Delete other runs of the trial."""
        empty = next((run.run_id for run in left if not run.rows and not run.failed), None)
        for run in left:
            if run.run_id != empty:  # no checkpoint covers its rows, and the training may not repeat them to the bit
                self.store.writer.delete(run.run_id)
        if empty is not None:
            self.store.write([Change(empty, status="RUNNING")])
            return empty
        tags = {**description.tags, **self.parent.child_tags(trial)}
        return self.store.create(description.name, tags, description.params, description.artifacts)

    def run_id(self, trial: Trial) -> str:
        """Return the run id of a trial that this process opened."""
        return self._runs[trial.number]

    def duplicate_of(self, trial: Trial) -> int | None:
        training = self._open[trial.number].training
        if training is None:
            return None
        if training in self._trained:
            return self._read_duplicate(trial, *self._trained[training])
        first = next(number for number, of in self._open.items() if of.training == training)
        return None if first == trial.number else first

    def _read_duplicate(self, trial: Trial, duplicate: int, run: str) -> int | None:
        """Return the duplicate, if its record can be read."""
        try:
            recorded = MlflowReader(self.store).progress(run, trial.number)
        except Exception as error:  # of MLflow, or of a record that a person has edited
            reason = f"the record of its duplicate, trial {duplicate}, cannot be read ({reason_of(error)})"
            self.store.hooks.say(f"trial {trial.number} is trained: {reason}")
            return None
        self._replays[trial.number] = [replace(progress, duplicate_of=duplicate) for progress in recorded]
        return duplicate

    def replay(self, trial: Trial) -> list[Progress]:
        recorded = self._replays.pop(trial.number)
        self._open[trial.number].tags["sweep.duplicate_of"] = str(recorded[-1].duplicate_of)
        return recorded

    def record(self, rows: Rows) -> None:
        opened, now = self._open[rows.trial], now_ms()
        times = np.linspace(opened.clock, now, len(rows) + 1)[1:].astype(np.int64)
        opened.clock = now
        if len(rows):
            for key, column in (("lr", rows.lr), ("loss", rows.loss)):
                values = np.where(np.isfinite(column), column, np.nan)  # MLflow would store inf as a number
                opened.take_every(Points(rows.series + key, rows.steps, times, values), self.store.every)

    def evaluate(self, evaluation: Evaluation) -> None:
        opened, now = self._open[evaluation.trial], now_ms()
        for key, value in evaluation.metrics.items():
            opened.take(point(key, evaluation.step, now, value))
        picture = None if evaluation.samples is None else self._draw(evaluation.samples)
        if picture is not None:  # a training that resumes before this step draws the same picture again
            self._attach(opened.run_id, {f"samples/{evaluation.step:06d}.png": picture})

    def mark(self, trial: Trial, events: Sequence[Event]) -> None:
        self._open[trial.number].events = events

    def pending(self, trial: Trial) -> bytes:
        return self._open[trial.number].packed()

    def flush(self, trial: Trial) -> None:
        opened = self._open[trial.number]
        points = self._points(opened, ended=False)
        if any(len(one) for one in points):
            opened.flushed = True
            self._write([Change(opened.run_id, points)])
        opened.forget()

    def note_weights(self, trial: Trial, path: str) -> None:
        self._open[trial.number].tags[WEIGHTS] = path

    def close(self, trial: Trial, result: Result) -> None:
        opened = self._open[trial.number]
        public = self.store.public_id(opened.run_id)
        if public != opened.run_id:  # the server may have created it only after it was opened
            self._on_open(trial, public)
        tags = {**opened.tags, **self._described_again(trial, opened), "sweep.status": result.status.value}
        if result.failure is not None:
            tags[REASON] = result.failure.reason
            if result.failure.details:
                self.store.attach(opened.run_id, {ERROR_FILE: result.failure.details.encode()})
        ended = Change(opened.run_id, self._points(opened, ended=True), tags, RUN_STATUS[result.status])
        parent = [] if result.value is None else self.parent.add(trial.number, result.value)
        self._write([ended, *parent])
        del self._open[trial.number]
        if result.status in BY_THEMSELVES:
            self._remember(opened.training, trial.number, opened.run_id)

    def _points(self, opened: OpenRun, ended: bool) -> list[Points]:
        """Return what is to be written, the metric that trials are judged by first and lr and loss last.

        MLflow's page that compares runs begins with the metric that the first of them stores first.
        """

        def place(points: Points) -> tuple[bool, bool]:
            return points.key != self.parent.metric, not points.key.startswith(("val_", "test_"))

        return sorted(opened.points(ended), key=place)

    def _write(self, changes: Sequence[Change]) -> None:
        """Write changes of open runs and of the parent. First create a run again if it was removed from MLflow."""
        try:
            self.store.write(changes)
        except RemovedError as error:
            if not self._create_again(error.name):
                raise
            self._write(changes)

    def _attach(self, run_id: str, files: Mapping[str, bytes]) -> None:
        try:
            self.store.attach(run_id, files)
        except RemovedError as error:
            if not self._create_again(error.name):
                raise
            self.store.attach(run_id, files)

    def _create_again(self, run_id: str) -> bool:
        """Create the run of an open trial, or the parent, again under its id; return whether it is one of these."""
        for number, opened in self._open.items():
            if opened.run_id == run_id:
                trial = self._trials[number]
                about = self._describe(trial, opened.events)
                tags = {**about.tags, **self.parent.child_tags(trial)}
                self.store.create(about.name, tags, about.params, about.artifacts, removed=run_id)
                lost = max(opened.recorded.values(), default=0)
                without = f", without its first {plural(lost, 'step')}" if lost else ""
                said = f"run {about.name} was removed from MLflow while it is written to: it is created again{without}"
                self.store.hooks.say(said)
                return True
        return self.parent.create_again(run_id)

    def _described_again(self, trial: Trial, opened: OpenRun) -> dict[str, str]:
        """Replace the artifacts of a curve that events have changed, and return its tags."""
        if not opened.events:
            return {}
        description = self._describe(trial, opened.events)
        self._attach(opened.run_id, description.artifacts)
        return {**description.tags, "sweep.event": " ".join(map(str, opened.events))}

    def give_up(self, numbers: Iterable[int]) -> None:
        """End the runs of crashed trials as FAILED; they will not be trained again."""
        for number in numbers:
            failed = {"sweep.status": Status.FAILED.value, REASON: GIVEN_UP.reason}
            left = [run for run in self._left.pop(number, []) if not run.ended]
            changes = [Change(run.run_id, tags=failed, status=RUN_STATUS[Status.FAILED]) for run in left]
            self.store.write(changes)

    def interrupt(self, trial: Trial) -> None:
        """End the run as KILLED, with the rows that it has. The next attempt resumes it."""
        opened = self._open.get(trial.number)
        if opened is not None:
            self._write([Change(opened.run_id, status="KILLED")])
            del self._open[trial.number]
            self._left[trial.number] = [_Left(opened.run_id, rows=opened.flushed)]

    def _remember(self, training: str | None, number: int, run_id: str) -> None:
        """A trial that its duplicates can be played back from: the one that was trained, not one of its duplicates."""
        if training is not None:
            self._trained.setdefault(training, (number, run_id))
