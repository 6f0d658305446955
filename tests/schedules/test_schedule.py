"""A schedule as a function: the same at an int, an array and a tensor, finite and within its bounds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.schedules import DECAYS, WARMUPS, Schedule
from sweep.validation import InvalidValueError

FAMILIES = {
    "constant": {},
    "exponential": {"decay_rate": 0.7, "decay_steps": 13},
    "piecewise": {"boundaries": (20, 60), "values": (1.0, 0.3, 0.7)},
    "polynomial": {"decay_steps": 31, "power": 1.7, "end_factor": 0.05, "cycle": True},
    "linear": {"decay_steps": 60, "end_factor": 0.1},
    "cosine": {"decay_steps": 60},
}
WARMING = {
    "none": {},
    "constant": {"steps": 11, "start_factor": 0.1},
    "linear": {"steps": 11, "counting": "overlap"},
}
STEPS = 100

every_family = pytest.mark.parametrize("family", list(FAMILIES))
every_warmup = pytest.mark.parametrize("warmup", list(WARMING))


def build(family, warmup):
    return Schedule(0.4, DECAYS[family](**FAMILIES[family]), WARMUPS[warmup](**WARMING[warmup]))


def assert_same(rates, expected):
    """To a few units in the last place: NumPy and torch have kernels of their own for cos and pow."""
    np.testing.assert_allclose(rates, expected, rtol=1e-14, atol=1e-16)


def test_the_examples_here_cover_every_family_and_warmup():
    assert FAMILIES.keys() == DECAYS.keys()
    assert WARMING.keys() == WARMUPS.keys()


@every_family
@every_warmup
def test_an_array_gives_what_its_steps_give(family, warmup):
    schedule = build(family, warmup)
    assert_same(schedule(np.arange(STEPS)), [schedule(step) for step in range(STEPS)])


@every_family
@every_warmup
def test_a_tensor_gives_what_an_array_gives(family, warmup):
    schedule = build(family, warmup)
    rates = schedule(torch.arange(STEPS))
    assert isinstance(rates, torch.Tensor)
    assert rates.dtype == torch.float64
    assert_same(rates.numpy(), schedule(np.arange(STEPS)))


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
    assert_same(schedule(torch.tensor([37], dtype=torch.int32)).numpy(), [expected])


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (0,)])
def test_the_shape_is_kept(shape):
    steps = np.arange(math.prod(shape)).reshape(shape)
    schedule = build("cosine", "linear")
    assert np.shape(schedule(steps)) == shape
    assert tuple(schedule(torch.as_tensor(steps)).shape) == shape


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


counts = st.integers(1, 1000)
factors = st.floats(0, 1)
decays = st.one_of(
    st.builds(DECAYS["constant"]),
    st.builds(
        DECAYS["exponential"],
        decay_rate=st.floats(0, 1, exclude_min=True),
        decay_steps=counts,
        staircase=st.booleans(),
    ),
    st.lists(st.integers(0, 1000), unique=True, max_size=5).flatmap(
        lambda boundaries: st.builds(
            DECAYS["piecewise"],
            boundaries=st.just(sorted(boundaries)),
            values=st.lists(factors, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1),
            side=st.sampled_from(["right", "left"]),
        )
    ),
    st.builds(
        DECAYS["polynomial"],
        decay_steps=counts,
        power=st.floats(0.01, 20),
        end_factor=factors,
        cycle=st.booleans(),
    ),
    st.builds(DECAYS["linear"], decay_steps=counts, end_factor=factors),
    st.builds(DECAYS["cosine"], decay_steps=counts, end_factor=factors),
)
warmups = st.one_of(
    st.builds(WARMUPS["none"]),
    *(
        st.builds(
            WARMUPS[name],
            steps=st.integers(0, 300),
            start_factor=factors,
            counting=st.sampled_from(["prefix", "overlap"]),
            inclusive=st.booleans(),
        )
        for name in ("constant", "linear")
    ),
)


@settings(deadline=None, max_examples=300, database=None)
@given(lr=st.floats(1e-8, 1e3), decay=decays, warmup=warmups)
def test_every_rate_is_finite_not_negative_and_at_most_the_base_rate(lr, decay, warmup):
    curve = Schedule(lr, decay, warmup).curve(1200)
    assert np.isfinite(curve).all()
    assert curve.min() >= 0
    assert curve.max() <= lr * (1 + 1e-12)


@settings(deadline=None, max_examples=100, database=None)
@given(decay=decays, warmup=warmups, step=st.integers(0, 2000))
def test_one_step_is_the_same_as_int_array_and_tensor(decay, warmup, step):
    schedule = Schedule(0.4, decay, warmup)
    assert_same(schedule(np.array([step])), [schedule(step)])
    assert_same(schedule(torch.tensor([step])).numpy(), [schedule(step)])


@settings(deadline=None, max_examples=100, database=None)
@given(decay=decays, warmup=warmups)
def test_after_warmup_the_rate_is_the_decay_alone(decay, warmup):
    curve = Schedule(0.4, decay, warmup).curve(600)
    alone = Schedule(0.4, decay).curve(600)
    first = warmup.steps + (1 if warmup.inclusive and warmup.steps else 0)
    counted_from = warmup.steps if warmup.counting == "prefix" else 0
    assert_same(curve[first:], alone[first - counted_from : 600 - counted_from])
