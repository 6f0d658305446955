"""Read studies, comparisons and trainings from MLflow."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from sweep.core import (
    SERIES,
    ComparisonRecord,
    Evaluation,
    Failure,
    FamilyRecord,
    FinalRecord,
    Measurement,
    Progress,
    Rows,
    Status,
    StudyRecord,
    TrialRecord,
)
from sweep.errors import InvalidValueError
from sweep.schedules import Event
from sweep.tracking.store import Store, numbered

T = TypeVar("T")

DIRECTIONS = {"minimize": True, "maximize": False}
ASKED = {
    "trials": int, "first_seed": int, "seeds": int, "confidence": int | float, "target": int | float | None,
    "test": str,
}  # fmt: skip
"""Keys of the tag sweep.asked, which holds the settings of a comparison, and their types."""

WEIGHTS = "sweep.weights"
"""The tag with the path of the file that has the weights of a trial."""

REASON = "sweep.reason"
"""The tag with the reason why a trial failed."""


class MlflowReader:
    """Reads the record of a store.

    It returns run ids that users can open: with a tracking server, those of the server.

    Args:
        store: the MLflow store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def names(self) -> list[str]:
        """Return the names of the comparisons and of the studies outside of comparisons, newest first."""
        recorded = self.store.search({"sweep.kind": "study"}) + self.store.search({"sweep.kind": "comparison"})
        own = [run for run in recorded if "mlflow.parentRunId" not in run.data.tags]
        own.sort(key=lambda run: -int(run.info.start_time))
        names = [run.data.tags.get(f"sweep.{run.data.tags['sweep.kind']}") for run in own]
        return list(dict.fromkeys(name for name in names if name is not None))

    def study(self, name: str) -> StudyRecord | None:
        """Return the latest study of a name with its trials; None if there is none."""
        found = self._named("study", name)
        return self._study(found) if found else None

    def _study(self, parent: Run) -> StudyRecord:
        runs = self.store.search({"mlflow.parentRunId": parent.info.run_id, "sweep.kind": "trial"})
        trials = sorted(numbered(runs, "sweep.trial"), key=lambda of: of[0])
        return StudyRecord(
            name=_read(parent, "sweep.study"),
            run_id=self.store.public_id(parent.info.run_id),
            experiment_id=self.store.public_experiment_id,
            metric=_read(parent, "sweep.metric"),
            minimize=_read(parent, "sweep.direction", DIRECTIONS.__getitem__),
            searched=_read(parent, "sweep.searched", _json(_is_texts)),
            command=_read(parent, "sweep.command"),
            trials=[self._trial(run) for _, run in trials],
        )

    def comparison(self, name: str) -> ComparisonRecord | None:
        """Return the comparison of a name, with the studies and final runs of its latest command, or None."""
        found = self._named("comparison", name)
        if found is None:
            return None
        asked: dict[str, Any] = _read(found, "sweep.asked", _json(_is_asked))
        metric: str = _read(found, "sweep.metric")
        finals = self._finals(found.info.run_id, metric)
        compared = _read(found, "sweep.families", _json(_is_families)) if "sweep.families" in found.data.tags else []
        families = [
            FamilyRecord(dataset, schedule, self._study(self._of_comparison(name, run_id)), finals[run_id])
            for dataset, schedule, run_id in compared
        ]
        return ComparisonRecord(
            name=name,
            run_id=self.store.public_id(found.info.run_id),
            experiment_id=self.store.public_experiment_id,
            metric=metric,
            minimize=_read(found, "sweep.direction", DIRECTIONS.__getitem__),
            trials=asked["trials"],
            seeds=range(asked["first_seed"], asked["first_seed"] + asked["seeds"]),
            confidence=asked["confidence"],
            target=asked["target"],
            test=asked["test"],
            families=families,
        )

    def _of_comparison(self, name: str, run_id: str) -> Run:
        """Return the run of a study that is compared.

        Raises:
            InvalidValueError: if the run was removed.
        """
        try:
            return self.store.run(run_id)
        except MlflowException as error:
            rule = f"run {run_id} of one of its studies was removed from MLflow; compare again under another name"
            raise InvalidValueError("study.name", name, rule) from error

    def _finals(self, comparison: str, metric: str) -> dict[str, list[FinalRecord]]:
        """Return the final runs of a comparison, by the run of their study, in the order of their seeds."""
        finals: dict[str, list[FinalRecord]] = defaultdict(list)
        runs = self.store.search({"mlflow.parentRunId": comparison, "sweep.kind": "final"})
        seeds = {run.info.run_id: seed for seed, run in numbered(runs, "sweep.seed")}
        for trial, run in numbered(runs, "sweep.trial"):
            study = run.data.tags.get("sweep.study_run")
            if study is not None and run.info.run_id in seeds:
                measured = self._measurements(run, [metric])
                finals[study].append(FinalRecord(trial, seeds[run.info.run_id], self._trial(run), measured))
        for of_study in finals.values():
            of_study.sort(key=lambda final: final.seed)
        return finals

    def _named(self, kind: str, name: str) -> Run | None:
        """Return the latest run of a kind and name; None if there is none."""
        found = [run for run in self.store.search({"sweep.kind": kind}) if run.data.tags.get(f"sweep.{kind}") == name]
        return found[0] if found else None

    def trainings(self) -> list[TrialRecord]:
        """Return the single trainings, newest first."""
        return [self._trial(run) for run in self.store.search({"sweep.kind": "train"})]

    def training(self, run_id: str) -> TrialRecord:
        """Return the training of a run."""
        return self._trial(self.store.run(self.store.own_id(run_id)))

    def _trial(self, run: Run) -> TrialRecord:
        """Return a trial. A tag that was edited and cannot be read counts as one that is missing."""
        return TrialRecord(
            number=_optional(run, "sweep.trial", int),
            run_id=self.store.public_id(run.info.run_id),
            name=run.info.run_name,
            status=_optional(run, "sweep.status", Status),
            params=run.data.params,
            metrics=run.data.metrics,
            half_life=_optional(run, "sweep.half_life", float),
            stalled_at=_optional(run, "sweep.stalled_at", int),
            reason=run.data.tags.get(REASON) or None,
            values=_optional(run, "sweep.values", _json(_is_mapping)) or {},
            weights=run.data.tags.get(WEIGHTS),
        )

    def rows(self, run_id: str, series: str = "") -> Rows:
        lr, loss = (self._history(run_id, series + key) for key in ("lr", "loss"))
        steps = np.array([m.step for m in lr], dtype=np.int64)
        return Rows(-1, steps, np.array([m.value for m in lr]), np.array([m.value for m in loss]), series)

    def progress(self, run_id: str, trial: int) -> list[Progress]:
        """Return the progress that an engine reported for a recorded run, as that of `trial`: one for each evaluation.

        Metrics other than the lr and loss of a series belong to evaluations. A series is cut at its own global_step.
        """
        run = self.store.run(self.store.own_id(run_id))
        recorded = [self.rows(run_id, series) for series in SERIES if f"{series}lr" in run.data.metrics]
        left = [replace(rows, trial=trial) for rows in recorded]
        events = [Event.parse(text) for text in run.data.tags.get("sweep.event", "").split()]
        reached = []
        of_updates = {series + key for series in SERIES for key in ("lr", "loss")}
        for measured in self._measurements(run, run.data.metrics.keys() - of_updates):
            step, metrics = measured.step, measured.metrics
            ends = [int(metrics.get(f"{rows.series}global_step", step)) for rows in left]
            parts = [rows.split(end) for rows, end in zip(left, ends, strict=True)]
            before, left = [part for part, _ in parts], [part for _, part in parts]
            happened = [event for event in events if event.step <= step]
            reached.append(Progress(trial, before, Evaluation(trial, step, metrics), None, happened))
        if not reached or any(len(rows) for rows in left):
            reached.append(Progress(trial, left, None, None, events))
        status, reason = Status(run.data.tags["sweep.status"]), run.data.tags.get(REASON)
        failure = None if reason is None or status is not Status.FAILED else Failure(reason)
        return [*reached[:-1], replace(reached[-1], status=status, failure=failure)]

    def _measurements(self, run: Run, keys: Iterable[str]) -> list[Measurement]:
        """Return the evaluated values of these metrics, in the order of their steps."""
        metrics: dict[int, dict[str, float]] = defaultdict(dict)
        times: dict[int, int] = {}
        for key in keys:
            for metric in self._history(run.info.run_id, key):
                metrics[metric.step][key] = metric.value
                times[metric.step] = metric.timestamp
        began = run.info.start_time
        return [Measurement(step, (times[step] - began) / 1000, of) for step, of in sorted(metrics.items())]

    def _history(self, run_id: str, key: str) -> list[Metric]:
        """Return the points of a metric in the order of their steps; MLflow returns them in any order."""
        points = self.store.client.get_metric_history(self.store.own_id(run_id), key)
        return sorted(points, key=lambda metric: int(metric.step))


def _json(valid: Callable[[Any], bool]) -> Callable[[str], Any]:
    """Return a function that parses JSON, and raises ValueError unless the value is valid."""

    def parse(text: str) -> Any:
        value = json.loads(text)
        if not valid(value):
            raise ValueError(text)
        return value

    return parse


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_families(value: Any) -> bool:
    """Return whether it is a list of data set, schedule and run of each family."""
    return isinstance(value, list) and all(_is_texts(family) and len(family) == 3 for family in value)


def _is_asked(value: Any) -> bool:
    """Return whether the settings of a comparison are complete and have the right types."""
    return isinstance(value, dict) and all(key in value and isinstance(value[key], kind) for key, kind in ASKED.items())


def _read(run: Run, key: str, convert: Callable[[str], T] = str) -> T:  # type: ignore[assignment]
    """Return a tag that every run of its kind has, converted.

    Raises:
        InvalidValueError: if the tag is missing or was edited.
    """
    try:
        return convert(run.data.tags[key])
    except (KeyError, ValueError) as error:
        rule = f"was deleted or edited in MLflow: it is a tag of run {run.info.run_id}, and needed to read the record"
        raise InvalidValueError(key, run.data.tags.get(key), rule) from error


def _optional(run: Run, key: str, convert: Callable[[str], T]) -> T | None:
    try:
        return convert(run.data.tags[key])
    except (KeyError, ValueError):
        return None
