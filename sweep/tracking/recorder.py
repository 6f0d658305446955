"""Rows into MLflow: a run per trial."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from mlflow.entities import Metric

from sweep.core import Description, Evaluation, Event, Progress, Result, Rows, Status, Trial
from sweep.tracking.parents import Parent, create_run, log_artifact, now_ms
from sweep.tracking.reader import MlflowReader
from sweep.tracking.store import Store

METRICS_AT_ONCE = 1000
"""The most that MLflow takes in one batch."""

RUN_STATUS = {
    Status.COMPLETE: "FINISHED",
    Status.PRUNED: "FINISHED",
    Status.DIVERGED: "FAILED",
    Status.FAILED: "FAILED",
}

BY_THEMSELVES = (Status.COMPLETE, Status.DIVERGED)
"""How a trial ends that depends on nothing but its own training."""


class MlflowRecorder:
    """One MLflow run per trial, its rows written when it ends. Trials with the same tag `sweep.training` are twins.

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
        self._pending: dict[int, list[Metric]] = {}
        self._clock: dict[int, int] = {}
        self._events: dict[int, Sequence[Event]] = {}
        self._known: dict[int, set[tuple[str, int]]] = {}
        """Key and step of what is recorded already of each open trial that goes on."""
        self._open: dict[int, str | None] = {}
        """The training of each open trial, in the order of their opening."""
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
        run_id = self._begin(trial, description) if trial.state is None else self._go_on(trial)
        self._runs[trial.number], self._pending[trial.number] = run_id, []
        self._clock[trial.number] = now_ms()
        self._open[trial.number] = description.tags.get("sweep.training")
        self._on_open(trial, run_id)

    def _begin(self, trial: Trial, description: Description) -> str:
        """A new run."""
        kind = self.parent.child_tags(trial) if self.parent else {"sweep.kind": "train"}
        run_id = create_run(self.store, description.name, {**description.tags, **kind}, description.params)
        for name, content in description.artifacts.items():
            log_artifact(self.store, run_id, name, content)
        return run_id

    def _go_on(self, trial: Trial) -> str:
        """The run that a trial with a state has. A command that ended before it kept its state may be in it too."""
        assert self._goes_on is not None
        client = self.store.client
        keys = client.get_run(self._goes_on).data.metrics
        histories = [client.get_metric_history(self._goes_on, key) for key in keys]
        self._known[trial.number] = {(m.key, m.step) for history in histories for m in history}
        client.update_run(self._goes_on, status="RUNNING")
        return self._goes_on

    def run_id(self, trial: Trial) -> str:
        """The run of a trial that was opened here."""
        return self._runs[trial.number]

    def twin_of(self, trial: Trial) -> int | None:
        training = self._open[trial.number]
        if training is None:
            return None
        if training in self._trained:
            return self._trained[training][0]
        first = next(number for number, of in self._open.items() if of == training)
        return None if first == trial.number else first

    def replay(self, trial: Trial) -> list[Progress]:
        training = self._open[trial.number]
        assert training is not None
        twin, run_id = self._trained[training]
        self.store.client.set_tag(self._runs[trial.number], "sweep.twin_of", str(twin))
        recorded = MlflowReader(self.store).progress(run_id, trial.number)
        return [replace(progress, twin_of=twin) for progress in recorded]

    def record(self, rows: Rows) -> None:
        now = now_ms()
        times = np.linspace(self._clock[rows.trial], now, len(rows.lr) + 1)[1:].astype(np.int64).tolist()
        self._clock[rows.trial] = now
        steps = rows.steps.tolist()
        for key, column in (("lr", rows.lr), ("loss", rows.loss)):
            values = np.where(np.isfinite(column), column, np.nan).tolist()  # MLflow would store inf as a number
            self._pending[rows.trial] += [
                Metric(rows.series + key, value, at, step) for value, at, step in zip(values, times, steps, strict=True)
            ]

    def evaluate(self, evaluation: Evaluation) -> None:
        now = now_ms()
        self._pending[evaluation.trial] += [
            Metric(key, value, now, evaluation.step) for key, value in evaluation.metrics.items()
        ]

    def mark(self, trial: Trial, events: Sequence[Event]) -> None:
        self._events[trial.number] = events

    def close(self, trial: Trial, result: Result) -> None:
        run_id, known = self._runs[trial.number], self._known.pop(trial.number, set())
        pending = [metric for metric in self._pending.pop(trial.number) if (metric.key, metric.step) not in known]
        for first in range(0, len(pending), METRICS_AT_ONCE):
            self.store.client.log_batch(run_id, metrics=pending[first : first + METRICS_AT_ONCE])
        if events := self._events.pop(trial.number, ()):
            self._describe_again(trial, events)
        if self.parent and result.value is not None:
            self.parent.add(trial.number, result.value)
        self.store.client.set_terminated(run_id, RUN_STATUS[result.status])
        self.store.client.set_tag(run_id, "sweep.status", result.status.value)  # last: what has it is whole
        training = self._open.pop(trial.number)
        if result.status in BY_THEMSELVES:
            self._remember(training, trial.number, run_id)

    def _describe_again(self, trial: Trial, events: Sequence[Event]) -> None:
        """Replace what was said of a curve that events have changed since."""
        run_id, description = self._runs[trial.number], self._describe(trial, events)
        for key, value in {**description.tags, "sweep.event": " ".join(map(str, events))}.items():
            self.store.client.set_tag(run_id, key, value)
        for name, content in description.artifacts.items():
            log_artifact(self.store, run_id, name, content)

    def give_up(self, numbers: Iterable[int]) -> None:
        """End as FAILED what crashed trials left, which will not be trained again."""
        for number in numbers:
            for run_id in self._leftover.pop(number, []):
                self.store.client.set_tag(run_id, "sweep.status", Status.FAILED.value)
                self.store.client.set_terminated(run_id, RUN_STATUS[Status.FAILED])

    def interrupt(self, trial: Trial) -> None:
        """End the run as KILLED, without rows; the next attempt deletes it."""
        self._events.pop(trial.number, None)
        if self._pending.pop(trial.number, None) is not None:
            self.store.client.set_terminated(self._runs[trial.number], "KILLED")
            self._leftover[trial.number] = [self._runs.pop(trial.number)]
            self._open.pop(trial.number, None)

    def _remember(self, training: str | None, number: int, run_id: str) -> None:
        """A trial that its twins can be played back from: the one that was trained, not one of its twins."""
        if training is not None:
            self._trained.setdefault(training, (number, run_id))
