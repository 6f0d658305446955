"""Samplers whose proposal n is a function of (space, seed, n, history): nothing else is carried along.

A sampler is made anew for every proposal. One that draws is seeded from (seed, n); quasi-random sequences keep
their seed and take their point n. So a study that was interrupted goes on with the proposals it would have had.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from sweep.config import SamplerConfig
from sweep.search.distributions import distributions, grid_values
from sweep.space import Space
from sweep.validation import InvalidValueError

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # qmc and gp: said in their documentation
warnings.filterwarnings("ignore", message="Constraints have been set")  # cmaes: it learns from the pruning alone

CONDITIONAL = ("tpe", "random")
"""Samplers that can search a space in which a choice decides which parameters there are."""


class _SobolPoint(QMCSampler):
    """Point n of the sequence. QMCSampler counts points in the study, which an interrupted ask would shift."""

    def __init__(self, number: int, space: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._number, self._space = number, space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


class _GridPoint(GridSampler):
    """GridSampler ends `Study.optimize` with its last point; under ask and tell the proposer does the counting."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        return None


def sampler(config: SamplerConfig, space: Space, number: int) -> BaseSampler:
    """The sampler of proposal `number`.

    Raises:
        InvalidValueError: if it has no such option, or cannot search this space.
    """
    mixed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    options = dict(config.options)
    factories: Mapping[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(seed=mixed, group=space.conditional, **options),
        "random": lambda: RandomSampler(seed=mixed, **options),
        "grid": lambda: _GridPoint(grid_values(space), seed=config.seed, **options),
        "qmc": lambda: _SobolPoint(number, _only_branch(space), seed=config.seed, **options),
        "cmaes": lambda: CmaEsSampler(seed=mixed, warn_independent_sampling=False, **options),
        "gp": lambda: GPSampler(seed=mixed, **options),
    }
    if config.name not in factories:
        raise InvalidValueError("sampler.name", config.name, f"must be one of {', '.join(factories)}")
    if space.conditional and config.name not in CONDITIONAL:
        choice = ", ".join(f"{group}={','.join(options)}" for group, options in space.groups.items())
        rule = f"cannot search a choice among groups ({choice}); {' and '.join(CONDITIONAL)} can"
        raise InvalidValueError("sampler", config.name, rule)
    try:
        return factories[config.name]()
    except TypeError as error:
        raise _unknown_option(config, error) from error
    except InvalidValueError:
        raise
    except ValueError as error:
        raise InvalidValueError("sampler", config.name, f"refused its options {options}: {error}") from error


def _only_branch(space: Space) -> dict[str, BaseDistribution]:
    return distributions(space.branches[0])


def _unknown_option(config: SamplerConfig, error: TypeError) -> InvalidValueError:
    classes = {"tpe": TPESampler, "grid": GridSampler, "qmc": QMCSampler, "cmaes": CmaEsSampler, "gp": GPSampler}
    known = inspect.signature(classes.get(config.name, RandomSampler)).parameters
    for name, value in config.options.items():
        if name not in known:
            return InvalidValueError(f"sampler.{name}", value, f"is not a key of {config.name}")
    return InvalidValueError("sampler", config.name, f"refused its options: {error}")


def grid_size(config: SamplerConfig, space: Space) -> int | None:
    """How many points there are to propose; None where there is no end."""
    if config.name != "grid":
        return None
    return int(np.prod([len(values) for values in grid_values(space).values()]))
