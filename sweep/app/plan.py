"""The plans of searches, trainings and comparisons: typed and checked, with their identities and names."""

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
    """A search.

    Args:
        first: the configuration of a trial of the first branch.
        data: the data set that all trials share.
        options: group -> chosen option, of the groups that a study has options of, where it is not the group's name.
        command: the command line that says what is trained, quoted for a shell; it is recorded.
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
        """Everything that changes results, flattened: configuration, space, sampler, pruner, objective, data."""
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
        """study.name, or dataset-model-optimizer-schedule-digest; of a loop of the user's loop-schedule-digest."""
        if self.study.name is not None:
            return self.study.name
        return "-".join([*(self.label(group) for group in self.first.naming_groups), digest(self.identity)])

    def label(self, group: str) -> str:
        """Return the option of a group; of a group that is searched, all options."""
        return "+".join(self.space.groups.get(group, (self.first.label(group),)))

    @property
    def recorded(self) -> dict[str, Any]:
        """What the study's own run records: its space, and the configuration where all trials share it."""
        about = {
            k: v for k, v in self.identity.items() if k.partition(".")[0] in ("space", "sampler", "pruner", "study")
        }
        about |= self.options
        if self.space.conditional:
            return about
        return {**about, **flatten(self.space.branches[0].base), **self.first.options}


@dataclass(frozen=True)
class TrainingPlan:
    """A single training.

    Args:
        study: what it is judged by, and how often it is retried.
        data: the data set of its configuration.
    """

    run: RunConfig
    study: StudyConfig
    tracking: TrackingConfig
    engine: EngineConfig
    data: Facts


@dataclass(frozen=True)
class Family:
    """One schedule on one data set, and the search that tunes it."""

    dataset: str
    schedule: str
    plan: Plan

    @property
    def label(self) -> str:
        return f"{self.schedule} on {self.dataset}"


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison.

    Args:
        families: in the order asked for, data set by data set.
        command: the command line that says what is trained, quoted for a shell; it is recorded.
    """

    name: str
    command: str
    compare: CompareConfig
    families: tuple[Family, ...]

    @property
    def first(self) -> Plan:
        """The search of the first family, with what all searches share: study, tracking, report."""
        return self.families[0].plan

    @property
    def seeds(self) -> range:
        """Of the final runs."""
        return fresh_seeds(self.first.first.train.seed, self.compare.seeds)

    @property
    def shared(self) -> dict[str, Any]:
        """What the searches have in common: what the comparison's own run records."""
        first, *others = [family.plan.recorded for family in self.families]
        return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


@contextmanager
def refusals_of(schedule: str) -> Iterator[None]:
    """Lets a refusal say which of the schedules it is about, where its key may be of one and not of another."""
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
