"""Converts a search space into Optuna's distributions, and checks whether stored trials fit it."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from sweep.core import Value
from sweep.errors import InvalidValueError
from sweep.space import Branch, Dimension, Space


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return the distribution of a dimension: categorical for choices; intervals include both ends."""
    if dimension.choices:
        return CategoricalDistribution(dimension.labels)
    if dimension.integer:
        return IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def draw(trial: Trial, name: str, dimension: Dimension) -> Value:
    """Let a trial suggest a value of the dimension under a name; a value that it drew before stays."""
    if dimension.choices:
        drawn: Value = trial.suggest_categorical(name, dimension.labels)  # type: ignore[assignment]  # never None here
        return drawn
    if dimension.integer:
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def distributions(branch: Branch) -> dict[str, BaseDistribution]:
    """Return parameter name -> distribution for one branch."""
    return {branch.parameter(d): distribution(d) for d in branch.dimensions}


def choices(space: Space) -> dict[str, Dimension]:
    """Return group -> the dimension that chooses its option, for each searched group."""
    return {group: Dimension(group, ",".join(options), choices=options) for group, options in space.groups.items()}


def contains(of: BaseDistribution, value: Any) -> bool:
    """Return whether a value, with its type, can be drawn from a distribution."""
    if isinstance(of, CategoricalDistribution):
        return any(value == choice and isinstance(value, bool) is isinstance(choice, bool) for choice in of.choices)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    if isinstance(of, IntDistribution) and value != int(value):
        return False
    return of._contains(of.to_internal_repr(value))  # Optuna has no public way to ask


def _range(of: BaseDistribution) -> str:
    if isinstance(of, CategoricalDistribution):
        return f"the list {', '.join(map(str, of.choices))}"
    assert isinstance(of, (IntDistribution, FloatDistribution))
    integers = "the integers of " if isinstance(of, IntDistribution) else ""
    step = "" if of.step in (None, 1) else f" in steps of {of.step}"
    return f"{integers}[{of.low}, {of.high}]{step}"


class Fit:
    """Tells whether stored trials, of any program, can be trials of a space.

    Args:
        space: the search space.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._groups = {name: distribution(choice) for name, choice in choices(space).items()}
        self._branches = {branch.label: self._groups | distributions(branch) for branch in space.branches}
        self._known = {name: of for branch in self._branches.values() for name, of in branch.items()}

    def misfit(self, params: Mapping[str, Any]) -> str | None:
        """Return why parameters, some or all, cannot belong to a trial; None if they can.

        A name may be of any branch. Both ends of an interval are included.
        """
        for name, value in params.items():
            if name not in self._known:
                return f"{name}={value}: is not searched; searched are {', '.join(self._known)}"
            if not contains(self._known[name], value):
                return f"{name}={value}: is not in {_range(self._known[name])}"
        return None

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Return whether parameters are exactly those of a branch, with values that it can draw."""
        if self.misfit(params) is not None or not self._groups.keys() <= params.keys():
            return False
        return self._branches[self._space.branch(params).label].keys() == params.keys()

    def conflict(self, trial: FrozenTrial) -> str | None:
        """Return the parameter of a trial whose distribution is incompatible with ours in Optuna; None without one.

        In one study, a parameter of one name is a float, an integer or a choice, with or without a logarithmic scale.
        """
        for name, other in trial.distributions.items():
            if name in self._known and other != self._known[name]:
                try:
                    check_distribution_compatibility(other, self._known[name])
                except ValueError:
                    return name
        return None

    def redistributed(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial that fits with the distributions of the space, because samplers compare distributions."""
        own = {name: self._known[name] for name in trial.params}
        if trial.distributions == own:
            return trial
        fitted = copy.copy(trial)
        fitted.distributions = own
        return fitted


def grid_values(space: Space) -> dict[str, list[Value]]:
    """Return parameter name -> its values, for a grid.

    Raises:
        InvalidValueError: names the dimension that has no finite number of values.
    """
    return {branch.parameter(d): _finite(d) for branch in space.branches for d in branch.dimensions}


def _finite(dimension: Dimension) -> list[Value]:
    if dimension.choices:
        return list(dimension.labels)
    if dimension.step is None:
        rule = "sampler=grid needs finitely many values: give a list (a,b,c) or range(low,high,step)"
        raise InvalidValueError(dimension.key, dimension.expression, rule)
    values = np.arange(dimension.low, dimension.high + dimension.step / 2, dimension.step)
    return [int(v) if dimension.integer else round(float(v), 12) for v in values]
