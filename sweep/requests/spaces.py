"""Builds the space of a search from conf/space and sweep expressions, without the keys that are fixed."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Override
from omegaconf import DictConfig, OmegaConf

from sweep.config import RunConfig
from sweep.errors import InvalidValueError
from sweep.identity import identity
from sweep.requests.build import (
    engine_config,
    pruner_config,
    recorded_parts,
    report_config,
    run_config,
    run_options,
    sampler_config,
    study_config,
    tracking_config,
)
from sweep.requests.compose import CUSTOM_SCHEDULE, NON_ARGUMENT_KEYS, SCHEDULE_GROUPS, Composer, elements_of, resolved
from sweep.requests.expressions import Request, check_searchable, dimension, expression_text, is_element, space_override
from sweep.requests.horizon import horizon
from sweep.requests.resolvers import epoch_length
from sweep.schedules import DECAYS, WARMUPS
from sweep.space import Branch, Dimension, Space, selections
from sweep.targets import is_given

SINGLE_SCHEDULE_SPACES = (*DECAYS, "half_life")
"""Spaces for a single schedule. A user's space may have keys of several."""


def space(composer: Composer, request: Request) -> Space:
    """Return the space of a request: conf/space without fixed keys, and the sweep expressions of the request.

    Raises:
        InvalidValueError: names a key that a chosen option does not have, or an invalid expression.
    """
    branches = []
    for selection in selections(request.groups):
        chosen = [*(f"{group}={option}" for group, option in selection.items()), *request.plain]
        config = composer.compose(chosen)
        pinned = request.pinned | composer.set_by_experiment(chosen)
        further = _critic_dimensions(composer, config, request)
        branches.append(_branch(config, selection, replace(request, pinned=pinned), further))
    return Space(request.groups, tuple(branches))


def check_alone(composer: Composer, request: Request, mode: str) -> None:
    """Check the configuration without importing torch, Optuna or MLflow.

    Raises:
        InvalidValueError: names an invalid key.
    """
    config = composer.compose(request.first)
    for section in (study_config, tracking_config, report_config, engine_config, sampler_config, pruner_config):
        section(config)
    if mode == "train" and not request.searched:
        run_config(config)
    elif mode == "search":
        searched = space(composer, request)
        searched.check_sampler(sampler_config(config).name)
        for branch in searched.branches:
            for _ in branch.extremes():  # each one is checked when it is created
                pass


def listed_values(config: DictConfig, override: Override) -> list[str]:
    """Return the values of a list or range as texts; values in fractions or epochs are converted to updates."""
    key, sweep = override.get_key_element(), override.value()
    if isinstance(sweep, ChoiceSweep) and not sweep.tags:
        return [str(text) for text in override.sweep_string_iterator()]
    dim = _dimension(config, key, override)
    if dim.step is None:
        return [str(value) for value in dim.choices]
    count = round((dim.high - dim.low) / dim.step) + 1
    values = [dim.low + index * dim.step for index in range(count)]
    return [str(int(value) if dim.integer else round(value, 12)) for value in values]


def _dimension(config: DictConfig, key: str, override: Override) -> Dimension:
    def unit(name: str) -> float:
        return horizon(config, key) if name == "fraction" else epoch_length(config, key)

    def name_of(part: str) -> str:
        schedule = OmegaConf.select(config, part) or {}
        return CUSTOM_SCHEDULE if "_target_" in schedule else str(schedule.get("name"))

    return dimension(override, name_of, unit)


def _with_values(config: DictConfig, request: Request) -> DictConfig:
    """Return the configuration with a value for each searched key that has none.

    Such a key may be required, or belong to an object that was given in Python or to a user's schedule, whose
    configurations have only the given keys.
    """
    filled = config.copy()
    targets = {group: OmegaConf.select(config, f"{group}._target_") for group in NON_ARGUMENT_KEYS}
    # a loop has only the given keys, wherever its function is
    free = ("loop", *SCHEDULE_GROUPS, *(group for group in NON_ARGUMENT_KEYS if f"{group}._target_" in request.keys))
    open_groups = [group for group, target in targets.items() if is_given(target) or (target and group in free)]
    given = tuple(f"{group}." for group in open_groups)
    for key, override in request.sweeps.items():
        if (_has_key(config, key) or key.startswith(given)) and OmegaConf.select(config, key) is None:
            OmegaConf.update(filled, key, _dimension(config, key, override).ends[0])
    return filled


def _critic_dimensions(composer: Composer, config: DictConfig, request: Request) -> dict[str, Any]:
    """Return the default dimensions of schedule and warmup of a critic; none if the user names a space.

    They are those that conf/space has for a generator with the same schedule.
    """
    named = _named_space(request)
    schedule, of_theirs = (
        OmegaConf.select(config, "critic.schedule"),
        named is not None and named not in SINGLE_SCHEDULE_SPACES,
    )
    if schedule is None or "space" not in config or of_theirs:
        return {}
    space = resolved(composer.compose([f"space={composer.space_of(schedule)}"]), "space")
    return {f"critic.{key}": drawn for key, drawn in space.items() if key.startswith(("schedule.", "warmup."))}


def _branch(config: DictConfig, selection: Mapping[str, str], request: Request, further: Mapping[str, Any]) -> Branch:
    """Return a branch of the space.

    Args:
        further: dimensions in addition to those of the configuration.
    """
    config = _with_values(config, request)
    base = identity(*recorded_parts(config, run_options(config)))
    configured: dict[str, Any] = {**further, **(resolved(config, "space") or {})}
    chosen = {}
    for key, expression in configured.items():
        check_searchable(key, expression)
        if (
            not request.groups
            and key.startswith("schedule.")
            and not _has_key(config, key)
            and _named_space(request) in SINGLE_SCHEDULE_SPACES
        ):
            rule = f"searches {key}, which schedule={config.schedule.name} does not have"
            raise InvalidValueError("space", _named_space(request), rule)
        if _replaced(key, request) or _unused(config, key):
            continue
        if _has_key(config, key) or not _known_elsewhere(config, key):
            chosen[key] = space_override(key, expression)
    chosen |= request.sweeps
    for key, override in chosen.items():
        if not _has_key(config, key):
            parent = key.rpartition(".")[0]
            if (elements := elements_of(config, parent)) is not None:
                raise InvalidValueError(key, expression_text(override), elements)
            if not OmegaConf.is_dict(OmegaConf.select(config, parent)):
                parent = key.partition(".")[0]
            part = OmegaConf.select(config, parent)
            rule = f"no such key; {parent}={part.get('name')} has {', '.join(k for k in part if k != 'name') or 'none'}"
            raise InvalidValueError(key, expression_text(override), rule)
    dimensions = tuple(_dimension(config, key, override) for key, override in chosen.items())
    return Branch(selection, dimensions, _configurer(config, dimensions), base)


def _configurer(config: DictConfig, dimensions: tuple[Dimension, ...]) -> Callable[[Mapping[str, Any]], RunConfig]:
    """Return a function that returns the configuration of a trial for drawn values."""
    used_again = config.copy()  # if all dimensions are given, because a copy takes longer than all the rest

    def configured(values: Mapping[str, Any]) -> RunConfig:
        drawn = used_again if all(dim.key in values for dim in dimensions) else config.copy()
        for dim in dimensions:
            if dim.key in values:
                OmegaConf.update(drawn, dim.key, values[dim.key])
        return run_config(drawn)

    return configured


def _known_elsewhere(config: DictConfig, key: str) -> bool:
    """Return whether only other families have the key, or the list or mapping that contains it.

    A space may have keys that the chosen schedule or warmup lacks.
    """
    critic = "critic." if key.startswith("critic.") else ""
    group, _, rest = key.removeprefix(critic).partition(".")
    leaf = rest.partition(".")[0]
    families: Mapping[str, Mapping[str, type]] = {"schedule": DECAYS, "warmup": WARMUPS}
    known = any(leaf in {field.name for field in fields(f)} for f in families.get(group, {}).values())
    return known and not _has_key(config, f"{critic}{group}.{leaf}")


def _replaced(key: str, request: Request) -> bool:
    """Return whether the request fixes a key of the space, or fixes or searches a list that contains it."""
    lists = [other for other in (*request.pinned, *request.sweeps) if is_element(key, other) or is_element(other, key)]
    return key in request.pinned or bool(lists)


def _has_key(config: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    part = OmegaConf.select(config, parent)
    if OmegaConf.is_list(part):
        return leaf.isdigit() and int(leaf) < len(part)
    return OmegaConf.is_dict(part) and leaf in part.keys()  # noqa: SIM118  # a key that must be given is not "in"


def _named_space(request: Request) -> str | None:
    """Return the space that the request names; None without one."""
    named = [text.partition("=")[2] for text in request.plain if text.startswith("space=")]
    return named[-1] if named else None


def _unused(config: DictConfig, key: str) -> bool:
    """Return whether a key resolves to null because another key replaces it, as half_life replaces decay_rate."""
    parent, _, leaf = key.rpartition(".")
    part = OmegaConf.select(config, parent)
    if not _has_key(config, key) or not OmegaConf.is_dict(part):
        return False
    return OmegaConf.is_interpolation(part, leaf) and part[leaf] is None
