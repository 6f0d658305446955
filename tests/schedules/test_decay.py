"""Compares decay families with their formulas in plain Python, and with torch's schedulers."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, Schedule
from tests.schedules.examples import figures_of

LR = 0.3


def rate(name, step, **keys):
    return Schedule(LR, DECAYS[name](**keys))(step)


def close(expected):
    return pytest.approx(expected, rel=1e-13, abs=1e-16)


def torch_rates(scheduler_of, updates):
    """Return the rates of a torch scheduler for the updates 0..updates-1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler, rates = scheduler_of(optimizer), []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("step", [0, 1, 10, 10**6])
def test_constant_is_the_base_rate(step):
    assert rate("constant", step) == LR


@pytest.mark.parametrize("step", [0, 1, 6, 7, 8, 70, 1000])
def test_exponential_is_decay_rate_to_the_power_of_step_over_decay_steps(step):
    expected = LR * math.exp(math.log(0.8) * step / 7)
    assert rate("exponential", step, decay_rate=0.8, decay_steps=7) == close(expected)


@pytest.mark.parametrize(
    ("step", "drops"), [(0, 0), (1, 0), (6, 0), (7, 1), (8, 1), (13, 1), (14, 2), (699, 99), (700, 100)]
)
def test_staircase_drops_first_at_decay_steps_and_then_once_every_decay_steps(step, drops):
    expected = LR * float(Fraction(4, 5) ** drops)
    assert rate("exponential", step, decay_rate=0.8, decay_steps=7, staircase=True) == close(expected)


def test_exponential_of_rate_one_stays():
    assert rate("exponential", 1000, decay_rate=1, decay_steps=3) == LR


def test_exponential_of_the_same_half_life_is_the_same_curve():
    one = Schedule(LR, DECAYS["exponential"](decay_rate=0.25, decay_steps=20)).curve(200)
    other = Schedule(LR, DECAYS["exponential"](decay_rate=0.5, decay_steps=10)).curve(200)
    np.testing.assert_allclose(one, other, rtol=1e-13)


PIECES = {"boundaries": [3, 6], "values": [1.0, 0.5, 0.1]}


def test_a_boundary_belongs_to_the_piece_before_it():
    rates = [rate("piecewise", step, **PIECES) for step in range(9)]
    assert rates == [LR * 1.0] * 4 + [LR * 0.5] * 3 + [LR * 0.1] * 2


def test_a_boundary_belongs_to_the_piece_after_it_with_side_left():
    rates = [rate("piecewise", step, **PIECES, side="left") for step in range(9)]
    assert rates == [LR * 1.0] * 3 + [LR * 0.5] * 3 + [LR * 0.1] * 3


def test_a_boundary_at_zero_is_the_first_step_or_none_of_the_first_piece():
    keys = {"boundaries": [0], "values": [1, 2]}
    assert [rate("piecewise", s, **keys) for s in (0, 1)] == [LR, 2 * LR]
    assert [rate("piecewise", s, **keys, side="left") for s in (0, 1)] == [2 * LR, 2 * LR]


def test_piecewise_without_boundaries_is_its_value():
    assert rate("piecewise", 5, boundaries=[], values=[0.7]) == LR * 0.7


@pytest.mark.parametrize("step", [0, 1, 5, 39, 40, 41, 80, 1000])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.5])
def test_polynomial_falls_to_its_end_at_decay_steps_and_stays(step, power):
    done = min(step, 40) / 40
    expected = LR * ((1 - 0.2) * math.pow(1 - done, power) + 0.2)
    assert rate("polynomial", step, decay_steps=40, power=power, end_factor=0.2) == close(expected)


@pytest.mark.parametrize(
    ("step", "span"), [(0, 10), (1, 10), (9, 10), (10, 10), (11, 20), (20, 20), (21, 30), (30, 30), (31, 40), (95, 100)]
)
def test_polynomial_cycle_stretches_its_span_to_the_next_multiple_of_decay_steps(step, span):
    expected = LR * (0.9 * (1 - step / span) ** 2 + 0.1)
    assert rate("polynomial", step, decay_steps=10, power=2, end_factor=0.1, cycle=True) == close(expected)


def test_polynomial_cycle_starts_at_the_base_rate_and_ends_each_cycle_at_its_end():
    keys = {"decay_steps": 10, "power": 2, "end_factor": 0.1, "cycle": True}
    assert rate("polynomial", 0, **keys) == close(LR)
    for multiple in (10, 20, 30, 1000):
        assert rate("polynomial", multiple, **keys) == close(0.1 * LR)
        assert rate("polynomial", multiple + 1, **keys) > 0.1 * LR


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1.0), (1, 0.925), (2, 0.85), (4, 0.7), (7, 0.475), (8, 0.4), (9, 0.4), (99, 0.4)]
)
def test_linear_falls_in_equal_steps(step, factor):
    assert rate("linear", step, decay_steps=8, end_factor=0.4) == close(LR * factor)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1.0),
        (1, 0.1 + 0.9 * (2 + math.sqrt(3)) / 4),  # cos 30 degrees
        (2, 0.1 + 0.9 * 0.75),  # cos 60 degrees
        (3, 0.1 + 0.9 * 0.5),
        (4, 0.1 + 0.9 * 0.25),
        (5, 0.1 + 0.9 * (2 - math.sqrt(3)) / 4),
        (6, 0.1),
        (7, 0.1),
        (500, 0.1),
    ],
)
def test_cosine_is_half_a_period_down_to_its_end_and_stays(step, factor):
    assert rate("cosine", step, decay_steps=6, end_factor=0.1) == close(LR * factor)


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial"])
def test_without_end_factor_the_end_is_zero_at_decay_steps_and_not_before(name):
    assert rate(name, 99, decay_steps=100) > 0
    assert rate(name, 100, decay_steps=100) == 0


@pytest.mark.parametrize(
    ("name", "keys", "scheduler_of", "updates"),
    [
        (
            "linear",
            {"decay_steps": 60, "end_factor": 0.05},
            lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.05, total_iters=60),
            100,
        ),
        (
            "cosine",
            {"decay_steps": 60, "end_factor": 0.05},
            lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=60, eta_min=0.05 * LR),
            61,
        ),
        (
            "exponential",
            {"decay_rate": 0.93, "decay_steps": 1},
            lambda o: lr_scheduler.ExponentialLR(o, gamma=0.93),
            100,
        ),
        (
            "exponential",
            {"decay_rate": 0.5, "decay_steps": 7, "staircase": True},
            lambda o: lr_scheduler.StepLR(o, step_size=7, gamma=0.5),
            100,
        ),
        (
            "piecewise",
            {"boundaries": [20, 50], "values": [1, 0.1, 0.01], "side": "left"},
            lambda o: lr_scheduler.MultiStepLR(o, milestones=[20, 50], gamma=0.1),
            100,
        ),
        (
            "polynomial",
            {"decay_steps": 60, "power": 2.5},
            lambda o: lr_scheduler.PolynomialLR(o, total_iters=60, power=2.5),
            100,
        ),
    ],
    ids=["LinearLR", "CosineAnnealingLR", "ExponentialLR", "StepLR", "MultiStepLR", "PolynomialLR"],
)
def test_equals_torch(name, keys, scheduler_of, updates):
    curve = Schedule(LR, DECAYS[name](**keys)).curve(updates)
    np.testing.assert_allclose(curve, torch_rates(scheduler_of, updates), rtol=0, atol=1e-12 * LR)


@pytest.mark.parametrize("decay_rate", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("decay_steps", [1, 30])
def test_over_its_half_life_an_exponential_halves(decay_rate, decay_steps):
    decay = DECAYS["exponential"](decay_rate=decay_rate, decay_steps=decay_steps)
    assert decay_rate ** (decay.constant_half_life / decay_steps) == pytest.approx(0.5, rel=1e-12)
    assert figures_of(Schedule(LR, decay), 5).half_life == decay.constant_half_life


@pytest.mark.parametrize(
    ("name", "keys", "argument"),
    [
        ("exponential", {"decay_rate": 0, "decay_steps": 5}, "decay_rate"),
        ("exponential", {"decay_rate": -0.5, "decay_steps": 5}, "decay_rate"),
        ("exponential", {"decay_rate": 1.01, "decay_steps": 5}, "decay_rate"),
        ("exponential", {"decay_rate": math.nan, "decay_steps": 5}, "decay_rate"),
        ("exponential", {"decay_rate": "0.5", "decay_steps": 5}, "decay_rate"),
        ("exponential", {"decay_rate": True, "decay_steps": 5}, "decay_rate"),
        ("exponential", {"decay_rate": 0.5, "decay_steps": 0}, "decay_steps"),
        ("exponential", {"decay_rate": 0.5, "decay_steps": 2.5}, "decay_steps"),
        ("exponential", {"decay_rate": 0.5, "decay_steps": True}, "decay_steps"),
        ("exponential", {"decay_rate": 0.5, "decay_steps": None}, "decay_steps"),
        ("exponential", {"decay_rate": 0.5, "decay_steps": 5, "staircase": 1}, "staircase"),
        ("exponential", {"decay_rate": 0.5, "decay_steps": 5, "end_factor": 1.1}, "end_factor"),
        ("exponential", {"half_life": 5, "end_factor": -0.1}, "end_factor"),
        ("piecewise", {"boundaries": 5, "values": [1, 1]}, "boundaries"),
        ("piecewise", {"boundaries": [5, 5], "values": [1, 1, 1]}, "boundaries"),
        ("piecewise", {"boundaries": [5, 4], "values": [1, 1, 1]}, "boundaries"),
        ("piecewise", {"boundaries": [-1], "values": [1, 1]}, "boundaries"),
        ("piecewise", {"boundaries": [1.5], "values": [1, 1]}, "boundaries"),
        ("piecewise", {"boundaries": [5], "values": 1}, "values"),
        ("piecewise", {"boundaries": [5], "values": [1]}, "values"),
        ("piecewise", {"boundaries": [5], "values": [1, 1, 1]}, "values"),
        ("piecewise", {"boundaries": [5], "values": [1, -0.1]}, "values"),
        ("piecewise", {"boundaries": [5], "values": [1, math.inf]}, "values"),
        ("piecewise", {"boundaries": [5], "values": [1, 1], "side": "middle"}, "side"),
        ("polynomial", {"decay_steps": 0}, "decay_steps"),
        ("polynomial", {"decay_steps": 5, "power": 0}, "power"),
        ("polynomial", {"decay_steps": 5, "power": math.inf}, "power"),
        ("polynomial", {"decay_steps": 5, "end_factor": -0.1}, "end_factor"),
        ("polynomial", {"decay_steps": 5, "end_factor": 1.1}, "end_factor"),
        ("polynomial", {"decay_steps": 5, "cycle": "yes"}, "cycle"),
        ("linear", {"decay_steps": 0}, "decay_steps"),
        ("linear", {"decay_steps": 5, "end_factor": 1.1}, "end_factor"),
        ("cosine", {"decay_steps": -5}, "decay_steps"),
        ("cosine", {"decay_steps": 5, "end_factor": math.nan}, "end_factor"),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_name(name, keys, argument):
    with pytest.raises(InvalidValueError, match=f"^{argument}=") as refused:
        DECAYS[name](**keys)
    assert refused.value.key == argument
