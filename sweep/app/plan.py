"""Defines the plans of searches, trainings and comparisons: typed and checked, with their identities and names."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sweep.comparison import fresh_seeds
from sweep.config import (
    CompareConfig,
    EngineConfig,
    NamedOptions,
    ReportConfig,
    RunConfig,
    SamplerConfig,
    StudyConfig,
    TrackingConfig,
)
from sweep.errors import InvalidValueError
from sweep.messages import Facts
from sweep.report.describe import flatten
from sweep.space import Space


@dataclass(frozen=True)
class Plan:
    """The plan of a search.

    Args:
        first: the configuration of a trial of the first branch.
        data: facts about the data set, which all trials share.
        options: group -> chosen option, for the groups of a study that a single training does not have.
        command: the recorded command line, quoted for a shell, which repeats the search.
    """

    study: StudyConfig
    tracking: TrackingConfig
    report: ReportConfig
    engine: EngineConfig
    sampler: SamplerConfig
    pruner: NamedOptions
    space: Space
    first: RunConfig
    data: Facts
    options: Mapping[str, str]
    command: str

    @property
    def identity(self) -> dict[str, Any]:
        """Return everything that changes results, flattened: configuration, space, sampler, pruner, metric, data."""
        branches = {branch.label or "config": branch.base for branch in self.space.branches}
        parameters = {
            branch.parameter(d).replace(".", "/"): d.expression
            for branch in self.space.branches
            for d in branch.dimensions
        }
        return flatten(
            {
                **branches,
                "space": parameters,
                "sampler": {"name": self.sampler.name, "seed": self.sampler.seed, **self.sampler.options},
                "pruner": {"name": self.pruner.name, **self.pruner.options},
                "study": {"metric": self.study.metric},
                "data": self.data.digest,
            }
        )

    @property
    def name(self) -> str:
        """Return study.name, or dataset-model-optimizer-schedule-digest, with a user's loop loop-schedule-digest."""
        if self.study.name is not None:
            return self.study.name
        return "-".join([*(self.label(group) for group in self.first.naming_groups), digest(self.identity)])

    def label(self, group: str) -> str:
        """Return the chosen option of a group; if the group is searched, all its options."""
        return "+".join(self.space.groups.get(group, (self.first.label(group),)))

    @property
    def recorded(self) -> dict[str, Any]:
        """Return the params of the study's run: its space, and the configuration if it is not conditional."""
        about = {
            k: v for k, v in self.identity.items() if k.partition(".")[0] in ("space", "sampler", "pruner", "study")
        }
        about |= self.options
        if self.space.conditional:
            return about
        return {**about, **flatten(self.space.branches[0].base), **self.first.options}


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a single training.

    Args:
        study: its metric, and the number of retries.
        data: facts about its data set.
    """

    run: RunConfig
    study: StudyConfig
    tracking: TrackingConfig
    engine: EngineConfig
    data: Facts


@dataclass(frozen=True)
class Family:
    """One schedule on one data set, with the plan of the search that tunes it."""

    dataset: str
    schedule: str
    plan: Plan

    @property
    def label(self) -> str:
        return f"{self.schedule} on {self.dataset}"


@dataclass(frozen=True)
class ComparisonPlan:
    """The plan of a comparison.

    Args:
        families: the schedules in the order of the request, for one data set after another.
        command: the recorded command line, quoted for a shell, which repeats the comparison.
    """

    name: str
    command: str
    compare: CompareConfig
    families: tuple[Family, ...]

    @property
    def first(self) -> Plan:
        """Return the search of the first schedule; all searches have the same study, tracking and report options."""
        return self.families[0].plan

    @property
    def seeds(self) -> range:
        """Return the seeds of the final runs."""
        return fresh_seeds(self.first.first.train.seed, self.compare.seeds)

    @property
    def shared(self) -> dict[str, Any]:
        """Return the params that all searches have in common, which the comparison's run records."""
        first, *others = [family.plan.recorded for family in self.families]
        return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


@contextmanager
def refusals_of(schedule: str) -> Iterator[None]:
    """Within the context, add the name of the schedule to a refusal that may concern this schedule only."""
    try:
        yield
    except InvalidValueError as error:
        group = error.key.partition(".")[0]
        if error.key == "schedule":
            raise InvalidValueError("compare.schedules", schedule, error.rule) from error
        if group not in ("schedule", "space", "warmup"):
            raise
        raise InvalidValueError(error.key, error.value, f"with schedule={schedule}: {error.rule}") from error


def digest(identity: Any) -> str:
    """Return eight hexadecimal digits of a hash of nested plain values."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
