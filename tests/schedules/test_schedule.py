"""A schedule as a function: the same at an int, an array and a tensor, and with arrays as parameters."""

import math

import numpy as np
import pytest
import torch

from sweep.schedules import DECAYS, WARMUPS, Piece, Schedule
from sweep.validation import InvalidValueError
from tests.schedules.examples import FAMILIES, WARMING

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


# --- parameters as arrays, one value per trial

K = 3
VECTORS = {
    "constant": {},
    "exponential": {"decay_rate": [0.5, 0.9, 1.0], "decay_steps": [3, 10, 7], "staircase": True},
    "natural_exponential": {"decay_rate": [0.5, 2.0, 0.1], "decay_steps": [3, 10, 7]},
    "inverse_time": {"decay_rate": [0.5, 2.0, 0.1], "decay_steps": [3, 10, 7], "staircase": True},
    "piecewise": {"boundaries": [[10, 20, 30], [40, 50, 31]], "values": [[1, 1, 0.5], [0.3, 0.2, 0.1], [0, 1, 2]]},
    "multistep": {"milestones": [[10, 20, 30], [40, 20, 31]], "gamma": [0.1, 0.5, 1.0]},
    "polynomial": {"decay_steps": [31, 50, 7], "power": [1, 2, 0.5], "end_factor": [0, 0.5, 1], "cycle": True},
    "linear": {"decay_steps": [31, 50, 7], "end_factor": [0, 0.5, 1]},
    "cosine": {"decay_steps": [31, 50, 7], "end_factor": [0, 0.5, 1]},
    "cosine_restarts": {
        "first_decay_steps": [5, 8, 13],
        "t_mul": [1.0, 2.0, 1.5],
        "m_mul": [1, 0.5, 0.9],
        "end_factor": [0, 0.1, 0.2],
    },
    "linear_cosine": {
        "decay_steps": [31, 50, 7],
        "num_periods": [0.5, 2, 1],
        "alpha": [0, 1, 2],
        "beta": [0, 0.1, 0.2],
    },
    "noisy_linear_cosine": {
        "decay_steps": [31, 50, 7],
        "v": [1.0, 0.5, 0.0],
        "d": [0.55, 1.0, 0.0],
        "noise_seed": [4, 5, 4],
    },
    "inverse_sqrt": {"timescale": [1, 20, 300]},
    "noam": {"noam_steps": [1, 20, 300]},
    "wsd": {
        "stable_steps": [0, 20, 50],
        "decay_steps": [1, 20, 60],
        "end_factor": [0, 0.1, 1],
        "count_from": [0, 1, 0],
    },
    "one_cycle": {
        "total_steps": [50, 90, 1],
        "pct_start": [0.0, 0.3, 0.9],
        "div_factor": [1, 25, 10],
        "final_div_factor": [1, 10, 1e4],
    },
    "cyclic": {
        "base_factor": [0, 0.1, 1],
        "step_size_up": [1, 10, 7],
        "step_size_down": [4, 10, 1],
        "mode": "exp_range",
        "gamma": [1, 0.9, 0.99],
    },
    "rex": {"decay_steps": [31, 50, 7], "beta": [0.5, 1.0, 0.1]},
    "power_sqrt": {"decay_steps": [31, 50, 7], "alpha": [0.5, 1.0, 3.0]},
    "tanh": {"decay_steps": [31, 50, 7], "lb": [-7, -2, -1], "ub": [3, 2, 1], "end_factor": [0, 0.1, 1]},
    "interpolate": {"knots": [([0, 0, 0], [1, 2, 0.5]), ([20, 30, 40], [0.5, 0.5, 1]), ([50, 60, 70], [0, 1, 0.1])]},
    "power": {"power": [1, 1.01, 2]},
    "sine": {},
    "plateau": {"min_lr": [0, 0.1, 0.2]},
    "joined": {},  # of pieces whose parameters are arrays: below
}


def arrays(value):
    """Lists of K numbers as arrays, however deep."""
    if isinstance(value, (list, tuple)):
        if len(value) == K and all(isinstance(entry, (int, float)) for entry in value):
            return np.array(value)
        return tuple(arrays(entry) for entry in value)
    return value


def taken(value, index):
    """The value of one trial."""
    if isinstance(value, (list, tuple)):
        if len(value) == K and all(isinstance(entry, (int, float)) for entry in value):
            return value[index]
        return tuple(taken(entry, index) for entry in value)
    return value


def test_every_family_has_an_example_with_arrays():
    assert VECTORS.keys() == DECAYS.keys()


@pytest.mark.parametrize("kind", ["linear", "cosine", "pchip"])
@pytest.mark.parametrize("family", sorted(VECTORS.keys() - {"joined"}))
def test_parameters_may_be_arrays_with_a_value_for_each_trial(family, kind):
    keys = VECTORS[family] | ({"kind": kind} if family == "interpolate" else {})
    lr, starts, lengths = [0.4, 0.1, 0.9], [0.1, 0.0, 1.0], [0, 11, 30]
    warmup = WARMUPS["linear"](steps=np.array(lengths), start_factor=np.array(starts))
    together = Schedule(np.array(lr), DECAYS[family](**{k: arrays(v) for k, v in keys.items()}), warmup)
    curves = together.curve(STEPS)
    assert curves.shape == (K, STEPS)
    for trial in range(K):
        own = WARMUPS["linear"](steps=lengths[trial], start_factor=starts[trial])
        alone = Schedule(lr[trial], DECAYS[family](**{k: taken(v, trial) for k, v in keys.items()}), own)
        assert_same(curves[trial], alone.curve(STEPS))
    steps = np.array([3, 50, 99])  # each trial at its own step
    assert_same(together(steps), curves[np.arange(K), steps])
    assert_same(together(torch.as_tensor(steps)).numpy(), curves[np.arange(K), steps])
    assert_same(together(7), curves[:, 7])


def test_pieces_of_joined_schedules_may_have_arrays():
    def joined(boundary, steps, factor):
        pieces = (Piece(DECAYS["linear"](decay_steps=steps)), Piece(DECAYS["cosine"](decay_steps=steps), factor))
        return Schedule(0.4, DECAYS["joined"](boundaries=(boundary,), pieces=pieces))

    together = joined(np.array([10, 20, 30]), np.array([30, 40, 50]), np.array([1.0, 0.5, 0.1])).curve(STEPS)
    for trial, (boundary, steps, factor) in enumerate([(10, 30, 1.0), (20, 40, 0.5), (30, 50, 0.1)]):
        assert_same(together[trial], joined(boundary, steps, factor).curve(STEPS))


@pytest.mark.parametrize(
    ("name", "keys", "argument"),
    [
        ("exponential", {"decay_rate": np.array([0.5, 1.5]), "decay_steps": 10}, "decay_rate=1.5"),
        ("cosine", {"decay_steps": np.array([10, 0])}, "decay_steps=0"),
        ("cosine", {"decay_steps": np.array([10.0, 20.0])}, "decay_steps=10.0"),
    ],
)
def test_of_an_array_the_value_that_cannot_be_right_is_named(name, keys, argument):
    with pytest.raises(InvalidValueError, match=f"^{argument}: "):
        DECAYS[name](**keys)


def test_schedules_with_equal_arrays_are_equal():
    def build(rate):
        return Schedule(0.4, DECAYS["exponential"](decay_rate=np.array([0.5, rate]), decay_steps=10))

    assert build(0.9) == build(0.9)
    assert hash(build(0.9)) == hash(build(0.9))
    assert build(0.9) != build(0.8)
