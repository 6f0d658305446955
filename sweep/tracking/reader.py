"""Rows out of MLflow."""

import json

import numpy as np
from mlflow.entities import Run

from sweep.core import Rows, Status, StudyRecord, TrialRecord
from sweep.tracking.store import Store


class MlflowReader:
    """What is recorded in a store.

    Args:
        store: where to read.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def studies(self) -> list[str]:
        return list(dict.fromkeys(run.data.tags["sweep.study"] for run in self.store.search({"sweep.kind": "study"})))

    def study(self, name: str) -> StudyRecord | None:
        """The study of that name that was begun last, with its trials."""
        studies = self.store.search({"sweep.kind": "study"})
        found = [run for run in studies if run.data.tags["sweep.study"] == name]
        if not found:
            return None
        parent = found[0]
        tags = parent.data.tags
        trials = [
            _trial(run) for run in self.store.search({"mlflow.parentRunId": parent.info.run_id, "sweep.kind": "trial"})
        ]
        return StudyRecord(
            name=name,
            run_id=parent.info.run_id,
            experiment_id=self.store.experiment_id,
            metric=tags["sweep.metric"],
            minimize=tags["sweep.direction"] == "minimize",
            searched=json.loads(tags["sweep.searched"]),
            command=tags["sweep.command"],
            trials=sorted(trials, key=lambda trial: trial.number or 0),
        )

    def trainings(self) -> list[TrialRecord]:
        """The single trainings, newest first."""
        return [_trial(run) for run in self.store.search({"sweep.kind": "train"})]

    def rows(self, run_id: str) -> Rows:
        columns = {}
        for key in ("lr", "loss"):
            history = sorted(self.store.client.get_metric_history(run_id, key), key=lambda metric: metric.step)
            columns[key] = np.array([metric.value for metric in history])
        return Rows(trial=-1, first=0, lr=columns["lr"], loss=columns["loss"])


def _trial(run: Run) -> TrialRecord:
    tags = run.data.tags
    number, half_life, stalled = tags.get("sweep.trial"), tags.get("sweep.half_life"), tags.get("sweep.stalled_at")
    return TrialRecord(
        number=None if number is None else int(number),
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=Status(tags["sweep.status"]) if "sweep.status" in tags else None,
        params=run.data.params,
        metrics=run.data.metrics,
        half_life=None if half_life is None else float(half_life),
        stalled_at=None if stalled is None else int(stalled),
    )
