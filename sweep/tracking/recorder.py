"""Rows into MLflow: a parent run per study, a run per trial."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlflow.entities import Metric, Param

from sweep.core import Description, Evaluation, Result, Rows, Status, Trial
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


class MlflowRecorder:
    """One MLflow run per trial, its rows written when it ends.

    Args:
        store: where to record.
        describe: what is recorded of a trial when it begins.
        parent: of the study; None for a single training.
        on_open: told the run of each trial that begins.
    """

    def __init__(
        self,
        store: Store,
        describe: Callable[[Trial], Description],
        parent: StudyRun | None = None,
        on_open: Callable[[Trial, str], None] = lambda trial, run_id: None,
    ) -> None:
        self.store, self.parent = store, parent
        self._describe, self._on_open = describe, on_open
        self._runs: dict[int, str] = {}
        self._pending: dict[int, list[Metric]] = {}
        self._clock: dict[int, int] = {}
        self._leftover = _runs_by_trial(store, parent) if parent else {}

    def open(self, trial: Trial) -> None:
        """Begin a run. A run that an interrupted attempt left is deleted: the trial is trained from its start."""
        for run_id in self._leftover.pop(trial.number, []):
            self.store.client.set_terminated(run_id, "KILLED")  # a deleted run keeps the status it had
            self.store.client.delete_run(run_id)
        description = self._describe(trial)
        tags = dict(description.tags) | {"sweep.kind": "train"}
        if self.parent:
            tags |= {"sweep.kind": "trial", "sweep.trial": str(trial.number), "mlflow.parentRunId": self.parent.run_id}
        run_id = _create(self.store, description.name, tags, description.params)
        for name, content in description.artifacts.items():
            _log_artifact(self.store, run_id, name, content)
        self._runs[trial.number], self._pending[trial.number] = run_id, []
        self._clock[trial.number] = _now()
        self._on_open(trial, run_id)

    def run_id(self, trial: Trial) -> str:
        """The run of a trial that was opened here."""
        return self._runs[trial.number]

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

    def close(self, trial: Trial, result: Result) -> None:
        run_id, pending = self._runs[trial.number], self._pending.pop(trial.number)
        for first in range(0, len(pending), METRICS_AT_ONCE):
            self.store.client.log_batch(run_id, metrics=pending[first : first + METRICS_AT_ONCE])
        self.store.client.set_tag(run_id, "sweep.status", result.status.value)
        if self.parent and result.value is not None:
            self.parent.add(trial.number, result.value)
        self.store.client.set_terminated(run_id, RUN_STATUS[result.status])

    def give_up(self, numbers: Iterable[int]) -> None:
        """End as FAILED what crashed trials left, which will not be trained again."""
        for number in numbers:
            for run_id in self._leftover.pop(number, []):
                self.store.client.set_tag(run_id, "sweep.status", Status.FAILED.value)
                self.store.client.set_terminated(run_id, RUN_STATUS[Status.FAILED])

    def interrupt(self, trial: Trial) -> None:
        """End the run as KILLED, without rows; the next attempt deletes it."""
        if self._pending.pop(trial.number, None) is not None:
            self.store.client.set_terminated(self._runs[trial.number], "KILLED")
            self._leftover[trial.number] = [self._runs.pop(trial.number)]


def _create(store: Store, name: str, tags: Mapping[str, str], params: Mapping[str, str]) -> str:
    run_id: str = store.client.create_run(store.experiment_id, run_name=name, tags=dict(tags)).info.run_id
    entities = [Param(key, value) for key, value in params.items()]
    for first in range(0, len(entities), PARAMS_AT_ONCE):
        store.client.log_batch(run_id, params=entities[first : first + PARAMS_AT_ONCE])
    return run_id


def _runs_by_trial(store: Store, parent: StudyRun) -> dict[int, list[str]]:
    """The runs that are already recorded below a parent, by the number of their trial."""
    runs: dict[int, list[str]] = {}
    for run in store.search({"mlflow.parentRunId": parent.run_id, "sweep.kind": "trial"}):
        runs.setdefault(int(run.data.tags["sweep.trial"]), []).append(run.info.run_id)
    return runs


def _log_artifact(store: Store, run_id: str, name: str, content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        store.client.log_artifact(run_id, str(path))


def _now() -> int:
    return time.time_ns() // 1_000_000
