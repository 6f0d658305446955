"""The runs that hold others: of a study its trials, of a comparison its studies and finals."""

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from mlflow.entities import Run

from sweep.core import Trial
from sweep.errors import RemovedError
from sweep.tracking.bulk import Change, now_ms, point
from sweep.tracking.store import Store, names_of, numbered
from sweep.tracking.texts import metric_name


class Parent(Protocol):
    """What the recorder needs to know of the run that its trials are recorded below.

    Args:
        metric: that its trials are judged by; None if they are not compared.
    """

    @property
    def metric(self) -> str | None: ...

    def child_tags(self, trial: Trial) -> dict[str, str]:
        """What tells the run of a trial from the others."""

    def children(self) -> list[tuple[int, Run]]:
        """Number and run of the trials that are already recorded."""

    def add(self, number: int, value: float) -> list[Change]:
        """Take the objective of a trial that ended as complete, once; what is to be written of the parent then."""

    def create_again(self, run_id: str) -> bool:
        """Create the parent again if it is the run of that id, which was removed; return whether it is."""


class TrainingRuns:
    """The runs of a single training, which have no parent: the one that goes on, and what crashes have left.

    Args:
        name: of the training, the same for all attempts to train it, and for no other training at the same time.
        goes_on: the run that goes on, as its checkpoint names it; None for a training that begins anew.
    """

    def __init__(self, store: Store, name: str, goes_on: str | None) -> None:
        self.store, self.name, self.goes_on = store, _key_of(name), goes_on
        self.metric: str | None = None

    def child_tags(self, trial: Trial) -> dict[str, str]:
        return {"sweep.kind": "train", "sweep.key": f"{self.name}.{uuid.uuid4().hex}"}

    def children(self) -> list[tuple[int, Run]]:
        runs = self.store.search({"sweep.kind": "train"})
        return [(0, run) for run in runs if self.goes_on in names_of(run) or self._left(run)]

    def _left(self, run: Run) -> bool:
        """Whether a crash has left it."""
        tags = run.data.tags
        return "sweep.status" not in tags and tags.get("sweep.key", "").startswith(f"{self.name}.")

    def add(self, number: int, value: float) -> list[Change]:
        return []

    def create_again(self, run_id: str) -> bool:
        return False


LONGEST_KEY = 150
"""Bytes of the name of a training in the tag `sweep.key`; a file of the spool has the tag as its name."""


def _key_of(name: str) -> str:
    """Return the name of a training as the tag `sweep.key` may hold it, shortened where it is too long."""
    key = re.sub(r"[^\w.-]", "-", name)
    if len(key.encode()) <= LONGEST_KEY:
        return key
    cut = key.encode()[:LONGEST_KEY].decode(errors="ignore")
    return f"{cut}.{hashlib.sha256(name.encode()).hexdigest()[:8]}"


KEPT_TAGS = frozenset({"sweep.searched", "sweep.command"})
"""Tags of a study's run that say what its first command was."""


class ParentRun:
    """A run with others below it, found again after any interruption.

    Args:
        store: where to record.
        name: of the run.
        key: no other run has it.
        tags: of its kind; `create` gives it these.
        found: the runs that were recorded as this one, newest first.
    """

    def __init__(self, store: Store, name: str, key: str, tags: Mapping[str, str], found: Sequence[Run]) -> None:
        self.store, self.name = store, name
        self.tags = {**tags, "sweep.key": key}
        self.run_id = found[0].info.run_id if found else ""
        self.finished = bool(found) and found[0].info.status == "FINISHED"
        self.lacks = frozenset[str]() if not found else KEPT_TAGS - found[0].data.tags.keys()
        """Those of KEPT_TAGS that the run does not have any more."""
        self._created_with: tuple[Mapping[str, str], Mapping[str, str]] | None = None
        """Params and tags."""

    @property
    def exists(self) -> bool:
        """Whether the run was created, by this command or an earlier one."""
        return bool(self.run_id)

    def remember(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Remember what the run was created with, so that it can be created again where it is removed."""
        self._created_with = params, {**self.tags, **tags}

    def create(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Create the run."""
        self.remember(params, tags)
        self.run_id = self.store.create(self.name, {**self.tags, **tags}, params)

    def create_again(self, run_id: str) -> bool:
        """Create the run again, under its id, if it is the run of that id and its content is known."""
        if run_id != self.run_id or self._created_with is None:
            return False
        params, tags = self._created_with
        self.store.create(self.name, tags, params, removed=run_id)
        self.store.hooks.say(f"run {self.name} was removed from MLflow while it is written to: it is created again")
        return True

    def reopen(self) -> None:
        """Go on with a run that exists; the tags by which it is found are as they were, whoever has edited them."""
        self._write(Change(self.run_id, tags=self.tags, status="RUNNING"))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._write(Change(self.run_id, tags=tags))

    def attach(self, files: Mapping[str, bytes]) -> None:
        """Keep files with the run, name -> contents."""
        self.store.attach(self.run_id, files)

    def finish(self, status: str) -> None:
        """End the run: FINISHED, KILLED where it was interrupted, FAILED. Its tags are as `reopen` leaves them."""
        self._write(Change(self.run_id, tags=self.tags, status=status))

    def _write(self, change: Change) -> None:
        try:
            self.store.write([change])
        except RemovedError as error:
            if not self.create_again(error.name):
                raise
            self.store.write([change])

    def values(self, key: str) -> dict[int, float]:
        """What is recorded of a metric, by its step."""
        return {metric.step: metric.value for metric in self.store.client.get_metric_history(self.run_id, key)}


class StudyRun(ParentRun):
    """The run of a study: at step = trial number, each trial's metric and the best so far.

    Args:
        uid: of the study; one run has it.
        metric: the objective.
        minimize: its direction.
    """

    def __init__(self, store: Store, uid: str, name: str, metric: str, minimize: bool) -> None:
        tags = {
            "sweep.kind": "study",
            "sweep.uid": uid,
            "sweep.study": name,
            "sweep.metric": metric,
            "sweep.direction": "minimize" if minimize else "maximize",
        }
        found = store.search({"sweep.kind": "study", "sweep.uid": uid})
        super().__init__(store, name, f"study.{uid}", tags, found)
        self.metric, self.minimize = metric, minimize
        self._values: dict[int, float] = {}
        self.best: tuple[float, int] | None = None
        """Value and number of the best trial so far; the earlier of equals."""
        for number, value in (self.values(metric) if self.exists else {}).items():
            self._take(number, value)

    def _take(self, number: int, value: float) -> tuple[float, int]:
        """Take the metric of a trial; return the best so far."""
        self._values[number] = value
        sign = 1 if self.minimize else -1
        if self.best is None or (sign * value, number) < (sign * self.best[0], self.best[1]):
            self.best = value, number
        return self.best

    def child_tags(self, trial: Trial) -> dict[str, str]:
        number = str(trial.number)
        of = {"sweep.kind": "trial", "sweep.trial": number, "mlflow.parentRunId": self.run_id}
        return {**of, "sweep.key": f"{self.run_id}.{number}"}

    def children(self) -> list[tuple[int, Run]]:
        return numbered(self.store.search({"mlflow.parentRunId": self.run_id, "sweep.kind": "trial"}), "sweep.trial")

    def add(self, number: int, value: float) -> list[Change]:
        """The metric of a complete trial and the best so far, once."""
        if number in self._values:
            return []
        (best, _), now = self._take(number, value), now_ms()
        points = [point(self.metric, number, now, value), point(f"best_{self.metric}", number, now, best)]
        return [Change(self.run_id, points)]

    def create_again(self, run_id: str) -> bool:
        """Create the run again with the metric of every trial."""
        if not super().create_again(run_id):
            return False
        values, self._values, self.best = self._values, {}, None
        for number, value in sorted(values.items()):
            self.store.write(self.add(number, value))
        return True


class ComparisonRun(ParentRun):
    """The run of a comparison; one has its name.

    Args:
        metric, minimize: what trials are judged by.
    """

    def __init__(self, store: Store, name: str, metric: str, minimize: bool) -> None:
        tags = {
            "sweep.kind": "comparison",
            "sweep.comparison": name,
            "sweep.metric": metric,
            "sweep.direction": "minimize" if minimize else "maximize",
        }
        recorded = store.search({"sweep.kind": "comparison"})
        found = [run for run in recorded if run.data.tags.get("sweep.comparison") == name]
        super().__init__(store, name, f"comparison.{hashlib.sha256(name.encode()).hexdigest()}", tags, found)

    @property
    def params(self) -> dict[str, str]:
        """What it was created with."""
        return dict(self.store.run(self.run_id).data.params)

    def mark_finals(self, current: Collection[str]) -> None:
        """Tell the final runs that the comparison is of from those that a later command has superseded.

        Args:
            current: ids of their runs.
        """
        for run in self.store.search({"mlflow.parentRunId": self.run_id, "sweep.kind": "final"}):
            wanted = "true" if run.info.run_id in current else "false"
            if run.data.tags.get("sweep.current") != wanted:
                self.store.write([Change(run.info.run_id, tags={"sweep.current": wanted})])

    def reap(self) -> None:
        """End the final runs that a crash has left, of whatever trial."""
        finals = self.store.search({"mlflow.parentRunId": self.run_id, "sweep.kind": "final"})
        left = [run.info.run_id for run in finals if run.info.status == "RUNNING"]
        self.store.write([Change(run_id, status="KILLED") for run_id in left])

    def compares(self, studies: Mapping[tuple[str, str], str]) -> None:
        """Say which studies are compared: (data set, schedule) -> run of the study, in the order asked for."""
        families = [[dataset, schedule, run_id] for (dataset, schedule), run_id in studies.items()]
        self.tag({"sweep.families": json.dumps(families)})


class FinalRuns:
    """The final runs of one family, below the run of the comparison; their number is their seed.

    On the comparison's run, at step = seed, stands the metric that they are judged by.

    Args:
        study_run: id of the run of the family's study.
        winner: number of the trial in it whose configuration they have.
        metric: that they are judged by.
        label: of the family, for the name of its metric: data set and schedule.
    """

    def __init__(self, comparison: ComparisonRun, study_run: str, winner: int, metric: str, label: str) -> None:
        self.comparison, self.metric, self._key = comparison, metric, metric_name(f"{metric}/{label} trial {winner}")
        self._of = {"mlflow.parentRunId": comparison.run_id, "sweep.kind": "final"}
        self._of |= {"sweep.study_run": study_run, "sweep.trial": str(winner)}
        self._added = set(comparison.values(self._key))

    def child_tags(self, trial: Trial) -> dict[str, str]:
        key = ".".join(
            [self.comparison.run_id, self._of["sweep.study_run"], self._of["sweep.trial"], str(trial.number)]
        )
        return self._of | {"sweep.seed": str(trial.number), "sweep.key": key}

    def children(self) -> list[tuple[int, Run]]:
        return numbered(self.comparison.store.search(self._of), "sweep.seed")

    def add(self, number: int, value: float) -> list[Change]:
        if number in self._added:
            return []
        self._added.add(number)
        return [Change(self.comparison.run_id, [point(self._key, number, now_ms(), value)])]

    def create_again(self, run_id: str) -> bool:
        return self.comparison.create_again(run_id)
