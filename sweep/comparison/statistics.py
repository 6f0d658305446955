"""The statistics of a comparison: means and differences with intervals, corrections, expected best, targets."""

import warnings
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its subpackages are imported when they are used: it takes a second

RESAMPLES = 9999
"""Resamples of a bootstrap."""
MOST_SEEDS = 10_000
"""Larger numbers of seeds are not computed."""


@dataclass(frozen=True)
class Estimate:
    """A mean and the ends of its interval, which are None if there is only one value."""

    mean: float
    low: float | None
    high: float | None


def mean_estimate(values: np.ndarray, confidence: float) -> Estimate:
    """Return the mean of values [n], n >= 1, and its bootstrap interval: bias-corrected and accelerated (Efron 1987).

    The interval of equal values has no width. If the acceleration cannot be computed, percentiles are used. The same
    values give the same interval.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None)
    if np.ptp(values) == 0:
        return Estimate(mean, mean, mean)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = scipy.stats.bootstrap(
                (values,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method=method, rng=0
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return Estimate(mean, float(found.low), float(found.high))


def paired_p(differences: np.ndarray, test: str) -> float:
    """Return the two-sided p of no difference, for differences [n] over pairs, n >= 2.

    Args:
        test: "t", Student's paired test, or "wilcoxon", signed ranks.

    Returns:
        1 if all differences are 0; 0 with "t" if they are all equal but not 0.
    """
    if not differences.any():
        return 1.0
    if test == "wilcoxon":
        return float(scipy.stats.wilcoxon(differences).pvalue)
    return 0.0 if np.ptp(differences) == 0 else float(_t_test(differences).pvalue)


def difference_estimate(differences: np.ndarray, confidence: float, test: str) -> Estimate:
    """Return the mean of differences [n] over pairs, n >= 2, with the interval of the test: of t, or bootstrap."""
    if test == "wilcoxon" or np.ptp(differences) == 0:
        return mean_estimate(differences, confidence)
    interval = _t_test(differences).confidence_interval(confidence)
    return Estimate(float(differences.mean()), float(interval.low), float(interval.high))


def _t_test(differences: np.ndarray) -> Any:
    """Carry out SciPy's t test without its warning about differences that are equal except for rounding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scipy.stats.ttest_1samp(differences, 0.0)


def smallest_p(n_pairs: int, test: str) -> float:
    """Return the smallest p that n pairs can have: of signed ranks if all have the same sign; of t it is 0."""
    if n_pairs < 2:
        return 1.0
    return 2 / 2**n_pairs if test == "wilcoxon" else 0.0


def holm(p: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction (1979): adjusted p <= level rejects at that family-wise level."""
    adjusted, highest = [0.0] * len(p), 0.0
    for place, index in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = highest
    return adjusted


def seeds_needed(differences: np.ndarray, level: float, power: float) -> int | None:
    """Return the fewest pairs with which a two-sided paired t test finds a difference of this size and spread.

    Power by the noncentral t distribution with n - 1 degrees of freedom and noncentrality sqrt(n) |mean| / deviation.

    Args:
        differences: float64 [n], n >= 2.
        level: of the test, between 0 and 1.
        power: probability that it is found, between 0 and 1.

    Returns:
        At least 2; None above MOST_SEEDS.
    """
    mean, deviation = abs(float(differences.mean())), float(differences.std(ddof=1))
    if mean == 0:
        return None
    if deviation == 0:
        return 2
    effect, counts = mean / deviation, range(2, MOST_SEEDS + 1)
    place = bisect_left(counts, power, key=lambda n: _power(n, effect, level))
    return counts[place] if place < len(counts) else None


def _power(n: int, effect: float, level: float) -> float:
    """Return the power of a two-sided t test of n differences whose mean / deviation is `effect`."""
    bound, shift = scipy.stats.t.isf(level / 2, n - 1), np.sqrt(n) * effect
    other_tail = np.nan_to_num(scipy.stats.nct.cdf(-bound, n - 1, shift))  # far from 0 SciPy returns NaN
    return float(scipy.stats.nct.sf(bound, n - 1, shift) + other_tail)


def expected_best(values: np.ndarray, missing: int, minimize: bool) -> np.ndarray:
    """Return the expected best of k trials drawn from those of a search, float64 [n], n = len(values) + missing.

    For k = 1..n trials drawn without replacement: the i-th best of n (i = 0 the best) is the best of k in
    C(n-i-1, k-1) of C(n, k) draws (Dodge et al. 2019, with replacement there).

    Args:
        values: of the trials that ended as complete.
        missing: trials without a value, diverged or pruned. The expectation is over the draws that contain a value.

    Returns:
        Empty if there are no values.
    """
    n = len(values) + missing
    if not len(values):
        return np.empty(0)
    ordered = np.sort(values) if minimize else np.sort(values)[::-1]
    k, rank = np.arange(1, n + 1)[:, None], np.arange(len(values))[None, :]
    possible = n - rank >= k
    left = np.where(possible, n - rank - k, 0)
    log_draws = scipy.special.gammaln(n - rank) - scipy.special.gammaln(k) - scipy.special.gammaln(left + 1)
    weights = np.where(
        possible, np.exp(log_draws - log_draws.max(axis=1, keepdims=True, where=possible, initial=-np.inf)), 0.0
    )
    expected: np.ndarray = (weights * ordered).sum(axis=1) / weights.sum(axis=1)
    return expected


def first_reached(marks: np.ndarray, values: np.ndarray, target: float, minimize: bool) -> float:
    """Return the first of the marks (steps or seconds, ascending) whose value reaches the target; inf for never."""
    hit = values <= target if minimize else values >= target
    return float(marks[hit.argmax()]) if hit.any() else float("inf")


def performance_profile(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the performance profile (Dolan and Moré 2002): the share of problems solved at tau times the lowest cost.

    Args:
        costs: float64 [families, problems], > 0, inf if not solved.

    Returns:
        tau: float64 [m], the ratios that occur, from 1.
        rho: float64 [families, m], the share of all problems, including those that none solved, at ratio <= tau.
    """
    best = costs.min(axis=0)
    ratios = np.full_like(costs, np.inf)
    np.divide(costs, best, out=ratios, where=np.isfinite(costs))
    tau = np.unique(np.append(ratios[np.isfinite(ratios)], 1.0))
    return tau, (ratios[:, :, None] <= tau).mean(axis=1)
