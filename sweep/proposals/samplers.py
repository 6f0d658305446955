"""Samplers whose proposal n is a function of (space, seed, n, history): nothing else is carried along.

A sampler is made anew for every proposal (a grid once: it draws nothing). One that draws is seeded from (seed, n);
quasi-random sequences keep their seed and take their point n. So a study that was interrupted goes on with the
proposals it would have had.
"""

import warnings
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
from optuna.samplers._tpe import _truncnorm
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr

from sweep.config import SamplerConfig
from sweep.proposals.distributions import distributions, grid_values
from sweep.proposals.options import build
from sweep.space import Space

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # qmc and gp: said in their documentation
warnings.filterwarnings("ignore", message="Constraints have been set")  # cmaes: it learns from the pruning alone

_truncnorm._log_ndtr = log_ndtr  # Optuna evaluates it number by number: among 500 trials, half the time of a proposal

HISTORY_FREE = ("random", "qmc", "grid")
"""Samplers whose proposal n does not depend on the results of others."""


class _TPE(TPESampler):
    """TPESampler looks through all trials for the parameters that they have in common. Without a choice among groups
    these are the space, as soon as a trial has ended.
    """

    space: dict[str, BaseDistribution] | None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self.space is None:
            return super().infer_relative_search_space(study, trial)
        told = (TrialState.COMPLETE, TrialState.PRUNED)
        return self.space if Study.get_trials(study, deepcopy=False, states=told) else {}  # of all brackets


class _QMCPoint(QMCSampler):
    """Point `number` of the sequence. QMCSampler counts points in the study, which an interrupted ask would shift."""

    number: int
    space: dict[str, BaseDistribution]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number


class _GridPoint(GridSampler):
    """GridSampler ends `Study.optimize` with its last point; under ask and tell the proposer does the counting."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        return None


def sampler(config: SamplerConfig, space: Space, number: int) -> BaseSampler:
    """The sampler of proposal `number`.

    Raises:
        InvalidValueError: if it has no such option, or cannot search this space.
    """
    space.check_sampler(config.name)
    mixed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    if config.name == "tpe":
        tpe = build("sampler", config, _TPE, seed=mixed, group=space.conditional)
        tpe.space = None if space.conditional or config.options.get("multivariate") is False else _relative(space)
        return tpe
    if config.name == "grid":
        return build("sampler", config, _GridPoint, search_space=grid_values(space), seed=config.seed)
    if config.name == "qmc":
        point = build("sampler", config, _QMCPoint, seed=config.seed)
        point.number, point.space = number, distributions(space.branches[0])
        return point
    if config.name == "cmaes":
        return build("sampler", config, CmaEsSampler, seed=mixed, warn_independent_sampling=False)
    return build("sampler", config, GPSampler if config.name == "gp" else RandomSampler, seed=mixed)


def _relative(space: Space) -> dict[str, BaseDistribution]:
    """The parameters of a space of one branch that have more than one value, in the order in which TPE draws them."""
    return {name: d for name, d in sorted(distributions(space.branches[0]).items()) if not d.single()}


def history_free(config: SamplerConfig) -> bool:
    """Whether a proposal does not depend on results: it is the same, asked for early or late."""
    return config.name in HISTORY_FREE


def grid_size(config: SamplerConfig, space: Space) -> int | None:
    """How many points there are to propose; None where there is no end."""
    if config.name != "grid":
        return None
    return int(np.prod([len(values) for values in grid_values(space).values()]))
