"""Builds samplers whose proposal n depends on space, seed, n and history only.

A new sampler is built for each proposal (a grid is built once, because it draws nothing). Random samplers are seeded
from (seed, n); quasi-random sequences keep their seed and return their point n. So an interrupted study resumes with
the same proposals.
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

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # qmc and gp are experimental in Optuna
warnings.filterwarnings(
    "ignore", message="Constraints have been set"
)  # cmaes ignores constraints, and learns that a trial was pruned

_truncnorm._log_ndtr = log_ndtr  # Optuna evaluates it number by number: among 500 trials, half the time of a proposal

HISTORY_FREE = ("random", "qmc", "grid")
"""Samplers whose proposals do not depend on results."""


class _TPE(TPESampler):
    """TPESampler, without its scan of all trials for their common parameters.

    Without searched groups, these are the whole space as soon as a trial has ended.
    """

    space: dict[str, BaseDistribution] | None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self.space is None:
            return super().infer_relative_search_space(study, trial)
        told = (TrialState.COMPLETE, TrialState.PRUNED)
        return self.space if Study.get_trials(study, deepcopy=False, states=told) else {}  # of all brackets


class _QMCPoint(QMCSampler):
    """QMCSampler that proposes point `number`. Its own count in the study would be shifted by an interrupted ask."""

    number: int
    space: dict[str, BaseDistribution]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number


class _GridPoint(GridSampler):
    """GridSampler that does not stop a study after its last point: the proposer counts the points."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        return None


def sampler(config: SamplerConfig, space: Space, number: int) -> BaseSampler:
    """Build the sampler of proposal `number`.

    Raises:
        InvalidValueError: if an option is unknown, or the sampler cannot search this space.
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
    """Return the parameters of a space of one branch that have several values, in the order in which TPE draws them."""
    return {name: d for name, d in sorted(distributions(space.branches[0]).items()) if not d.single()}


def history_free(config: SamplerConfig) -> bool:
    """Return whether proposals do not depend on results."""
    return config.name in HISTORY_FREE


def grid_size(config: SamplerConfig, space: Space) -> int | None:
    """Return the number of points of a grid; None for other samplers."""
    if config.name != "grid":
        return None
    return int(np.prod([len(values) for values in grid_values(space).values()]))
