"""Turn a command line into a plan: everything typed and checked. Writes nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace

from sweep.app.plan import ComparisonPlan, Family, Plan, TrainingPlan, digest, refusals_of
from sweep.errors import InvalidValueError
from sweep.plurals import plural
from sweep.proposals import grid_size
from sweep.requests import build, spaces
from sweep.requests.command import Command, repeating
from sweep.requests.current_trainer import current_trainer
from sweep.requests.expressions import OF_ONE_FILE


def make_plan(command: Command) -> Plan:
    """The plan of a command line.

    Raises:
        InvalidValueError: names what cannot be carried out.
    """
    config = command.compose()
    study, tracking = build.study_config(config), build.tracking_config(config)
    space = spaces.space(command.composer, command.request)
    first = space.branches[0].first
    data = current_trainer().facts_of(first)
    return Plan(
        study=study.with_direction(current_trainer().with_directions(first), data.classification),
        tracking=tracking,
        report=build.report_config(config),
        engine=build.engine_config(config),
        sampler=build.sampler_config(config),
        pruner=build.pruner_config(config),
        space=space,
        first=first,
        data=data,
        options={group: option for group, option in config.options.items() if group in build.OF_STUDIES},
        command=repeating(command),
    )


def make_training(command: Command) -> TrainingPlan:
    """Return the plan of a command line with mode=train.

    Raises:
        InvalidValueError: names what cannot be carried out.
    """
    for key, written in command.request.searched.items():
        rule = "mode=train trains one configuration; a sweep expression is for mode=search"
        raise InvalidValueError(key, written, rule)
    config = command.compose()
    engine, run = build.engine_config(config), build.run_config(config)
    tracking, study = build.tracking_config(config), build.study_config(config)
    data = current_trainer().facts_of(run)
    return TrainingPlan(
        run, study.with_direction(current_trainer().with_directions(run), data.classification), tracking, engine, data
    )


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
    if "schedule._target_" in request.keys:
        rule = f"would be each of {', '.join(compare.schedules)}: {OF_ONE_FILE}"
        raise InvalidValueError("schedule._target_", request.given("schedule._target_"), rule)
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
    plan = ComparisonPlan(
        name, repeating(command), compare, tuple(_named(family, name, compare.trials) for family in families)
    )
    if plan.first.first.train.save is not None:
        rule = "is for mode=search and mode=train; sweep.load(name).studies gives the searches of a comparison, and"
        rule = f"{rule} .best.weights() of each one its weights"
        raise InvalidValueError("train.save", plan.first.first.train.save, rule)
    seed = plan.first.first.train.seed
    try:
        plan.first.first.with_seed(plan.seeds[-1])
    except InvalidValueError as error:
        rule = f"must be smaller, because compare.seeds={compare.seeds} seeds follow it: the last one {error.rule}"
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
        rule = f"with schedule={schedule}: its grid has only {plural(size, 'point')}"
        raise InvalidValueError("compare.trials", trials, f"{rule}, and every schedule gets as many trials")
    return Family(dataset or plan.label(plan.first.naming_groups[0]), schedule, plan)


def _has_sampler(command: Command) -> bool:
    """Return whether the command line or its experiment chooses a sampler."""
    request = command.request
    return "sampler" in request.pinned | command.composer.set_by_experiment(request.first)


def _named(family: Family, comparison: str, trials: int) -> Family:
    """With the name that its study has in the comparison."""
    name = f"{comparison}.{family.dataset}.{family.schedule}"
    return replace(family, plan=replace(family.plan, study=replace(family.plan.study, name=name, n_trials=trials)))


def _comparison_name(families: Sequence[Family]) -> str:
    """compare-datasets-model-optimizer-digest; whatever the order."""
    datasets = sorted({family.dataset for family in families})
    plan = families[0].plan
    identities = sorted(json.dumps(family.plan.identity, sort_keys=True) for family in families)
    labels = [plan.label(group) for group in plan.first.naming_groups if group not in ("dataset", "loop", "schedule")]
    return "-".join(["compare", "+".join(datasets), *labels, digest(identities)])
