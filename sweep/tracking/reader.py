"""Rows out of MLflow."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from mlflow.entities import Metric, Run

from sweep.core import (
    SERIES,
    ComparisonRecord,
    Evaluation,
    Event,
    FamilyRecord,
    FinalRecord,
    Measurement,
    Progress,
    Rows,
    Status,
    StudyRecord,
    TrialRecord,
)
from sweep.tracking.store import Store


class MlflowReader:
    """What is recorded in a store.

    Args:
        store: where to read.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def names(self) -> list[str]:
        """The names of the comparisons, and of the studies that belong to none, newest first."""
        recorded = self.store.search({"sweep.kind": "study"}) + self.store.search({"sweep.kind": "comparison"})
        own = [run for run in recorded if "mlflow.parentRunId" not in run.data.tags]
        own.sort(key=lambda run: -int(run.info.start_time))
        tags = [run.data.tags for run in own]
        return list(dict.fromkeys(of[f"sweep.{of['sweep.kind']}"] for of in tags))

    def study(self, name: str) -> StudyRecord | None:
        """The study of that name that was begun last, with its trials."""
        found = self._named("study", name)
        return self._study(found) if found else None

    def _study(self, parent: Run) -> StudyRecord:
        tags = parent.data.tags
        trials = [
            _trial(run) for run in self.store.search({"mlflow.parentRunId": parent.info.run_id, "sweep.kind": "trial"})
        ]
        return StudyRecord(
            name=tags["sweep.study"],
            run_id=parent.info.run_id,
            experiment_id=self.store.experiment_id,
            metric=tags["sweep.metric"],
            minimize=tags["sweep.direction"] == "minimize",
            searched=json.loads(tags["sweep.searched"]),
            command=tags["sweep.command"],
            trials=sorted(trials, key=lambda trial: trial.number or 0),
        )

    def comparison(self, name: str) -> ComparisonRecord | None:
        """The comparison of that name, with the studies and finals of the families that it was last asked for."""
        found = self._named("comparison", name)
        if found is None:
            return None
        tags = found.data.tags
        asked = json.loads(tags["sweep.asked"])
        finals = self._finals(found.info.run_id, tags["sweep.metric"])
        families = [
            FamilyRecord(dataset, schedule, self._study(self.store.client.get_run(run_id)), finals[run_id])
            for dataset, schedule, run_id in json.loads(tags.get("sweep.families", "[]"))
        ]
        return ComparisonRecord(
            name=name,
            run_id=found.info.run_id,
            experiment_id=self.store.experiment_id,
            metric=tags["sweep.metric"],
            minimize=tags["sweep.direction"] == "minimize",
            trials=asked["trials"],
            seeds=range(asked["first_seed"], asked["first_seed"] + asked["seeds"]),
            confidence=asked["confidence"],
            target=asked["target"],
            test=asked["test"],
            families=families,
        )

    def _finals(self, comparison: str, metric: str) -> dict[str, list[FinalRecord]]:
        """The final runs of a comparison by the run of their study, in the order of their seeds."""
        finals: dict[str, list[FinalRecord]] = defaultdict(list)
        for run in self.store.search({"mlflow.parentRunId": comparison, "sweep.kind": "final"}):
            tags, measured = run.data.tags, self._measurements(run, [metric])
            final = FinalRecord(int(tags["sweep.trial"]), int(tags["sweep.seed"]), _trial(run), measured)
            finals[tags["sweep.study_run"]].append(final)
        for of_study in finals.values():
            of_study.sort(key=lambda final: final.seed)
        return finals

    def _named(self, kind: str, name: str) -> Run | None:
        """The run of that kind and name that was begun last."""
        found = [run for run in self.store.search({"sweep.kind": kind}) if run.data.tags[f"sweep.{kind}"] == name]
        return found[0] if found else None

    def trainings(self) -> list[TrialRecord]:
        """The single trainings, newest first."""
        return [_trial(run) for run in self.store.search({"sweep.kind": "train"})]

    def rows(self, run_id: str, series: str = "") -> Rows:
        lr, loss = (self._history(run_id, series + key) for key in ("lr", "loss"))
        steps = np.array([m.step for m in lr], dtype=np.int64)
        first = lr[0].step if lr else 0
        return Rows(-1, first, np.array([m.value for m in lr]), np.array([m.value for m in loss]), series, steps)

    def progress(self, run_id: str, trial: int) -> list[Progress]:
        """What an engine gave of a run that ended by itself, from evaluation to evaluation, as progress of `trial`.

        A metric that is no series' lr or loss is an evaluation's. A series is cut at its own global_step.
        """
        run = self.store.client.get_run(run_id)
        recorded = [self.rows(run_id, series) for series in SERIES if f"{series}lr" in run.data.metrics]
        left = [replace(rows, trial=trial) for rows in recorded]
        events = [Event.parse(text) for text in run.data.tags.get("sweep.event", "").split()]
        reached = []
        of_updates = {series + key for series in SERIES for key in ("lr", "loss")}
        for measured in self._measurements(run, run.data.metrics.keys() - of_updates):
            step, metrics = measured.step, measured.metrics
            ends = [int(metrics.get(f"{rows.series}global_step", step)) for rows in left]
            parts = [_cut(rows, end) for rows, end in zip(left, ends, strict=True)]
            before, left = [part for part, _ in parts], [part for _, part in parts]
            happened = [event for event in events if event.step <= step]
            reached.append(Progress(trial, before, Evaluation(trial, step, metrics), None, happened))
        if not reached or any(len(rows.lr) for rows in left):
            reached.append(Progress(trial, left, None, None, events))
        return [*reached[:-1], replace(reached[-1], status=Status(run.data.tags["sweep.status"]))]

    def _measurements(self, run: Run, keys: Iterable[str]) -> list[Measurement]:
        """What was evaluated of these metrics, in the order of the steps."""
        metrics: dict[int, dict[str, float]] = defaultdict(dict)
        times: dict[int, int] = {}
        for key in keys:
            for metric in self._history(run.info.run_id, key):
                metrics[metric.step][key] = metric.value
                times[metric.step] = metric.timestamp
        began = run.info.start_time
        return [Measurement(step, (times[step] - began) / 1000, of) for step, of in sorted(metrics.items())]

    def _history(self, run_id: str, key: str) -> list[Metric]:
        """The points of a metric in the order of their steps; MLflow gives them in any."""
        return sorted(self.store.client.get_metric_history(run_id, key), key=lambda metric: int(metric.step))


def _cut(rows: Rows, step: int) -> tuple[Rows, Rows]:
    """The rows of the updates before `step`, and those from it on."""
    steps = rows.steps
    n = int(np.searchsorted(steps, step))
    first = int(steps[n]) if n < len(steps) else step
    before = replace(rows, lr=rows.lr[:n], loss=rows.loss[:n], kept=steps[:n])
    return before, replace(rows, first=first, lr=rows.lr[n:], loss=rows.loss[n:], kept=steps[n:])


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
        values=_values(tags.get("sweep.values", "{}")),
    )


def _values(text: str) -> dict[str, Any]:
    """Return what a search drew; nothing if the tag was cut off because it was too long."""
    try:
        values: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return values
