"""Tests the values of warmups, and the steps that the decay counts."""

import math

import numpy as np
import pytest

from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS, Schedule

LR = 0.3
HALVING = DECAYS["exponential"](decay_rate=0.5, decay_steps=1)  # factor 2 ** -s: tells every step from its neighbours


def factors(name, updates, **keys):
    """Return the factors of the first updates, with a decay that halves at every step."""
    return Schedule(LR, HALVING, WARMUPS[name](**keys)).curve(updates) / LR


def close(expected):
    return pytest.approx(expected, rel=1e-13, abs=1e-16)


def test_linear_rises_in_equal_steps_and_reaches_the_base_rate_at_step_w():
    assert list(factors("linear", 7, steps=4)) == close([0, 0.25, 0.5, 0.75, 1, 0.5, 0.25])


def test_linear_rises_from_start_factor():
    assert list(factors("linear", 6, steps=4, start_factor=0.2)) == close([0.2, 0.4, 0.6, 0.8, 1, 0.5])


def test_constant_holds_start_factor_and_jumps_at_step_w():
    assert list(factors("constant", 6, steps=3, start_factor=0.1)) == close([0.1, 0.1, 0.1, 1, 0.5, 0.25])


def test_none_is_the_decay_alone():
    assert list(factors("none", 4)) == close([1, 0.5, 0.25, 0.125])


def test_under_prefix_the_decay_counts_from_the_end_of_warmup():
    warmup = WARMUPS["linear"](steps=30, counting="prefix")
    decay = DECAYS["cosine"](decay_steps=70, end_factor=0.1)
    curve = Schedule(LR, decay, warmup).curve(120)
    np.testing.assert_array_equal(curve[30:], Schedule(LR, decay).curve(90))
    assert curve[29] == close(LR * 29 / 30)


@pytest.mark.parametrize("name", ["linear", "constant"])
def test_under_overlap_warmup_replaces_the_first_values_of_a_decay_that_counts_from_step_zero(name):
    decay = DECAYS["linear"](decay_steps=100)
    curve = Schedule(LR, decay, WARMUPS[name](steps=30, start_factor=0.5, counting="overlap")).curve(120)
    np.testing.assert_array_equal(curve[30:], Schedule(LR, decay).curve(120)[30:])
    rise = [0.5 + 0.5 * s / 30 for s in range(30)] if name == "linear" else [0.5] * 30
    np.testing.assert_allclose(curve[:30], LR * np.array(rise), rtol=1e-13)


def test_prefix_and_overlap_differ_by_w_steps_of_decay():
    assert list(factors("linear", 6, steps=2, counting="prefix")) == close([0, 0.5, 1, 1 / 2, 1 / 4, 1 / 8])
    assert list(factors("linear", 6, steps=2, counting="overlap")) == close([0, 0.5, 1 / 4, 1 / 8, 1 / 16, 1 / 32])


def test_inclusive_holds_a_constant_warmup_for_one_step_more():
    inclusive = factors("constant", 6, steps=3, start_factor=0.1, inclusive=True)
    assert list(inclusive) == close([0.1, 0.1, 0.1, 0.1, 0.5, 0.25])


def test_inclusive_changes_nothing_of_a_linear_warmup_under_prefix():
    without = factors("linear", 40, steps=7, start_factor=0.1)
    np.testing.assert_array_equal(factors("linear", 40, steps=7, start_factor=0.1, inclusive=True), without)


@pytest.mark.parametrize(("name", "at_w"), [("linear", 1.0), ("constant", 0.1)])
def test_inclusive_under_overlap_uses_the_warmup_formula_at_step_w_only(name, at_w):
    keys = {"steps": 3, "start_factor": 0.1, "counting": "overlap"}
    without, inclusive = factors(name, 8, **keys), factors(name, 8, **keys, inclusive=True)
    assert without[3] == close(1 / 8)
    assert inclusive[3] == close(at_w)
    np.testing.assert_array_equal(np.delete(inclusive, 3), np.delete(without, 3))


@pytest.mark.parametrize("name", sorted(WARMUPS.keys() - {"until_error"}))
@pytest.mark.parametrize("counting", ["prefix", "overlap"])
@pytest.mark.parametrize("inclusive", [False, True])
def test_no_steps_are_no_warmup(name, counting, inclusive):
    warmup = WARMUPS[name](steps=0, start_factor=0.1, counting=counting, inclusive=inclusive)
    np.testing.assert_array_equal(Schedule(LR, HALVING, warmup).curve(20), Schedule(LR, HALVING).curve(20))


@pytest.mark.parametrize("name", ["linear", "constant"])
def test_a_warmup_of_one_step_is_the_first_update_alone(name):
    assert list(factors(name, 3, steps=1, start_factor=0.2)) == close([0.2, 1, 0.5])


def test_none_has_no_steps():
    """warmup=none with steps would warm up, so that it is refused."""
    with pytest.raises(InvalidValueError, match=r"^steps="):
        WARMUPS["none"](steps=5)


@pytest.mark.parametrize("name", ["linear", "constant"])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("steps", -1),
        ("steps", 1.5),
        ("steps", None),
        ("steps", True),
        ("start_factor", -0.1),
        ("start_factor", 1.1),
        ("start_factor", math.nan),
        ("start_factor", "0"),
        ("counting", "suffix"),
        ("inclusive", 1),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_name(name, argument, value):
    with pytest.raises(InvalidValueError, match=f"^{argument}=") as refused:
        WARMUPS[name](**({"steps": 5} | {argument: value}))
    assert refused.value.key == argument
