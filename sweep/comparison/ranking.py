"""Rank families: differences to the best, what has been shown, and a verdict in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count
from math import comb
from types import MappingProxyType

import numpy as np

from sweep.comparison.statistics import (
    MOST_SEEDS,
    Estimate,
    difference_estimate,
    holm,
    mean_estimate,
    paired_p,
    seeds_needed,
    smallest_p,
)
from sweep.plurals import plural

POWER = 0.85
"""Power of the t test with one seed left out; leaving out each seed in turn, the power is then about 0.8."""

Finals = Mapping[int, float | None]
"""Seed -> the metric at the end; None where the training diverged or failed."""
Values = Mapping[str, Mapping[int, float]]
"""Family -> seed -> the metric at the end, where there is one."""


@dataclass(frozen=True)
class Difference:
    """The difference of a family to the best, over the seeds for which both have a result.

    Args:
        mean, low, high: the mean and its interval.
        p: of the paired test, uncorrected.
        p_holm: corrected for all pairs of families. The pairs with the best are not enough: it is chosen by the same
            data, and one of several equal families would seem better than the worst too often.
        n_pairs: number of seeds.
        shown: whether p_holm is below the level with all seeds, and also with any one of them left out: a difference
            that depends on a single seed is not shown. Needs three seeds.
        seeds_needed: to show a difference of this size and spread with a probability of 80 %, at the strictest level of
            the correction; None if it is shown, if it depends on a single seed, or above MOST_SEEDS.
    """

    mean: float
    low: float | None
    high: float | None
    p: float
    p_holm: float
    n_pairs: int
    shown: bool
    seeds_needed: int | None


@dataclass(frozen=True)
class Ranked:
    """The rank of a family.

    Args:
        rank: from 1.
        estimate: the mean over the final runs with a result; None without any.
        n: number of final runs with a result.
        diverged: number of final runs that diverged.
        difference: to the best; None for the best itself, and if fewer than two seeds are in common.
        failed: number of final runs that failed.
    """

    name: str
    rank: int
    estimate: Estimate | None
    n: int
    diverged: int
    difference: Difference | None
    failed: int = 0


@dataclass(frozen=True)
class Ranking:
    """Families, best first.

    Args:
        shown: families that are shown to be worse than the best, in the order of their ranks.
        verdict: what has been shown and what has not, in plain words.
    """

    families: tuple[Ranked, ...]
    shown: tuple[str, ...]
    verdict: str


def rank(
    finals: Mapping[str, Finals],
    minimize: bool,
    confidence: float,
    test: str,
    failed: Mapping[str, int] = MappingProxyType({}),
) -> Ranking:
    """Rank families by the mean over their final runs.

    Families with diverged or failed final runs come after those without any, and families without results come last.

    Args:
        finals: family -> its final metrics; seeds may be missing.
        confidence: of the intervals; 1 - confidence is the level of the tests.
        test: "t" or "wilcoxon".
        failed: family -> how many of its final runs without a result failed; the others diverged.
    """
    values = {name: {seed: v for seed, v in of.items() if v is not None} for name, of in finals.items()}
    sign = 1 if minimize else -1

    def place(name: str) -> tuple[bool, int, float]:
        of = values[name]
        return not of, len(finals[name]) - len(of), sign * float(np.mean(list(of.values()))) if of else 0.0

    order = sorted(finals, key=place)
    differences = _to_the_best(order, values, confidence, test)
    ranked = tuple(
        Ranked(
            name=name,
            rank=index + 1,
            estimate=mean_estimate(np.array(list(values[name].values())), confidence) if values[name] else None,
            n=len(values[name]),
            diverged=len(finals[name]) - len(values[name]) - failed.get(name, 0),
            difference=differences.get(name),
            failed=failed.get(name, 0),
        )
        for index, name in enumerate(order)
    )
    # A family that is first because others diverged or failed need not be better than these.
    shown = tuple(name for name, of in differences.items() if of.shown and sign * of.mean > 0)
    verdict = _verdict(ranked, shown, 1 - confidence) + _too_few(ranked, len(order), 1 - confidence, test)
    return Ranking(ranked, shown, verdict)


def _to_the_best(order: Sequence[str], values: Values, confidence: float, test: str) -> dict[str, Difference]:
    """Return the difference of each family to the best, in the order of their ranks."""
    level = 1 - confidence
    tested = _tested(order, values, test)
    seeds = sorted({seed for of in values.values() for seed in of})
    without_one = [_tested(order, _without(values, seed), test) for seed in seeds]
    differences = {}
    for pair, (p, p_holm) in tested.items():
        if pair[0] != order[0]:
            continue
        between = _between(values, *pair)
        estimate = difference_estimate(between, confidence, test)
        shown = p_holm < level and all(pair in of and of[pair][1] < level for of in without_one)
        needed = _seeds_needed(between, level / len(tested), test) if p_holm >= level else None
        differences[pair[1]] = Difference(
            estimate.mean, estimate.low, estimate.high, p, p_holm, len(between), shown, needed
        )
    return differences


def _seeds_needed(differences: np.ndarray, level: float, test: str) -> int | None:
    """Return the number of seeds that, less one, is enough for the power and for the test to show any difference."""
    left = seeds_needed(differences, level, POWER)
    if left is None:
        return None
    return next(n for n in count(left) if smallest_p(n, test) < level) + 1


def _tested(order: Sequence[str], values: Values, test: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Return p, and p corrected for all pairs, of each pair of families with at least two seeds in common."""
    between = {pair: _between(values, *pair) for pair in combinations(order, 2)}
    p = {pair: paired_p(differences, test) for pair, differences in between.items() if len(differences) > 1}
    return {pair: (p[pair], corrected) for pair, corrected in zip(p, holm(list(p.values())), strict=True)}


def _without(values: Values, seed: int) -> Values:
    return {name: {s: v for s, v in of.items() if s != seed} for name, of in values.items()}


def _between(values: Values, best: str, name: str) -> np.ndarray:
    """Return the differences of a family to a better one, on the seeds in common."""
    ours, others = values[name], values[best]
    return np.array([ours[seed] - others[seed] for seed in ours if seed in others])


def _verdict(ranked: Sequence[Ranked], shown: Sequence[str], level: float) -> str:
    """Say what has been shown, what has not and how many seeds it needs, and what went wrong."""
    numbered = [family for family in ranked if family.estimate is not None]
    if not numbered:
        return "No schedule has a result: no trial, or no final run, ended as complete."
    best, rest = numbered[0].name, numbered[1:]
    unclear = [family for family in rest if family.difference is not None and not family.difference.shown]
    better = [f.name for f in rest if f.difference is not None and f.difference.shown and f.name not in shown]
    said = [*_shown_text(best, rest, shown, unclear), *_needed_text(best, unclear, level)]
    if better:
        without = "fail" if any(family.failed for family in rest if family.name in better) else "diverge"
        said.append(f"{best} is ranked first, but {_listed(better)} had better numbers where it did not {without}.")
    if untested := [family.name for family in rest if family.difference is None]:
        said.append(f"{best} and {_listed(untested)} have fewer than two seeds in common: no test is possible.")
    for family in ranked:
        if family.estimate is None:
            said.append(f"{family.name} has no result.")
        elif family.diverged or family.failed:
            runs = family.n + family.diverged + family.failed
            counted = {"diverged": family.diverged, "failed": family.failed}
            ended = _listed([f"{how} on {n}" for how, n in counted.items() if n])
            said.append(f"{family.name} {ended} of {plural(runs, 'seed')} and is ranked for it.")
    return " ".join(said)


def _shown_text(best: str, rest: Sequence[Ranked], shown: Sequence[str], unclear: Sequence[Ranked]) -> list[str]:
    """Say which families are worse than the best, and which differences are not shown."""
    if not rest:
        return [f"Only {best} has a result."]
    open_ = _listed([family.name for family in unclear])
    if not shown:
        return [f"No difference shown between {best}, which is ranked first, and {open_}."] if unclear else []
    if unclear:
        return [f"{best} is ranked first and is better than {_listed(shown)}; no difference shown to {open_}."]
    return [f"{best} is better than {_listed(shown)}."]


def _needed_text(best: str, unclear: Sequence[Ranked], level: float) -> list[str]:
    """Say how many seeds the nearest family without a shown difference needs."""
    said = [
        f"The difference to {family.name} depends on a single seed."
        for family in unclear
        if family.difference is not None and family.difference.p_holm < level
    ]
    nearest = unclear[0] if unclear else None
    if nearest is not None and nearest.difference is not None and nearest.difference.p_holm >= level:
        needed = nearest.difference.seeds_needed
        seeds = f"more than {MOST_SEEDS:,}" if needed is None else f"about {needed:,}"
        said.append(
            f"To show a difference of the size seen between {best} and {nearest.name} would take {seeds} seeds."
        )
    return said


def _too_few(ranked: Sequence[Ranked], families: int, level: float, test: str) -> str:
    """Say if the test cannot show any difference: with one seed left out, corrected for all pairs."""
    n_pairs = max((family.difference.n_pairs for family in ranked if family.difference), default=0)
    if n_pairs < 2 or smallest_p(n_pairs - 1, test) * comb(families, 2) < level:
        return ""
    return f" With so few seeds for {families} schedules, the test {test} can show no difference at all."


def _listed(names: Sequence[str]) -> str:
    """Join names: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
