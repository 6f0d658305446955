"""What is planned: everything typed and checked, its identity and its name. Writes nothing."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sweep.cli import build, spaces
from sweep.cli.command import Command
from sweep.comparison import fresh_seeds
from sweep.config import (
    Choice,
    CompareConfig,
    EngineConfig,
    ReportConfig,
    RunConfig,
    SamplerConfig,
    StudyConfig,
    TrackingConfig,
)
from sweep.data import Dataset, load
from sweep.proposals import grid_size
from sweep.report import flatten
from sweep.space import Space
from sweep.validation import InvalidValueError


@dataclass(frozen=True)
class Plan:
    """A search.

    Args:
        first: the configuration of a trial of the first branch.
        data: the data set that all trials share.
        options: group -> chosen option, of the groups OF_STUDIES whose option differs from their name.
    """

    study: StudyConfig
    tracking: TrackingConfig
    report: ReportConfig
    engine: EngineConfig
    sampler: SamplerConfig
    pruner: Choice
    space: Space
    first: RunConfig
    data: Dataset
    options: Mapping[str, str]

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
        return "-".join([*(self.label(group) for group in groups), _digest(self.identity)])

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


def make_plan(command: Command) -> Plan:
    """The plan of a command line.

    Raises:
        InvalidValueError: names what cannot be carried out.
    """
    config = command.compose()
    study, tracking = build.study_config(config), build.tracking_config(config)
    space = spaces.space(command.composer, command.request)
    first = space.branches[0].first
    return Plan(
        study=study,
        tracking=tracking,
        report=build.report_config(config),
        engine=build.engine_config(config),
        sampler=build.sampler_config(config),
        pruner=build.pruner_config(config),
        space=space,
        first=first,
        data=load(first.dataset),
        options={group: option for group, option in config.options.items() if group in build.OF_STUDIES},
    )


@dataclass(frozen=True)
class Family:
    """One schedule on one data set, and the search that tunes it.

    Args:
        command: the command line of that search.
    """

    dataset: str
    schedule: str
    command: Command
    plan: Plan

    @property
    def label(self) -> str:
        return f"{self.schedule} on {self.dataset}"


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison.

    Args:
        families: in the order asked for, data set by data set.
    """

    name: str
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


def make_comparison(command: Command) -> ComparisonPlan:
    """The plan of a command line with mode=compare: a search of its own for each schedule on each data set.

    Raises:
        InvalidValueError: names what cannot be carried out.
    """
    config, request = command.compose(), command.request
    compare, study = build.compare_config(config), build.study_config(config)
    for key, instead in (("schedule", "compare.schedules"), ("study.n_trials", "compare.trials")):
        if key in request.keys:
            raise InvalidValueError(key, request.given(key), f"is for mode=search; mode=compare has {instead}")
    if study.timeout is not None:
        rule = "is for mode=search; mode=compare gives every schedule compare.trials trials"
        raise InvalidValueError("study.timeout", study.timeout, rule)
    if request.groups and not _has_sampler(command):
        choice = ", ".join(f"{group}={','.join(options)}" for group, options in request.groups.items())
        rule = "cannot be searched by qmc, the sampler of mode=compare unless another is given; sampler=tpe can"
        raise InvalidValueError("sampler", choice, rule)
    datasets = request.datasets or (None,)
    families = [_family(command, dataset, schedule) for dataset in datasets for schedule in compare.schedules]
    name = study.name or _comparison_name(families)
    plan = ComparisonPlan(name, compare, tuple(_named(family, name, compare.trials) for family in families))
    seed = plan.first.first.train.seed
    try:
        plan.first.first.with_seed(plan.seeds[-1])
    except InvalidValueError as error:
        rule = f"leaves no room for compare.seeds={compare.seeds} seeds above it: the last {error.rule}"
        raise InvalidValueError("train.seed", seed, rule) from error
    return plan


def _family(command: Command, dataset: str | None, schedule: str) -> Family:
    """A family's search: the command line with its schedule; quasi-random unless a sampler is given.

    Args:
        dataset: one of several; None for the command line's own.
    """
    request = command.request
    chosen = [] if dataset is None else [f"dataset={dataset}"]
    sampler = [] if _has_sampler(command) else ["sampler=qmc"]
    own = replace(request, plain=(*chosen, f"schedule={schedule}", *sampler, *request.plain), datasets=())
    of_family = replace(command, request=own)
    with refusals_of(schedule):
        plan = make_plan(of_family)
        size = grid_size(plan.sampler, plan.space)
    trials = build.compare_config(command.compose()).trials
    if size is not None and size < trials:
        rule = f"with schedule={schedule}: its grid has only {size} points, and every schedule gets as many trials"
        raise InvalidValueError("compare.trials", trials, rule)
    return Family(dataset or plan.label("dataset"), schedule, of_family, plan)


def _has_sampler(command: Command) -> bool:
    """Return whether the command line or its experiment chooses a sampler."""
    request = command.request
    return "sampler" in request.pinned | command.composer.set_by_experiment(request.first)


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


def _named(family: Family, comparison: str, trials: int) -> Family:
    """With the name that its study has in the comparison."""
    name = f"{comparison}.{family.dataset}.{family.schedule}"
    return replace(family, plan=replace(family.plan, study=replace(family.plan.study, name=name, n_trials=trials)))


def _comparison_name(families: Sequence[Family]) -> str:
    """compare-datasets-model-optimizer-digest; whatever the order."""
    datasets = sorted({family.dataset for family in families})
    plan = families[0].plan
    identities = sorted(json.dumps(family.plan.identity, sort_keys=True) for family in families)
    return "-".join(["compare", "+".join(datasets), plan.label("model"), plan.label("optimizer"), _digest(identities)])


def _digest(identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
