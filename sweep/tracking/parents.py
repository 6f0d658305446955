"""Parent runs in MLflow: a study has its trials below it, a comparison its studies and final runs."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from mlflow.entities import Run

from sweep.core import Trial
from sweep.errors import RemovedError
from sweep.tracking.bulk import Change, now_ms, point
from sweep.tracking.store import Store, numbered
from sweep.tracking.texts import metric_name


class Parent(Protocol):
    """The run that a recorder creates the runs of its trials below.

    Args:
        metric: the metric that ranks its trials; None if they are not compared.
    """

    @property
    def metric(self) -> str | None: ...

    def child_tags(self, trial: Trial) -> dict[str, str]:
        """Return the tags that identify the run of a trial."""

    def children(self) -> list[tuple[int, Run]]:
        """Return number and run of the trials that are already recorded."""

    def add(self, number: int, value: float) -> list[Change]:
        """Add the objective of a complete trial, and return the changes of the parent: none if it was added before."""

    def create_again(self, run_id: str) -> bool:
        """Create the parent again if it is the run of that id, which was removed; return whether it is."""


class TrainingRuns:
    """Stands in for the parent of a single training, which has none: finds the runs of its earlier attempts.

    Args:
        name: of the training. All attempts have it, and no other training at the same time has.
        resumed_run_id: the run that its checkpoint names; None for a training that starts from the beginning.
    """

    def __init__(self, store: Store, name: str, resumed_run_id: str | None) -> None:
        self.store, self.name, self.resumed_run_id = store, name, resumed_run_id
        self.metric: str | None = None

    def child_tags(self, trial: Trial) -> dict[str, str]:
        return {"sweep.kind": "train", "sweep.key": self.name}

    def children(self) -> list[tuple[int, Run]]:
        runs = self.store.search({"sweep.kind": "train"})
        left = [run for run in runs if "sweep.status" not in run.data.tags and is_training(run, self.name)]
        return [(0, run) for run in runs if run.info.run_id == self.resumed_run_id or run in left]

    def add(self, number: int, value: float) -> list[Change]:
        return []

    def create_again(self, run_id: str) -> bool:
        return False


def is_training(run: Run, name: str) -> bool:
    """Return whether a run is an attempt at the training of a name."""
    key = run.data.tags.get("sweep.key", "")
    return key == name or key.startswith(f"{name}.")  # earlier versions appended an id


KEPT_TAGS = frozenset({"sweep.searched", "sweep.command"})
"""Tags of a study's run that describe its first command."""


class ParentRun:
    """A run with others below it. It is found again after any interruption.

    Args:
        store: where to record.
        name: of the run.
        tags: identify the run; `create` sets them.
        found: the runs that have these tags, newest first.
    """

    def __init__(self, store: Store, name: str, tags: Mapping[str, str], found: Sequence[Run]) -> None:
        self.store, self.name, self.tags = store, name, tags
        self.run_id = found[0].info.run_id if found else ""
        self.finished = bool(found) and found[0].info.status == "FINISHED"
        self.lacks = frozenset[str]() if not found else KEPT_TAGS - found[0].data.tags.keys()
        """Tags of KEPT_TAGS that were removed from the run."""
        self._created_with: tuple[Mapping[str, str], Mapping[str, str]] | None = None
        """Params and tags."""

    @property
    def exists(self) -> bool:
        """Return whether the run was created, by this command or an earlier one."""
        return bool(self.run_id)

    def remember(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Keep the params and tags of the run, with which it is created again if a person removes it."""
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
        """Set an existing run to RUNNING, and restore the tags that identify it, which a person may have edited."""
        self._write(Change(self.run_id, tags=self.tags, status="RUNNING"))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._write(Change(self.run_id, tags=tags))

    def attach(self, files: Mapping[str, bytes]) -> None:
        """Store files (name -> content) as artifacts of the run."""
        self.store.attach(self.run_id, files)

    def finish(self, status: str) -> None:
        """End the run as FINISHED, KILLED (interrupted) or FAILED, and restore the tags that identify it."""
        self._write(Change(self.run_id, tags=self.tags, status=status))

    def _write(self, change: Change) -> None:
        try:
            self.store.write([change])
        except RemovedError as error:
            if not self.create_again(error.name):
                raise
            self.store.write([change])

    def values(self, key: str) -> dict[int, float]:
        """Return the values of a metric, by their steps."""
        return {metric.step: metric.value for metric in self.store.client.get_metric_history(self.run_id, key)}


class StudyRun(ParentRun):
    """The run of a study. At step = trial number it has the metric of each trial and the best value so far.

    Args:
        uid: of the study; only its run has it.
        metric: the objective.
        minimize: whether smaller values are better.
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
        super().__init__(store, name, tags, found)
        self.metric, self.minimize = metric, minimize
        self._values: dict[int, float] = {}
        self.best: tuple[float, int] | None = None
        """Value and number of the best trial so far; of equal trials, the earlier."""
        for number, value in (self.values(metric) if self.exists else {}).items():
            self._take(number, value)

    def _take(self, number: int, value: float) -> tuple[float, int]:
        """Add the metric of a trial, and return value and number of the best one so far."""
        self._values[number] = value
        sign = 1 if self.minimize else -1
        if self.best is None or (sign * value, number) < (sign * self.best[0], self.best[1]):
            self.best = value, number
        return self.best

    def child_tags(self, trial: Trial) -> dict[str, str]:
        return {"sweep.kind": "trial", "sweep.trial": str(trial.number), "mlflow.parentRunId": self.run_id}

    def children(self) -> list[tuple[int, Run]]:
        return numbered(self.store.search({"mlflow.parentRunId": self.run_id, "sweep.kind": "trial"}), "sweep.trial")

    def add(self, number: int, value: float) -> list[Change]:
        """Return the points of a complete trial, its metric and the best one so far; none if it was added before."""
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
    """The run of a comparison, which is the only one of its name.

    Args:
        metric, minimize: the metric that ranks trials, and whether smaller values are better.
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
        super().__init__(store, name, tags, found)

    @property
    def params(self) -> dict[str, str]:
        """The params that the run was created with."""
        return dict(self.store.run(self.run_id).data.params)

    def mark_finals(self, current: Collection[str]) -> None:
        """Tag the final runs: `sweep.current` is false for those that a later command has replaced.

        Args:
            current: ids of the current runs, as a reader returns them.
        """
        for run in self.store.search({"mlflow.parentRunId": self.run_id, "sweep.kind": "final"}):
            wanted = "true" if self.store.public_id(run.info.run_id) in current else "false"
            if run.data.tags.get("sweep.current") != wanted:
                self.store.write([Change(run.info.run_id, tags={"sweep.current": wanted})])

    def reap(self) -> None:
        """End the final runs that a crash left RUNNING, of all trials."""
        finals = self.store.search({"mlflow.parentRunId": self.run_id, "sweep.kind": "final"})
        left = [run.info.run_id for run in finals if run.info.status == "RUNNING"]
        self.store.write([Change(run_id, status="KILLED") for run_id in left])

    def compares(self, studies: Mapping[tuple[str, str], str]) -> None:
        """Record the compared studies: (data set, schedule) -> run of the study, in the order of the command."""
        families = [[dataset, schedule, run_id] for (dataset, schedule), run_id in studies.items()]
        self.tag({"sweep.families": json.dumps(families)})


class FinalRuns:
    """The final runs of one family, below the run of the comparison. Their number is their seed.

    The run of the comparison has their metric at step = seed.

    Args:
        study_run: id of the run of the family's study.
        winner: number of the trial in the study whose configuration the final runs have.
        metric: the metric that ranks them.
        label: data set and schedule of the family, for the name of its metric.
    """

    def __init__(self, comparison: ComparisonRun, study_run: str, winner: int, metric: str, label: str) -> None:
        self.comparison, self.metric, self._key = comparison, metric, metric_name(f"{metric}/{label} trial {winner}")
        self._of = {"mlflow.parentRunId": comparison.run_id, "sweep.kind": "final"}
        self._of |= {"sweep.study_run": study_run, "sweep.trial": str(winner)}
        self._added = set(comparison.values(self._key))

    def child_tags(self, trial: Trial) -> dict[str, str]:
        return self._of | {"sweep.seed": str(trial.number)}

    def children(self) -> list[tuple[int, Run]]:
        return numbered(self.comparison.store.search(self._of), "sweep.seed")

    def add(self, number: int, value: float) -> list[Change]:
        if number in self._added:
            return []
        self._added.add(number)
        return [Change(self.comparison.run_id, [point(self._key, number, now_ms(), value)])]

    def create_again(self, run_id: str) -> bool:
        return self.comparison.create_again(run_id)
