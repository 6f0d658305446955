"""Intervals, tests and corrections: against closed forms, SciPy's own answers, and their promises on simulated data."""

from itertools import combinations, permutations

import numpy as np
import pytest
from scipy import stats

from sweep.comparison.statistics import (
    Estimate,
    difference_estimate,
    expected_best,
    first_reached,
    holm,
    mean_estimate,
    paired_p,
    performance_profile,
    seeds_needed,
)

VALUES = np.array([0.31, 0.28, 0.35, 0.30, 0.42, 0.27, 0.33, 0.29, 0.36, 0.31])


def test_a_mean_has_its_bootstrap_interval():
    found = stats.bootstrap((VALUES,), np.mean, method="BCa", confidence_level=0.9, rng=0).confidence_interval
    assert mean_estimate(VALUES, 0.9) == Estimate(VALUES.mean(), found.low, found.high)


def test_a_higher_confidence_has_a_wider_interval():
    wide, narrow = mean_estimate(VALUES, 0.99), mean_estimate(VALUES, 0.5)
    assert wide.low < narrow.low < VALUES.mean() < narrow.high < wide.high


def test_an_interval_covers_the_mean_about_as_often_as_it_says():
    """A bootstrap of ten values is known to cover somewhat less."""
    samples = np.random.default_rng(0).normal(size=(300, 10))
    covered = [found.low <= 0 <= found.high for found in (mean_estimate(sample, 0.9) for sample in samples)]
    assert 0.8 <= np.mean(covered) <= 0.95


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5], Estimate(0.5, None, None)), ([0.5, 0.5, 0.5], Estimate(0.5, 0.5, 0.5))],
)
def test_where_nothing_varies_there_is_nothing_to_resample(values, expected):
    assert mean_estimate(np.array(values), 0.95) == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 1.0, 1.0, 9.0], [0.0, 0.0, 1e-300]])
def test_few_and_lopsided_values_have_an_interval_around_their_mean(values):
    found = mean_estimate(np.array(values), 0.95)
    assert min(values) <= found.low <= found.mean <= found.high <= max(values)


def test_the_t_test_of_differences_is_the_paired_one():
    others = VALUES[::-1] + 0.01
    found = stats.ttest_rel(VALUES, others)
    interval = found.confidence_interval(0.9)
    assert paired_p(VALUES - others, "t") == pytest.approx(found.pvalue)
    assert difference_estimate(VALUES - others, 0.9, "t") == Estimate(
        pytest.approx((VALUES - others).mean()), pytest.approx(interval.low), pytest.approx(interval.high)
    )


def test_wilcoxon_is_exact_for_few_pairs():
    """All ten differences of one sign: 2 of the 2^10 assignments of signs are as extreme."""
    differences = np.arange(1, 11) / 10
    assert paired_p(differences, "wilcoxon") == pytest.approx(2 / 2**10)
    assert difference_estimate(differences, 0.95, "wilcoxon") == mean_estimate(differences, 0.95)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("test", "of_the_same"), [("t", 0.0), ("wilcoxon", 2 / 2**10)])
def test_differences_that_do_not_vary(test, of_the_same):
    assert paired_p(np.zeros(10), test) == 1.0
    assert paired_p(np.full(10, 0.1), test) == pytest.approx(of_the_same)
    assert difference_estimate(np.full(10, 0.1), 0.95, test) == Estimate(pytest.approx(0.1), 0.1, 0.1)


def test_holm_by_hand():
    """Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, none below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_holm_does_not_depend_on_the_order(order):
    p = [0.02, 0.02, 0.5]
    assert holm([p[i] for i in order]) == [holm(p)[i] for i in order]


def test_holm_keeps_the_family_wise_level_where_nothing_is_true():
    p = np.random.default_rng(0).uniform(size=(2000, 6))
    assert np.mean([min(holm(row)) < 0.05 for row in p.tolist()]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(("effect", "level", "expected"), [(0.5, 0.05, 34), (1.0, 0.05, 10), (0.2, 0.05, 199)])
def test_the_number_of_pairs_for_a_power_is_that_of_the_tables(effect, level, expected):
    """Cohen (1988): paired t test, two-sided, power 0.8."""
    differences = np.array([effect - 1, effect, effect + 1])  # deviation 1
    assert seeds_needed(differences, level, power=0.8) == expected
    assert seeds_needed(-differences, level, power=0.8) == expected


def test_so_many_pairs_find_the_difference_four_times_out_of_five():
    n = seeds_needed(np.array([-0.3, 0.7, 1.7]), 0.01, power=0.8)
    p = stats.ttest_1samp(np.random.default_rng(0).normal(0.7, 1.0, size=(4000, n)), 0.0, axis=1).pvalue
    assert 0.78 < (p < 0.01).mean() < 0.88


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("differences", "expected"),
    [([0.0, 0.0], None), ([-1.0, 1.0], None), ([0.1, 0.1, 0.1], 2), ([1.0, 1.001], 2), ([0.001, -0.9, 0.9], None)],
)
def test_the_number_of_pairs_at_the_limits(differences, expected):
    assert seeds_needed(np.array(differences), 0.05, power=0.8) == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("effect", "level"), [(2.5, 0.001), (5.0, 0.01), (60.0, 0.01), (0.03, 0.05)])
def test_the_number_of_pairs_is_the_first_with_that_power(effect, level):
    """Power by simulation of the statistic's own definition, (z + shift) / sqrt(chi-square / (n - 1))."""
    n = seeds_needed(np.array([effect - 1, effect, effect + 1]), level, power=0.8)
    generator = np.random.default_rng(0)

    def power(pairs):
        z, chi = generator.normal(size=200_000), generator.chisquare(pairs - 1, size=200_000)
        t = (z + effect * np.sqrt(pairs)) / np.sqrt(chi / (pairs - 1))
        return (np.abs(t) > stats.t.isf(level / 2, pairs - 1)).mean()

    assert power(n) > 0.795
    assert n == 2 or power(n - 1) < 0.805


@pytest.mark.filterwarnings("error")
def test_differences_that_vary_by_rounding_alone_are_tested_without_a_warning():
    differences = (VALUES + 0.1) - VALUES
    assert 0 < np.ptp(differences) < 1e-15
    assert paired_p(differences, "t") < 1e-100
    assert difference_estimate(differences, 0.95, "t").low == pytest.approx(0.1)


@pytest.mark.parametrize("minimize", [True, False])
@pytest.mark.parametrize("missing", [0, 2])
def test_the_expected_best_is_the_mean_over_all_draws_that_hold_a_value(minimize, missing):
    values = [0.5, 0.2, 0.9, 0.2, 0.4]
    trials, best = [*values, *[None] * missing], min if minimize else max
    expected = []
    for k in range(1, len(trials) + 1):
        drawn = [[v for v in draw if v is not None] for draw in combinations(trials, k)]
        expected.append(np.mean([best(draw) for draw in drawn if draw]))
    assert expected_best(np.array(values), missing, minimize) == pytest.approx(expected, rel=1e-12)


def test_the_expected_best_of_many_trials_falls_to_the_best():
    values = np.random.default_rng(0).lognormal(size=2000)
    found = expected_best(values, 500, minimize=True)
    assert len(found) == 2500
    assert (np.diff(found) <= 0).all()
    assert found[0] == pytest.approx(values.mean())
    assert found[-1] == pytest.approx(values.min())
    assert expected_best(np.empty(0), 3, minimize=True).size == 0


def test_the_first_evaluation_at_the_target_or_better_counts():
    steps, values = np.array([10.0, 20.0, 30.0]), np.array([0.5, 0.3, 0.4])
    assert first_reached(steps, values, 0.3, minimize=True) == 20
    assert first_reached(steps, values, 0.45, minimize=True) == 20
    assert first_reached(steps, values, 0.4, minimize=False) == 10
    assert first_reached(steps, values, 0.2, minimize=True) == np.inf
    assert first_reached(np.empty(0), np.empty(0), 0.2, minimize=True) == np.inf


@pytest.mark.filterwarnings("error")
def test_a_performance_profile_by_hand():
    """Problems: a twice as fast; b and a equal; only b; nobody."""
    costs = np.array([[1.0, 3.0, np.inf, np.inf], [2.0, 3.0, 5.0, np.inf]])
    tau, share = performance_profile(costs)
    assert tau.tolist() == [1.0, 2.0]
    assert share.tolist() == [[0.5, 0.5], [0.5, 0.75]]


@pytest.mark.filterwarnings("error")
def test_a_performance_profile_where_nobody_solved_anything():
    tau, share = performance_profile(np.full((2, 3), np.inf))
    assert (tau.tolist(), share.tolist()) == ([1.0], [[0.0], [0.0]])
