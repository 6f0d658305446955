"""Tests schedules as functions, which return the same rates for integers and arrays."""

import math

import numpy as np
import pytest

from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS, Schedule
from tests.schedules.examples import FAMILIES, WARMING

STEPS = 100

every_family = pytest.mark.parametrize("family", list(FAMILIES))
every_warmup = pytest.mark.parametrize("warmup", list(WARMING))


def build(family, warmup):
    return Schedule(0.4, DECAYS[family](**FAMILIES[family]), WARMUPS[warmup](**WARMING[warmup]))


def assert_same(rates, expected):
    """The last digits may differ, because NumPy has different kernels of cos and pow for arrays and scalars."""
    np.testing.assert_allclose(rates, expected, rtol=1e-14, atol=1e-16)


@every_family
@every_warmup
def test_an_array_gives_what_its_steps_give(family, warmup):
    schedule = build(family, warmup)
    assert_same(schedule(np.arange(STEPS)), [schedule(step) for step in range(STEPS)])


@every_family
@every_warmup
def test_the_curve_is_the_schedule_at_the_steps_from_zero(family, warmup):
    schedule = build(family, warmup)
    curve = schedule.curve(STEPS)
    assert curve.dtype == np.float64
    assert curve.shape == (STEPS,)
    assert_same(curve, [schedule(step) for step in range(STEPS)])


@every_family
def test_the_type_of_an_integer_does_not_matter(family):
    schedule = build(family, "linear")
    expected = schedule(37)
    assert isinstance(expected, float)
    assert schedule(np.int32(37)) == schedule(np.int64(37)) == expected
    assert_same(schedule(np.array([37], dtype=np.int16)), [expected])


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (0,)])
def test_the_shape_is_kept(shape):
    steps = np.arange(math.prod(shape)).reshape(shape)
    schedule = build("cosine", "linear")
    assert np.shape(schedule(steps)) == shape


def test_the_rate_is_proportional_to_the_base_rate():
    decay, warmup = DECAYS["cosine"](decay_steps=50), WARMUPS["linear"](steps=10)
    one, four = Schedule(0.1, decay, warmup).curve(60), Schedule(0.4, decay, warmup).curve(60)
    np.testing.assert_allclose(four, 4 * one, rtol=1e-14)


def test_schedules_of_equal_parts_are_equal():
    assert build("piecewise", "linear") == build("piecewise", "linear")
    assert hash(build("piecewise", "linear")) == hash(build("piecewise", "linear"))
    assert build("piecewise", "linear") != build("piecewise", "none")


def test_a_step_below_zero_is_refused():
    with pytest.raises(InvalidValueError, match=r"^step=-1: must be >= 0"):
        build("constant", "none")(-1)


@pytest.mark.parametrize("lr", [0, -0.1, math.nan, math.inf, "0.1", None, True])
def test_a_base_rate_that_cannot_be_right_is_refused(lr):
    with pytest.raises(InvalidValueError, match=r"^lr=") as refused:
        Schedule(lr, DECAYS["constant"]())
    assert refused.value.key == "lr"
