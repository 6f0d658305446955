"""A space in Optuna's terms."""

import numpy as np
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sweep.core import Value
from sweep.space import Branch, Dimension, Space
from sweep.validation import InvalidValueError


def distribution(dimension: Dimension) -> BaseDistribution:
    """Choices are categorical; intervals include both ends."""
    if dimension.choices:
        return CategoricalDistribution(dimension.labels)
    if dimension.integer:
        return IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def draw(trial: Trial, name: str, dimension: Dimension) -> Value:
    """Let a trial suggest a value of the dimension under a name; what it has drawn before is kept."""
    if dimension.choices:
        drawn: Value = trial.suggest_categorical(name, dimension.labels)  # type: ignore[assignment]  # never None here
        return drawn
    if dimension.integer:
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def distributions(branch: Branch) -> dict[str, BaseDistribution]:
    """Parameter name -> distribution, of one branch."""
    return {branch.parameter(d): distribution(d) for d in branch.dimensions}


def grid_values(space: Space) -> dict[str, list[Value]]:
    """Parameter name -> its values, for a grid.

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
