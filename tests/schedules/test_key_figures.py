"""Tests the key figures of curves."""

import math

import pytest

from sweep.schedules import DECAYS, WARMUPS, Schedule
from tests.schedules.examples import figures_of


def figures(name, horizon, warmup=None, lr=0.1, **keys):
    return figures_of(Schedule(lr, DECAYS[name](**keys), warmup or WARMUPS["none"]()), horizon)


def test_the_peak_is_at_the_end_of_warmup():
    found = figures("cosine", 100, WARMUPS["linear"](steps=20), decay_steps=80)
    assert found.peak == pytest.approx(0.1, rel=1e-14)
    assert found.peak_step == 20


def test_the_peak_under_overlap_is_where_warmup_meets_the_decay():
    found = figures("linear", 100, WARMUPS["linear"](steps=20, counting="overlap"), decay_steps=100)
    assert found.peak_step == 19  # 19/20 of the base rate; the decay is at 80/100 when it takes over
    assert found.peak == pytest.approx(0.1 * 19 / 20, rel=1e-14)


def test_of_equal_peaks_the_first_step_counts():
    assert figures("constant", 100).peak_step == 0
    assert figures("constant", 100, WARMUPS["linear"](steps=7)).peak_step == 7


def test_the_end_is_the_rate_of_the_last_update():
    found = figures("linear", 100, decay_steps=100)
    assert found.end == pytest.approx(0.1 * 0.01, rel=1e-12)
    assert found.horizon == 100


def test_the_half_life_of_an_exponential_is_its_closed_form():
    found = figures("exponential", 1000, decay_rate=0.9, decay_steps=50)
    assert found.half_life == pytest.approx(50 * math.log(0.5) / math.log(0.9), rel=1e-14)


def test_the_half_life_of_an_exponential_needs_no_horizon_that_reaches_it():
    assert figures("exponential", 5, decay_rate=0.5, decay_steps=1000).half_life == pytest.approx(1000)


def test_the_half_life_of_a_cosine_is_counted():
    assert figures("cosine", 1000, decay_steps=1000).half_life == 500
    assert figures("cosine", 1000, decay_steps=501).half_life == 251  # 250.5 is between two updates


def test_the_half_life_is_counted_from_the_peak():
    assert figures("linear", 200, WARMUPS["linear"](steps=30), decay_steps=100).half_life == 50


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("constant", {}),
        ("cosine", {"decay_steps": 100, "end_factor": 0.6}),
        ("linear", {"decay_steps": 10_000}),
        ("exponential", {"decay_rate": 1, "decay_steps": 10}),
    ],
)
def test_a_curve_that_never_halves_has_no_half_life(name, keys):
    assert figures(name, 200, **keys).half_life is None


def test_a_curve_stalls_where_it_falls_below_2_to_the_minus_24_of_its_peak():
    found = figures("exponential", 1000, decay_rate=0.5, decay_steps=10)
    assert found.stalled_at == 241  # step 240 is at 2 ** -24 exactly: not below it
    assert found.wasted


def test_a_curve_stalls_at_the_same_step_for_every_base_rate():
    for lr in (1e-6, 0.3, 7.0):
        assert figures("exponential", 1000, lr=lr, decay_rate=0.5, decay_steps=10).stalled_at == 241


def test_the_stall_is_counted_in_global_steps():
    warmup = WARMUPS["linear"](steps=100)
    assert figures("exponential", 1000, warmup, decay_rate=0.5, decay_steps=10).stalled_at == 341


def test_a_small_rate_that_rises_again_is_no_stall():
    dip = {"boundaries": [100, 200], "values": [1.0, 0.0, 0.5]}
    assert figures("piecewise", 1000, **dip).stalled_at is None
    assert figures("constant", 1000, WARMUPS["linear"](steps=100)).stalled_at is None


def test_a_stall_is_for_good():
    dips = {"boundaries": [99, 199, 299], "values": [1.0, 0.0, 0.5, 0.0]}
    assert figures("piecewise", 1000, **dips).stalled_at == 300


def test_no_stall_within_the_horizon_is_no_stall():
    assert figures("exponential", 241, decay_rate=0.5, decay_steps=10).stalled_at is None
    assert figures("exponential", 242, decay_rate=0.5, decay_steps=10).stalled_at == 241


def test_more_than_a_hundredth_of_the_horizon_at_a_stalled_rate_is_wasted():
    step_down = {"values": [1.0, 0.0]}
    assert figures("piecewise", 1000, boundaries=[988], **step_down).wasted  # stalls at 989
    assert not figures("piecewise", 1000, boundaries=[989], **step_down).wasted  # the last hundredth
    assert not figures("constant", 1000).wasted
