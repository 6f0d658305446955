"""Rows into MLflow: a parent run per study, a run per trial."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlflow.entities import Metric, Param, Run

from sweep.core import Description, Evaluation, Event, Progress, Result, Rows, Status, Trial
from sweep.tracking.reader import MlflowReader
from sweep.tracking.store import Store

METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100
"""The most that MLflow takes in one batch."""

RUN_STATUS = {
    Status.COMPLETE: "FINISHED",
    Status.PRUNED: "FINISHED",
    Status.DIVERGED: "FAILED",
    Status.FAILED: "FAILED",
}


class StudyRun:
    """The parent run of a study: at step = trial number, each trial's metric and the best so far.

    Args:
        store: where to record.
        uid: of the study; one run has it, found again after any interruption.
        name: of the study.
        metric: the objective.
        minimize: its direction.
    """

    def __init__(self, store: Store, uid: str, name: str, metric: str, minimize: bool) -> None:
        self.store, self.uid, self.name, self.metric, self.minimize = store, uid, name, metric, minimize
        found = store.search({"sweep.kind": "study", "sweep.uid": uid})
        self.run_id = found[0].info.run_id if found else ""
        self._values: dict[int, float] = {}

    @property
    def exists(self) -> bool:
        """Whether the run was created, by this command or an earlier one."""
        return bool(self.run_id)

    def create(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Create the run."""
        own = {
            "sweep.kind": "study",
            "sweep.uid": self.uid,
            "sweep.study": self.name,
            "sweep.metric": self.metric,
            "sweep.direction": "minimize" if self.minimize else "maximize",
        }
        self.run_id = _create(self.store, self.name, own | dict(tags), params)

    def reopen(self) -> None:
        """Go on with a run that exists."""
        self.store.client.update_run(self.run_id, status="RUNNING")
        history = self.store.client.get_metric_history(self.run_id, self.metric)
        self._values = {metric.step: metric.value for metric in history}

    @property
    def best(self) -> tuple[float, int] | None:
        """Value and number of the best trial so far; the earlier of equals."""
        sign = 1 if self.minimize else -1
        return min(((v, n) for n, v in self._values.items()), key=lambda vn: (sign * vn[0], vn[1]), default=None)

    def add(self, number: int, value: float) -> None:
        """Record the metric of a complete trial, once."""
        if number in self._values:
            return
        self._values[number] = value
        assert self.best is not None
        best, now = self.best[0], _now()
        rows = [Metric(self.metric, value, now, number), Metric(f"best_{self.metric}", best, now, number)]
        self.store.client.log_batch(self.run_id, metrics=rows)

    def finish(self, status: str) -> None:
        """End the run: FINISHED, KILLED where it was interrupted, FAILED."""
        self.store.client.set_terminated(self.run_id, status)


BY_THEMSELVES = (Status.COMPLETE, Status.DIVERGED)
"""How a trial ends that depends on nothing but its own training."""


class MlflowRecorder:
    """One MLflow run per trial, its rows written when it ends. Trials with the same tag `sweep.training` are twins.

    Args:
        store: where to record.
        describe: what is recorded of a trial, beside its rows, when it begins and when events have changed its curve.
        parent: of the study; None for a single training.
        on_open: told the run of each trial that begins.
        goes_on: the run of the trial that has a state.
    """

    def __init__(
        self,
        store: Store,
        describe: Callable[[Trial, Sequence[Event]], Description],
        parent: StudyRun | None = None,
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
        for run in _children(store, parent) if parent else []:
            number, tags = int(run.data.tags["sweep.trial"]), run.data.tags
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
        self._clock[trial.number] = _now()
        self._open[trial.number] = description.tags.get("sweep.training")
        self._on_open(trial, run_id)

    def _begin(self, trial: Trial, description: Description) -> str:
        """A new run."""
        tags = dict(description.tags) | {"sweep.kind": "train"}
        if self.parent:
            tags |= {"sweep.kind": "trial", "sweep.trial": str(trial.number), "mlflow.parentRunId": self.parent.run_id}
        run_id = _create(self.store, description.name, tags, description.params)
        for name, content in description.artifacts.items():
            _log_artifact(self.store, run_id, name, content)
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
        now = _now()
        times = np.linspace(self._clock[rows.trial], now, len(rows.lr) + 1)[1:].astype(np.int64).tolist()
        self._clock[rows.trial] = now
        steps = rows.steps.tolist()
        for key, column in (("lr", rows.lr), ("loss", rows.loss)):
            values = np.where(np.isfinite(column), column, np.nan).tolist()  # MLflow would store inf as a number
            self._pending[rows.trial] += [
                Metric(rows.series + key, value, at, step) for value, at, step in zip(values, times, steps, strict=True)
            ]

    def evaluate(self, evaluation: Evaluation) -> None:
        now = _now()
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
        self.store.client.set_tag(run_id, "sweep.status", result.status.value)
        if self.parent and result.value is not None:
            self.parent.add(trial.number, result.value)
        self.store.client.set_terminated(run_id, RUN_STATUS[result.status])
        training = self._open.pop(trial.number)
        if result.status in BY_THEMSELVES:
            self._remember(training, trial.number, run_id)

    def _describe_again(self, trial: Trial, events: Sequence[Event]) -> None:
        """Replace what was said of a curve that events have changed since."""
        run_id, description = self._runs[trial.number], self._describe(trial, events)
        for key, value in {**description.tags, "sweep.event": " ".join(map(str, events))}.items():
            self.store.client.set_tag(run_id, key, value)
        for name, content in description.artifacts.items():
            _log_artifact(self.store, run_id, name, content)

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


def _create(store: Store, name: str, tags: Mapping[str, str], params: Mapping[str, str]) -> str:
    run_id: str = store.client.create_run(store.experiment_id, run_name=name, tags=dict(tags)).info.run_id
    entities = [Param(key, value) for key, value in params.items()]
    for first in range(0, len(entities), PARAMS_AT_ONCE):
        store.client.log_batch(run_id, params=entities[first : first + PARAMS_AT_ONCE])
    return run_id


def _children(store: Store, parent: StudyRun) -> list[Run]:
    """The runs that are already recorded below a parent."""
    return store.search({"mlflow.parentRunId": parent.run_id, "sweep.kind": "trial"})


def _log_artifact(store: Store, run_id: str, name: str, content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        store.client.log_artifact(run_id, str(path))


def _now() -> int:
    return time.time_ns() // 1_000_000
