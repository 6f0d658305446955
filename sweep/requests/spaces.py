"""The space of a command line: the dimensions of conf/space and of sweep expressions, without what is pinned."""

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
from sweep.requests.compose import CUSTOM, OWN_KEYS, SCHEDULES, Composer, elements_of, resolved
from sweep.requests.expressions import Request, check_searchable, dimension, is_element, read_space, written
from sweep.requests.horizon import horizon
from sweep.requests.resolvers import epoch_length
from sweep.schedules import DECAYS, WARMUPS
from sweep.space import Branch, Dimension, Space, selections
from sweep.targets import is_given

OF_ONE = (*DECAYS, "half_life")
"""Spaces that are of one schedule; one of the user's own may name keys of several."""


def space(composer: Composer, request: Request) -> Space:
    """The space of a request: conf/space without what is pinned, with what the command line sweeps.

    Raises:
        InvalidValueError: names a key that one of the choices does not have, or an expression that cannot be right.
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
    """Refuse what the configuration alone can refuse, without importing torch, Optuna or MLflow.

    Raises:
        InvalidValueError: names what cannot be right.
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
            for _ in branch.extremes():  # each is built, and refused if it cannot be right
                pass


def listed(config: DictConfig, override: Override) -> list[str]:
    """The values of a list or range, as overrides have them; those in parts of the horizon or in epochs in updates."""
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
        return CUSTOM if "_target_" in schedule else str(schedule.get("name"))

    return dimension(override, name_of, unit)


def _with_values(config: DictConfig, request: Request) -> DictConfig:
    """Return the configuration with a value of each searched key that has none.

    It may be a value that the group cannot do without, or a key of an object that was given in Python or of a schedule
    of the user's: the configuration of these has only those keys that are given.
    """
    filled = config.copy()
    targets = {group: OmegaConf.select(config, f"{group}._target_") for group in OWN_KEYS}
    # the keys of a loop are those that are given, wherever its function is
    free = ("loop", *SCHEDULES, *(group for group in OWN_KEYS if f"{group}._target_" in request.keys))
    open_groups = [group for group, target in targets.items() if is_given(target) or (target and group in free)]
    given = tuple(f"{group}." for group in open_groups)
    for key, override in request.sweeps.items():
        if (_has(config, key) or key.startswith(given)) and OmegaConf.select(config, key) is None:
            OmegaConf.update(filled, key, _dimension(config, key, override).ends[0])
    return filled


def _critic_dimensions(composer: Composer, config: DictConfig, request: Request) -> dict[str, Any]:
    """What a search draws of the schedule and the warmup of a critic, unless it has a space of the user's own.

    It is what conf/space has for a generator with that schedule.
    """
    named = _space(request)
    schedule, of_theirs = OmegaConf.select(config, "critic.schedule"), named is not None and named not in OF_ONE
    if schedule is None or "space" not in config or of_theirs:
        return {}
    space = resolved(composer.compose([f"space={composer.space_of(schedule)}"]), "space")
    return {f"critic.{key}": drawn for key, drawn in space.items() if key.startswith(("schedule.", "warmup."))}


def _branch(config: DictConfig, selection: Mapping[str, str], request: Request, further: Mapping[str, Any]) -> Branch:
    """A branch of the space.

    Args:
        further: dimensions beside those of the configuration.
    """
    config = _with_values(config, request)
    base = identity(*recorded_parts(config, run_options(config)))
    configured: dict[str, Any] = {**further, **(resolved(config, "space") or {})}
    chosen = {}
    for key, expression in configured.items():
        check_searchable(key, expression)
        if not request.groups and key.startswith("schedule.") and not _has(config, key) and _space(request) in OF_ONE:
            rule = f"searches {key}, which schedule={config.schedule.name} does not have"
            raise InvalidValueError("space", _space(request), rule)
        if _replaced(key, request) or _unused(config, key):
            continue
        if _has(config, key) or not _known_elsewhere(config, key):
            chosen[key] = read_space(key, expression)
    chosen |= request.sweeps
    for key, override in chosen.items():
        if not _has(config, key):
            parent = key.rpartition(".")[0]
            if (elements := elements_of(config, parent)) is not None:
                raise InvalidValueError(key, written(override), elements)
            if not OmegaConf.is_dict(OmegaConf.select(config, parent)):
                parent = key.partition(".")[0]
            part = OmegaConf.select(config, parent)
            rule = f"no such key; {parent}={part.get('name')} has {', '.join(k for k in part if k != 'name') or 'none'}"
            raise InvalidValueError(key, written(override), rule)
    dimensions = tuple(_dimension(config, key, override) for key, override in chosen.items())
    return Branch(selection, dimensions, _configurer(config, dimensions), base)


def _configurer(config: DictConfig, dimensions: tuple[Dimension, ...]) -> Callable[[Mapping[str, Any]], RunConfig]:
    """What makes values the configuration of a trial."""
    used_again = config.copy()  # where every dimension is given: a copy takes longer than all the rest

    def configured(values: Mapping[str, Any]) -> RunConfig:
        drawn = used_again if all(dim.key in values for dim in dimensions) else config.copy()
        for dim in dimensions:
            if dim.key in values:
                OmegaConf.update(drawn, dim.key, values[dim.key])
        return run_config(drawn)

    return configured


def _known_elsewhere(config: DictConfig, key: str) -> bool:
    """Return whether the key, or the list or mapping that it is part of, is one that only other families have.

    A space may name keys that the chosen schedule or warmup lacks.
    """
    critic = "critic." if key.startswith("critic.") else ""
    group, _, rest = key.removeprefix(critic).partition(".")
    leaf = rest.partition(".")[0]
    families: Mapping[str, Mapping[str, type]] = {"schedule": DECAYS, "warmup": WARMUPS}
    known = any(leaf in {field.name for field in fields(f)} for f in families.get(group, {}).values())
    return known and not _has(config, f"{critic}{group}.{leaf}")


def _replaced(key: str, request: Request) -> bool:
    """Return whether the command line fixes a key of the space, or fixes or searches a list that it is part of."""
    lists = [other for other in (*request.pinned, *request.sweeps) if is_element(key, other) or is_element(other, key)]
    return key in request.pinned or bool(lists)


def _has(config: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    part = OmegaConf.select(config, parent)
    if OmegaConf.is_list(part):
        return leaf.isdigit() and int(leaf) < len(part)
    return OmegaConf.is_dict(part) and leaf in part.keys()  # noqa: SIM118  # a key that must be given is not "in"


def _space(request: Request) -> str | None:
    """The space that the command line names."""
    named = [text.partition("=")[2] for text in request.plain if text.startswith("space=")]
    return named[-1] if named else None


def _unused(config: DictConfig, key: str) -> bool:
    """Whether a key resolves to null, because another says the same: decay_rate beside half_life."""
    parent, _, leaf = key.rpartition(".")
    part = OmegaConf.select(config, parent)
    if not _has(config, key) or not OmegaConf.is_dict(part):
        return False
    return OmegaConf.is_interpolation(part, leaf) and part[leaf] is None
