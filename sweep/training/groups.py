"""Build optimizers with parameter groups, which may have their own rate factor, schedule and arguments."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from sweep.components import Component
from sweep.config import OptimizerConfig
from sweep.errors import InvalidValueError
from sweep.training.optimizers import Optimizer, TwoWeights

BIAS_AND_NORM = "bias_and_norm"
"""The parameters with at most one dimension: biases, and the scales and shifts of normalizations."""

SCHEDULE = "lr_schedule"
"""Key of a param_group for the name of its schedule. A group without this key uses the main schedule."""

Rates = dict[str | None, list[float]]
"""Name of a schedule, None for the main one -> the rate of every update, as `config.Series.curves` returns it."""


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """Return the optimizer of a model. Each of its param_groups has an `lr_factor`.

    The rate of a group at update s is lr(s) * lr_factor, where lr is the schedule that the key SCHEDULE of the group
    names.

    Raises:
        InvalidValueError: names an argument that the optimizer refuses, or an invalid key of `optimizer.groups`.
    """
    optimizer: Optimizer
    try:
        if config.groups:
            optimizer = _grouped(config, config.groups, model)
        else:
            optimizer = config.component.build(model.parameters(), lr=config.lr)
        for group in optimizer.param_groups:
            group.setdefault("lr_factor", 1.0)
        if isinstance(optimizer, TwoWeights):
            optimizer.train()  # schedulefree checks its betas here
    except (AttributeError, TypeError) as error:
        rule = f"cannot train with {dict(config.component.arguments)}: {error}"
        raise InvalidValueError(f"{config.component.key}._target_", config.component.target, rule) from error
    return optimizer


def set_rate(optimizer: Optimizer, rates: Mapping[str | None, Sequence[float]], step: int) -> None:
    """Set the rate of every group for one update.

    Args:
        rates: name of a schedule, None for the main one -> the rates of all updates.
        step: number of the update, counted from 0.
    """
    for group in optimizer.param_groups:
        group["lr"] = rates[group.get(SCHEDULE)][step] * group["lr_factor"]


def recorded_group(optimizer: Optimizer) -> dict[str, Any]:
    """Return the first group whose rate is that of the main schedule, with factor 1. Its rate is recorded."""
    return next(group for group in optimizer.param_groups if group["lr_factor"] == 1 and SCHEDULE not in group)


def _grouped(config: OptimizerConfig, patterns: Mapping[str, Mapping[str, Any]], model: nn.Module) -> Optimizer:
    """Return the optimizer with its groups. The first group has the parameters that no pattern matches."""
    patterns = copy.deepcopy(dict(patterns))  # an optimizer may change the lists in its groups
    named = _named(f"{config.component.key}.groups", patterns, model)
    own = {name: {SCHEDULE: name} if name in config.schedules else {} for name in patterns}
    groups = [{"params": named[None]}, *({**patterns[name], **own[name], "params": named[name]} for name in patterns)]
    try:
        optimizer: Optimizer = config.component.build(groups, lr=config.lr)
    except InvalidValueError as error:
        if not isinstance(error.__cause__, AttributeError):
            raise
        rule = f"{config.component.target} does not support groups: {error.__cause__}"
        raise InvalidValueError(f"{config.component.key}.groups", _list(patterns), rule) from error
    known = [key for key in getattr(optimizer, "defaults", {}) if key != "lr"]
    for name in patterns:
        _check_arguments(config, name, patterns[name], named[name], known)
    return optimizer


def _check_arguments(
    config: OptimizerConfig, name: str, keys: Mapping[str, Any], parameters: list[Tensor], known: list[str]
) -> None:
    """Check the arguments of a group by building an optimizer with them: torch does not check those of groups."""
    component = config.component
    key = f"{component.key}.groups.{name}"
    own = {argument: value for argument, value in keys.items() if argument != "lr_factor"}
    for argument, value in own.items():
        if argument not in known:
            rule = (
                f"is not a key of a group of {component.target}, which has {_list(['lr_factor', 'schedule', *known])}"
            )
            raise InvalidValueError(f"{key}.{argument}", value, rule)
    Component(key, component.target, {**component.arguments, **own}, component.trusted).build(parameters, lr=config.lr)


def _named(key: str, patterns: Iterable[str], model: nn.Module) -> dict[str | None, list[Tensor]]:
    """Return the parameters by the first pattern that matches their names; under None those without a match."""
    named: dict[str | None, list[Tensor]] = {name: [] for name in (None, *patterns)}
    for name, parameter in model.named_parameters():
        first = next((pattern for pattern in patterns if _matches(pattern, name, parameter)), None)
        named[first].append(parameter)
    if not named[None]:
        rule = "must leave at least one parameter that is trained at lr itself, because that rate is recorded"
        raise InvalidValueError(key, _list(patterns), rule)
    for pattern, parameters in named.items():
        if not parameters:
            names = [name for name, _ in model.named_parameters()]
            known = _list(names[:6]) + (", ..." if len(names) > 6 else "")
            rule = f"matches no parameter that no earlier pattern matches; the model has {known}"
            raise InvalidValueError(key, pattern, rule)
    return named


def _matches(pattern: str, name: str, parameter: Tensor) -> bool:
    return parameter.ndim <= 1 if pattern == BIAS_AND_NORM else fnmatchcase(name, pattern)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
