"""Tests the checks of values and their messages."""

import math

import numpy as np
import pytest

from sweep.errors import InvalidValueError
from sweep.validation import check_boolean, check_integer, check_number, check_one_of


def test_a_refusal_names_the_key_the_value_and_the_rule():
    error = InvalidValueError("train.steps", -3, "must be an integer >= 1")
    assert str(error) == "train.steps=-3: must be an integer >= 1"
    assert (error.key, error.value, error.rule) == ("train.steps", -3, "must be an integer >= 1")
    assert isinstance(error, ValueError)


def test_none_is_shown_as_it_is_written_in_yaml():
    assert str(InvalidValueError("lr", None, "must be a number")) == "lr=null: must be a number"


def test_a_refusal_can_be_moved_under_the_key_of_its_group():
    error = InvalidValueError("decay_rate", 2, "must be <= 1").under("schedule")
    assert str(error) == "schedule.decay_rate=2: must be <= 1"
    assert str(error.under("compare")) == "compare.schedule.decay_rate=2: must be <= 1"


@pytest.mark.parametrize("value", [0, 1, 10**30])
def test_an_integer_within_its_bound_passes(value):
    check_integer("steps", value, at_least=0)


@pytest.mark.parametrize("value", [-1, 0.0, 1.5, "1", None, True, False, [1], math.nan, np.float64(1)])
def test_what_is_no_integer_or_out_of_bounds_is_refused(value):
    with pytest.raises(InvalidValueError, match=r"^steps=.*: must be an integer >= 0$"):
        check_integer("steps", value, at_least=0)


def test_the_least_integer_is_included():
    check_integer("steps", 3, at_least=3)
    with pytest.raises(InvalidValueError):
        check_integer("steps", 2, at_least=3)


@pytest.mark.parametrize(
    ("bounds", "within", "outside"),
    [
        ({"above": 0}, [1e-300, 1, 1e300], [0, 0.0, -1e-300]),
        ({"at_least": 0}, [0, 0.0, 5], [-1e-300]),
        ({"below": 1}, [-5, 0.999], [1, 1.0, 2]),
        ({"at_most": 1}, [-5, 1, 1.0], [1.0000001]),
        ({"above": 0, "at_most": 1}, [0.5, 1], [0, 1.5]),
        ({}, [-1e300, 0, 7], []),
    ],
)
def test_each_end_of_an_interval_is_in_or_out_as_stated(bounds, within, outside):
    for value in within:
        check_number("x", value, **bounds)
    for value in outside:
        with pytest.raises(InvalidValueError, match=r"^x="):
            check_number("x", value, **bounds)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.5", None, True, [0.5], 1j])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(InvalidValueError, match=r"^x=.*: must be a finite number$"):
        check_number("x", value)


def test_an_integer_too_large_for_a_float_is_refused():
    with pytest.raises(InvalidValueError, match=r"^x="):
        check_number("x", 10**400, above=0)


def test_the_rule_states_both_bounds():
    with pytest.raises(InvalidValueError, match=r"^x=2: must be a finite number > 0 and <= 1$"):
        check_number("x", 2, above=0, at_most=1)


def test_only_true_and_false_are_boolean():
    check_boolean("flag", True)
    check_boolean("flag", False)
    for value in (0, 1, "true", None):
        with pytest.raises(InvalidValueError, match=r"^flag=.*: must be true or false$"):
            check_boolean("flag", value)


def test_a_name_is_one_of_those_allowed():
    check_one_of("side", "left", ("right", "left"))
    for value in ("middle", "Left", "", None, 0):
        with pytest.raises(InvalidValueError, match=r"^side=.*: must be one of right, left$"):
            check_one_of("side", value, ("right", "left"))


@pytest.mark.parametrize("allowed", [("a", "b"), {"a": 1, "b": 2}], ids=["tuple", "mapping"])
def test_a_list_is_no_name(allowed):
    with pytest.raises(InvalidValueError, match=r"^metric="):
        check_one_of("metric", ["a"], allowed)
