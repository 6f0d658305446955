"""Compute a comparison from its record: winners, their final runs, ranking, targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.comparison.protocol import counted, finals, judged_by, winner
from sweep.comparison.ranking import Ranked, Ranking, rank
from sweep.comparison.statistics import Estimate, expected_best, first_reached, mean_estimate, performance_profile
from sweep.core import ComparisonRecord, FamilyRecord, FinalRecord, Status, TrialRecord
from sweep.plurals import plural

FEW_TRIALS = 10
"""With fewer tuning trials of each schedule the verdict says so: sampler=tpe draws its first 10 at random."""


@dataclass(frozen=True)
class Standing:
    """The result of a family on one data set.

    Args:
        family: its record.
        n_trials: number of tuning trials that count.
        winner: the best of them; None if none ended as complete.
        finals: final runs of the winner, in the order of their seeds, including those that diverged or failed.
        ranked: rank, interval and difference to the best in the judged metric.
        val, test: of the study's metric over the final runs that ended as complete; None without any, or (test) without
            a test split.
        steps, seconds: float64 [finals], from the start to the first evaluation at the target; inf for never, NaN if
            there is no target.
        missing: number of requested trials and final runs that have not ended.
        best_of_k: float64 [n_trials], expected best validation metric after k = 1..n_trials trials; empty if no trial
            ended as complete.
    """

    family: FamilyRecord
    n_trials: int
    winner: TrialRecord | None
    finals: Sequence[FinalRecord]
    ranked: Ranked
    val: Estimate | None
    test: Estimate | None
    steps: np.ndarray
    seconds: np.ndarray
    best_of_k: np.ndarray
    missing: int

    @property
    def schedule(self) -> str:
        return self.family.schedule

    @property
    def reached(self) -> int:
        """Return how many final runs reached the target."""
        return int(np.isfinite(self.steps).sum())

    @property
    def steps_to_target(self) -> float | None:
        """Return the median over the final runs, inf for never; None without final runs or target."""
        return _median_or_none(self.steps)

    @property
    def seconds_to_target(self) -> float | None:
        """Return the median over the final runs, inf for never; None without final runs or target."""
        return _median_or_none(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """The families compared on one data set, best first.

    Args:
        metric: that the final runs are judged by: the study's metric, on the test split if there is one.
        minimize: its direction.
        confidence: of the intervals.
        target: validation metric to which steps and seconds are counted; None if there is none.
        standings: in the order of their ranks.
    """

    dataset: str
    metric: str
    minimize: bool
    confidence: float
    target: float | None
    ranking: Ranking
    standings: Sequence[Standing]

    @property
    def missing(self) -> int:
        """Return the number of requested trials and final runs that have not ended."""
        return sum(standing.missing for standing in self.standings)

    @property
    def verdict(self) -> str:
        """Say what has been shown and what has not, and if trainings are missing or the tuning trials are few."""
        if self.missing:
            missing = plural(self.missing, "training is missing", "trainings are missing")
            return f"Unfinished: {missing}. {self.ranking.verdict}"
        trials = min(standing.n_trials for standing in self.standings)
        if trials >= FEW_TRIALS:
            return self.ranking.verdict
        tuned = f"Each schedule was tuned with only {plural(trials, 'trial')}: more trials may change the ranking."
        return f"{self.ranking.verdict} {tuned}"


def _median_or_none(values: np.ndarray) -> float | None:
    return None if not len(values) or np.isnan(values).any() else float(np.median(values))


@dataclass(frozen=True)
class Profile:
    """Performance profile over several data sets (Dolan and Moré 2002); a problem is one data set with one seed.

    Args:
        schedules: in the order of the request.
        tau: float64 [m], from 1: multiples of the fewest updates to the target of a problem.
        share: float64 [schedules, m], the share of the problems solved within tau times the fewest updates.
    """

    schedules: Sequence[str]
    tau: np.ndarray
    share: np.ndarray


def compare(record: ComparisonRecord) -> list[Comparison]:
    """Return the comparison on each data set, in the order of the request."""
    datasets = dict.fromkeys(family.dataset for family in record.families)
    return [_on([family for family in record.families if family.dataset == dataset], record) for dataset in datasets]


def profile(record: ComparisonRecord, comparisons: Sequence[Comparison]) -> Profile | None:
    """Return how often each schedule is among the fastest to the target; None for one data set.

    A final run that is missing or did not reach the target has not solved its problem.
    """
    if len(comparisons) < 2:
        return None
    schedules = list(dict.fromkeys(family.schedule for family in record.families))
    problems = [(comparison.dataset, seed) for comparison in comparisons for seed in record.seeds]
    costs = np.full((len(schedules), len(problems)), np.inf)
    for comparison in comparisons:
        for standing in comparison.standings:
            for final, steps in zip(standing.finals, standing.steps, strict=True):
                problem = problems.index((comparison.dataset, final.seed))
                costs[schedules.index(standing.schedule), problem] = np.inf if np.isnan(steps) else steps
    return Profile(schedules, *performance_profile(costs))


def _on(families: Sequence[FamilyRecord], record: ComparisonRecord) -> Comparison:
    """Return the comparison of families on one data set."""
    ended = {family.schedule: finals(family, record.trials, record.seeds) for family in families}
    test_metric = judged_by(record.metric, tested=True)
    tested = any(test_metric in final.run.metrics for of_family in ended.values() for final in of_family)
    metric = judged_by(record.metric, tested)
    results = {
        schedule: {final.seed: _value(final, metric) for final in of_family} for schedule, of_family in ended.items()
    }
    failed = {name: sum(f.run.status is Status.FAILED for f in of_family) for name, of_family in ended.items()}
    ranking = rank(results, record.minimize, record.confidence, record.test, failed)
    target = _median(ended[families[0].schedule], record) if record.target is None else record.target
    by_name = {family.schedule: family for family in families}
    standings = [
        _standing(by_name[ranked.name], ranked, ended[ranked.name], target, record) for ranked in ranking.families
    ]
    return Comparison(families[0].dataset, metric, record.minimize, record.confidence, target, ranking, standings)


def _standing(
    family: FamilyRecord,
    ranked: Ranked,
    ended: Sequence[FinalRecord],
    target: float | None,
    record: ComparisonRecord,
) -> Standing:
    trials, best = counted(family.study, record.trials), winner(family.study, record.trials)
    missing = record.trials - len(trials)
    if best is not None or missing:
        missing += len(record.seeds) - len(ended)
    measured = [t.metrics[record.metric] for t in trials if t.status is Status.COMPLETE]
    reached = [_reached(final, target, record) for final in ended]
    return Standing(
        family=family,
        n_trials=len(trials),
        winner=best,
        finals=ended,
        ranked=ranked,
        val=_estimate(ended, record.metric, record.confidence),
        test=_estimate(ended, judged_by(record.metric, tested=True), record.confidence),
        steps=np.array([steps for steps, _ in reached]),
        seconds=np.array([seconds for _, seconds in reached]),
        best_of_k=expected_best(np.array(measured), len(trials) - len(measured), record.minimize),
        missing=missing,
    )


def _reached(final: FinalRecord, target: float | None, record: ComparisonRecord) -> tuple[float, float]:
    """Return updates and seconds to the first evaluation at the target; inf for a run that diverged or failed."""
    if target is None:
        return np.nan, np.nan
    if final.run.status is not Status.COMPLETE:
        return np.inf, np.inf
    values = np.array([measured.metrics[record.metric] for measured in final.evaluations])
    steps = np.array([float(measured.step) for measured in final.evaluations])
    seconds = np.array([measured.seconds for measured in final.evaluations])
    return (
        first_reached(steps, values, target, record.minimize),
        first_reached(seconds, values, target, record.minimize),
    )


def _value(final: FinalRecord, metric: str) -> float | None:
    """Return the metric at the end; None if the run did not end as complete."""
    return final.run.metrics.get(metric) if final.run.status is Status.COMPLETE else None


def _values(ended: Sequence[FinalRecord], metric: str) -> np.ndarray:
    return np.array([value for final in ended if (value := _value(final, metric)) is not None])


def _estimate(ended: Sequence[FinalRecord], metric: str, confidence: float) -> Estimate | None:
    values = _values(ended, metric)
    return mean_estimate(values, confidence) if len(values) else None


def _median(ended: Sequence[FinalRecord], record: ComparisonRecord) -> float | None:
    """Return the median of the study's metric: the worse of the middle two, so that more than half reach it."""
    values = _values(ended, record.metric)
    return float(np.quantile(values, 0.5, method="higher" if record.minimize else "lower")) if len(values) else None
