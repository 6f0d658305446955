"""Converts a command to a plan, in which everything is typed and checked. It writes nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace

from sweep.app.plan import ComparisonPlan, Family, Plan, TrainingPlan, digest, refusals_of
from sweep.errors import InvalidValueError
from sweep.plurals import plural
from sweep.proposals import grid_size
from sweep.requests import build, spaces
from sweep.requests.command import Command, repeating_command
from sweep.requests.current_trainer import current_trainer
from sweep.requests.expressions import ONE_SCHEDULE_FILE_HINT


def make_plan(command: Command) -> Plan:
    """Return the plan of a search.

    Raises:
        InvalidValueError: names an invalid key.
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
        options={group: option for group, option in config.options.items() if group in build.STUDY_GROUPS},
        command=repeating_command(command),
    )


def make_training(command: Command) -> TrainingPlan:
    """Return the plan of a single training.

    Raises:
        InvalidValueError: names an invalid key.
    """
    for key, written in command.request.searched.items():
        rule = "must be a plain value with mode=train; a sweep expression needs mode=search"
        raise InvalidValueError(key, written, rule)
    config = command.compose()
    engine, run = build.engine_config(config), build.run_config(config)
    tracking, study = build.tracking_config(config), build.study_config(config)
    data = current_trainer().facts_of(run)
    return TrainingPlan(
        run, study.with_direction(current_trainer().with_directions(run), data.classification), tracking, engine, data
    )


def make_comparison(command: Command) -> ComparisonPlan:
    """Return the plan of a comparison, with a search for each schedule on each data set.

    Raises:
        InvalidValueError: names an invalid key.
    """
    config, request = command.compose(), command.request
    compare, study = build.compare_config(config), build.study_config(config)
    for key, instead in (("schedule", "compare.schedules"), ("study.n_trials", "compare.trials")):
        if key in request.keys:
            raise InvalidValueError(
                key, request.given(key), f"must not be given with mode=compare, which has {instead}"
            )
    if "schedule._target_" in request.keys:
        rule = f"would be each of {', '.join(compare.schedules)}: {ONE_SCHEDULE_FILE_HINT}"
        raise InvalidValueError("schedule._target_", request.given("schedule._target_"), rule)
    if study.timeout is not None:
        rule = "must be null with mode=compare, where every schedule has compare.trials trials"
        raise InvalidValueError("study.timeout", study.timeout, rule)
    if request.groups and not _has_sampler(command):
        choice = ", ".join(f"{group}={','.join(options)}" for group, options in request.groups.items())
        rule = "cannot be searched by qmc, the default sampler of mode=compare; use sampler=tpe"
        raise InvalidValueError("sampler", choice, rule)
    datasets = request.datasets or (None,)
    families = [_family(command, dataset, schedule) for dataset in datasets for schedule in compare.schedules]
    name = study.name or _comparison_name(families)
    plan = ComparisonPlan(
        name,
        repeating_command(command),
        compare,
        tuple(_with_name(family, name, compare.trials) for family in families),
    )
    if plan.first.first.train.save is not None:
        rule = (
            "must be null with mode=compare; sweep.load(name).studies returns the searches, and .best.weights() of each"
        )
        rule = f"{rule} its weights"
        raise InvalidValueError("train.save", plan.first.first.train.save, rule)
    seed = plan.first.first.train.seed
    try:
        plan.first.first.with_seed(plan.seeds[-1])
    except InvalidValueError as error:
        rule = f"must be smaller, because compare.seeds={compare.seeds} seeds follow it: the last one {error.rule}"
        raise InvalidValueError("train.seed", seed, rule) from error
    return plan


def _family(command: Command, dataset: str | None, schedule: str) -> Family:
    """Return the search of one schedule. The default sampler is qmc.

    Args:
        dataset: one of several data sets; None for the single data set of the command.
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
        rule = f"must be at most {size} with sampler=grid: the grid of schedule={schedule} has {plural(size, 'point')}"
        raise InvalidValueError("compare.trials", trials, f"{rule}, and all schedules have equally many trials")
    return Family(dataset or plan.label(plan.first.naming_groups[0]), schedule, plan)


def _has_sampler(command: Command) -> bool:
    """Return whether the command or its experiment chooses a sampler."""
    request = command.request
    return "sampler" in request.pinned | command.composer.set_by_experiment(request.first)


def _with_name(family: Family, comparison: str, trials: int) -> Family:
    """Return the family with the name and the number of trials of its study."""
    name = f"{comparison}.{family.dataset}.{family.schedule}"
    return replace(family, plan=replace(family.plan, study=replace(family.plan.study, name=name, n_trials=trials)))


def _comparison_name(families: Sequence[Family]) -> str:
    """Return compare-datasets-model-optimizer-digest, which does not depend on the order of the families."""
    datasets = sorted({family.dataset for family in families})
    plan = families[0].plan
    identities = sorted(json.dumps(family.plan.identity, sort_keys=True) for family in families)
    labels = [plan.label(group) for group in plan.first.naming_groups if group not in ("dataset", "loop", "schedule")]
    return "-".join(["compare", "+".join(datasets), *labels, digest(identities)])
