"""A search as it is planned: everything typed and checked, its identity and its name. Writes nothing."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sweep.cli import build
from sweep.cli.main import Command
from sweep.config import Choice, RunConfig, SamplerConfig, StudyConfig, TrackingConfig
from sweep.data import Dataset, load
from sweep.report import flatten
from sweep.space import Space


@dataclass(frozen=True)
class Plan:
    """A search.

    Args:
        first: the configuration of the first branch, with nothing drawn.
        data: the data set that all trials share.
    """

    study: StudyConfig
    tracking: TrackingConfig
    sampler: SamplerConfig
    pruner: Choice
    space: Space
    first: RunConfig
    data: Dataset

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
        """study.name, or dataset-model-optimizer-schedule-digest."""
        if self.study.name is not None:
            return self.study.name
        groups = ("dataset", "model", "optimizer", "schedule")
        labels = ["+".join(self.space.groups.get(g, (str(self.first.resolved[g]["name"]),))) for g in groups]
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return "-".join([*labels, digest[:8]])

    @property
    def recorded(self) -> dict[str, Any]:
        """What the study's own run records: its space, and the configuration where all trials share it."""
        about = {
            k: v for k, v in self.identity.items() if k.partition(".")[0] in ("space", "sampler", "pruner", "study")
        }
        return about if self.space.conditional else about | flatten(self.space.branches[0].base)


def make_plan(command: Command) -> Plan:
    """The plan of a command line.

    Raises:
        InvalidValueError: names what cannot be carried out.
    """
    config = command.compose()
    build.check_engine(config)
    study, tracking = build.study_config(config), build.tracking_config(config)
    space = build.space(command.composer, command.request)
    first = space.branches[0].configure({})
    return Plan(
        study=study,
        tracking=tracking,
        sampler=build.sampler_config(config),
        pruner=build.pruner_config(config),
        space=space,
        first=first,
        data=load(first.dataset),
    )
