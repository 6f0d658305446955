"""Tests each family at the steps that determine its convention, with values computed by hand."""

import math
from dataclasses import fields
from typing import get_args, get_origin

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from torch.optim import lr_scheduler

from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS, Piece, Schedule
from sweep.schedules.cosine import standard_normal
from sweep.validation import Integer, Number, OneOf, declared_rule
from tests.schedules.examples import FAMILIES, figures_of
from tests.schedules.test_decay import torch_rates

LR = 0.3


def factors(name, steps, **keys):
    schedule = Schedule(LR, DECAYS[name](**keys))
    return [schedule(step) / LR for step in steps]


def close(expected):
    return pytest.approx(expected, rel=1e-12, abs=1e-15)


# --- in time constants


def test_a_half_life_is_where_the_rate_has_halved():
    assert factors("exponential", [0, 20, 40, 10], half_life=20) == close([1, 0.5, 0.25, math.sqrt(0.5)])
    assert DECAYS["exponential"](half_life=20).constant_half_life == 20


def test_a_half_life_says_the_same_as_a_rate_and_its_steps():
    by_rate = Schedule(LR, DECAYS["exponential"](decay_rate=0.25, decay_steps=40)).curve(200)
    np.testing.assert_allclose(Schedule(LR, DECAYS["exponential"](half_life=20)).curve(200), by_rate, rtol=1e-13)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"half_life": 20, "decay_rate": 0.5}, "decay_rate"),
        ({"half_life": 20, "decay_steps": 20}, "decay_steps"),
        ({"half_life": 20, "staircase": True}, "half_life"),
        ({"half_life": 0}, "half_life"),
        ({"half_life": 2.5}, "half_life"),
        ({}, "decay_rate"),
    ],
)
def test_a_half_life_is_given_in_place_of_the_rate_and_not_of_a_staircase(keys, key):
    with pytest.raises(InvalidValueError) as refused:
        DECAYS["exponential"](**keys)
    assert refused.value.key == key


def test_natural_exponential_is_a_power_of_e():
    steps = [0, 1, 9, 10, 20]
    smooth = factors("natural_exponential", steps, decay_rate=0.5, decay_steps=10)
    assert smooth == close([1, math.exp(-0.05), math.exp(-0.45), math.exp(-0.5), math.exp(-1)])
    stairs = factors("natural_exponential", steps, decay_rate=0.5, decay_steps=10, staircase=True)
    assert stairs == close([1, 1, 1, math.exp(-0.5), math.exp(-1)])


def test_natural_exponential_halves_in_its_half_life():
    decay = DECAYS["natural_exponential"](decay_rate=0.5, decay_steps=10)
    assert Schedule(LR, decay)(np.array(decay.constant_half_life)) == close(LR / 2)


def test_inverse_time_falls_as_one_over_one_plus_time():
    assert factors("inverse_time", [0, 5, 10, 30], decay_rate=2.0, decay_steps=10) == close([1, 1 / 2, 1 / 3, 1 / 7])
    stairs = factors("inverse_time", [0, 9, 10, 19, 20], decay_rate=2.0, decay_steps=10, staircase=True)
    assert stairs == close([1, 1, 1 / 3, 1 / 3, 1 / 5])


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("exponential", {"decay_rate": 0.5, "decay_steps": 10}),
        ("exponential", {"decay_rate": 0.5, "decay_steps": 10, "staircase": True}),
        ("exponential", {"half_life": 10}),
        ("natural_exponential", {"decay_rate": 0.7, "decay_steps": 10}),
        ("inverse_time", {"decay_rate": 1.0, "decay_steps": 10, "staircase": True}),
    ],
)
def test_end_factor_is_a_lower_bound_of_a_decay_in_time_constants(name, keys):
    """As with end_value of optax's exponential_decay, the curve above the bound does not depend on it."""
    unbounded = factors(name, range(60), **keys)
    bounded = factors(name, range(60), **keys, end_factor=0.3)
    assert bounded == [max(factor, 0.3) for factor in unbounded]
    assert 0.3 < bounded[5] < 1 or keys.get("staircase")
    assert bounded[-1] == 0.3
    assert factors(name, range(60), **keys, end_factor=0) == unbounded


def test_a_bounded_decay_has_no_half_life_where_its_curve_has_none():
    half = Schedule(LR, DECAYS["exponential"](half_life=10, end_factor=0.4))
    assert figures_of(half, 50).half_life == 10
    assert figures_of(Schedule(LR, DECAYS["exponential"](half_life=10, end_factor=0.6)), 50).half_life is None
    natural = DECAYS["natural_exponential"](decay_rate=0.7, decay_steps=10, end_factor=0.6)
    assert figures_of(Schedule(LR, natural), 50).half_life is None


def test_a_bounded_decay_may_be_a_piece():
    piece = Piece(DECAYS["exponential"](half_life=5, end_factor=0.2), 0.5)
    joined = DECAYS["joined"](boundaries=[10], pieces=[Piece(DECAYS["constant"]()), piece])
    assert Schedule(LR, joined).curve(60)[[9, 10, 59]].tolist() == close([LR, LR / 2, LR / 10])


# --- by pieces


def test_multistep_falls_at_its_milestones():
    assert factors("multistep", [0, 2, 3, 5, 6, 9], milestones=[3, 6], gamma=0.1) == close([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_milestone_given_twice_falls_twice_as_in_torch():
    found = Schedule(LR, DECAYS["multistep"](milestones=[3, 3, 7], gamma=0.5)).curve(10)
    expected = torch_rates(lambda o: lr_scheduler.MultiStepLR(o, milestones=[3, 3, 7], gamma=0.5), 10)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_interpolation_meets_its_knots_and_stays_at_the_last():
    knots = [[0, 1.0], [4, 0.2], [10, 0.8], [12, 0.0]]
    for kind in ("linear", "cosine", "pchip"):
        assert factors("interpolate", [0, 4, 10, 12, 13, 99], knots=knots, kind=kind) == close([1, 0.2, 0.8, 0, 0, 0])


def test_between_two_knots_interpolation_is_straight_or_half_a_cosine():
    knots = [[0, 1.0], [4, 0.2]]
    assert factors("interpolate", [1, 2, 3], knots=knots, kind="linear") == close([0.8, 0.6, 0.4])
    cosine = [1 - 0.8 * (1 - math.cos(math.pi * x)) / 2 for x in (0.25, 0.5, 0.75)]
    assert factors("interpolate", [1, 2, 3], knots=knots, kind="cosine") == close(cosine)


@pytest.mark.parametrize("seed", range(20))
def test_pchip_is_scipy_s(seed):
    generator = np.random.default_rng(seed)
    steps = np.concatenate([[0], np.cumsum(generator.integers(1, 30, generator.integers(1, 8)))])
    values = np.round(generator.uniform(0, 1, len(steps)), 1)  # rounded, so that some neighbours are equal
    knots = list(zip(steps.tolist(), values.tolist(), strict=True))
    curve = Schedule(LR, DECAYS["interpolate"](knots=knots, kind="pchip")).curve(int(steps[-1]) + 5)
    inside = np.arange(steps[-1] + 1)
    np.testing.assert_allclose(curve[: len(inside)] / LR, PchipInterpolator(steps, values)(inside), atol=1e-13)
    assert (curve[len(inside) :] == LR * values[-1]).all()


def test_joined_pieces_begin_at_their_boundary_at_their_own_step_zero():
    pieces = (Piece(DECAYS["linear"](decay_steps=10)), Piece(DECAYS["linear"](decay_steps=4), 0.5))
    found = factors("joined", [0, 5, 6, 7, 10, 11], boundaries=[6], pieces=pieces)
    assert found == close([1, 0.5, 0.5, 0.375, 0, 0])


def test_joined_pieces_of_rates_begin_at_their_part_of_the_base_rate():
    pieces = (Piece(DECAYS["constant"]()), Piece(DECAYS["power"](power=2.0), 0.5))
    curve = Schedule(LR, DECAYS["joined"](boundaries=[3], pieces=pieces)).curve(6)
    assert curve.tolist() == close([LR, LR, LR, 0.15, 0.15**2, 0.15**4])


# --- cosines


def test_restarts_are_where_the_cycles_before_have_ended():
    steps = [0, 9, 10, 29, 30, 69, 70]  # cycles of 10, 20, 40
    found = factors("cosine_restarts", steps, first_decay_steps=10, t_mul=2.0)
    end = [0.5 * (1 + math.cos(math.pi * u)) for u in (9 / 10, 19 / 20, 39 / 40)]
    assert found == close([1, end[0], 1, end[1], 1, end[2], 1])


@pytest.mark.parametrize("t_mul", [1.0, 3.0, 5.0, 7.0])
def test_a_restart_is_exact_where_the_logarithm_is_not(t_mul):
    begin, length = 0, 10
    for _ in range(6):
        assert factors("cosine_restarts", [begin], first_decay_steps=10, t_mul=t_mul) == close([1])
        begin, length = begin + length, int(length * t_mul)
        assert factors("cosine_restarts", [begin - 1], first_decay_steps=10, t_mul=t_mul)[0] < 0.03


def test_cycles_shrink_by_m_mul_above_the_end_factor():
    keys = {"first_decay_steps": 10, "t_mul": 1.0, "m_mul": 0.5, "end_factor": 0.2}
    assert factors("cosine_restarts", [0, 10, 20, 5, 15], **keys) == close([1, 0.6, 0.4, 0.6, 0.4])


def test_linear_cosine_begins_above_one_and_ends_at_beta():
    keys = {"decay_steps": 40, "num_periods": 0.5, "alpha": 0.1, "beta": 0.01}
    assert factors("linear_cosine", [0, 20, 40, 41], **keys) == close([1.11, 0.6 * 0.5 + 0.01, 0.01, 0.01])


def test_the_noise_is_added_to_the_line_with_a_variance_that_falls_with_the_step():
    keys = {"decay_steps": 40, "num_periods": 0.5, "alpha": 0.1, "beta": 0.01}
    for step in (0, 1, 7, 39, 40, 55):
        z = float(standard_normal(5, np.asarray(step)))
        done = min(step, 40)
        line = 1 - done / 40 + z * math.sqrt(0.3 / (1 + done) ** 0.8)
        expected = (0.1 + line) * 0.5 * (1 + math.cos(math.pi * done / 40)) + 0.01
        assert factors("noisy_linear_cosine", [step], v=0.3, d=0.8, noise_seed=5, **keys) == close([expected])


@pytest.mark.parametrize("step", [40, 41, 55])
def test_beyond_decay_steps_the_variance_of_the_noise_stays(step):
    """The noise is multiplied by the wave, which is 1 after a whole period and 0 after half a period."""
    z = float(standard_normal(5, np.asarray(step)))
    keys = {"decay_steps": 40, "num_periods": 1.0, "alpha": 0.1, "beta": 0.01, "v": 0.3, "d": 0.8, "noise_seed": 5}
    assert factors("noisy_linear_cosine", [step], **keys) == close([0.1 + z * math.sqrt(0.3 / 41**0.8) + 0.01])


def test_the_noise_is_of_the_seed_and_the_block():
    def draw(block, index):
        return np.random.default_rng([3, block]).standard_normal(1024)[index]

    found = standard_normal(3, np.array([0, 1023, 1024, 2050])).tolist()
    assert found == [draw(0, 0), draw(0, 1023), draw(1, 0), draw(2, 2)]


def test_the_noise_is_standard_normal_and_another_for_another_seed_or_step():
    draws = standard_normal(0, np.arange(20_000))
    assert abs(draws.mean()) < 0.03
    assert abs(draws.std() - 1) < 0.03
    assert len(np.unique(draws)) == len(draws)
    assert abs(np.corrcoef(draws, standard_normal(1, np.arange(20_000)))[0, 1]) < 0.03


# --- phases


@pytest.mark.parametrize(
    ("shape", "half"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - math.sqrt(0.5)), ("exponential", 0.5**2)]
)
def test_wsd_is_stable_then_falls_in_decay_steps(shape, half):
    keys = {"stable_steps": 20, "decay_steps": 10, "shape": shape, "end_factor": 0.1, "k": 4.0}
    end = 0.1 + 0.9 * (0.5**4 if shape == "exponential" else 0)
    found = factors("wsd", [0, 19, 20, 25, 30, 31], **keys)
    assert found == close([1, 1, 1, 0.1 + 0.9 * half, end, end])


def test_wsd_counted_from_one_has_begun_to_fall_at_its_first_step_and_never_reaches_its_end_before_its_last():
    keys = {"stable_steps": 20, "decay_steps": 9, "count_from": 1}
    assert factors("wsd", [19, 20, 24, 28, 29, 30], **keys) == close([1, 0.9, 0.5, 0.1, 0, 0])


def test_one_cycle_peaks_at_its_part_of_the_steps_less_one_and_ends_at_the_last_step():
    keys = {"total_steps": 50, "pct_start": 0.3, "div_factor": 10.0, "final_div_factor": 100.0}
    found = factors("one_cycle", [0, 7, 14, 49, 50, 99], **keys)
    assert found == close([0.1, 0.1 + 0.9 * 0.5, 1, 0.001, 0.001, 0.001])
    assert figures_of(Schedule(LR, DECAYS["one_cycle"](**keys)), 50).peak_step == 14
    assert factors("one_cycle", [7, 28], anneal="linear", **keys) == close([0.1 + 0.9 * 0.5, 1 - 0.999 * 14 / 35])


@pytest.mark.parametrize("pct_start", [0.0, 0.3, 0.33, 0.5])
@pytest.mark.parametrize("anneal", ["cosine", "linear"])
def test_one_cycle_is_torch_s(pct_start, anneal):
    def scheduler(optimizer):
        strategy = {"cosine": "cos", "linear": "linear"}[anneal]
        options = {"pct_start": pct_start, "anneal_strategy": strategy, "cycle_momentum": False}
        return lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=41, **options)

    found = Schedule(LR, DECAYS["one_cycle"](total_steps=41, pct_start=pct_start, anneal=anneal)).curve(40)
    expected = torch_rates(scheduler, 40)  # torch refuses the step after the last
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * LR)


def test_cyclic_goes_up_and_down_between_base_factor_and_one():
    keys = {"base_factor": 0.2, "step_size_up": 4, "step_size_down": 2}
    found = factors("cyclic", [0, 2, 4, 5, 6, 10, 12], **keys)
    assert found == close([0.2, 0.6, 1, 0.6, 0.2, 1, 0.2])
    assert factors("cyclic", [4, 10, 16], mode="triangular2", **keys) == close([1, 0.6, 0.4])
    scaled = factors("cyclic", [4, 10], mode="exp_range", gamma=0.9, **keys)
    assert scaled == close([0.2 + 0.8 * 0.9**4, 0.2 + 0.8 * 0.9**10])


# --- spans


def test_rex_falls_slowly_first_and_reaches_zero():
    assert factors("rex", [0, 5, 10, 11], decay_steps=10, beta=0.5) == close([1, 0.5 / 0.75, 0, 0])
    assert factors("rex", [2], decay_steps=10, beta=1.0) == close([0.8])


def test_power_sqrt_is_a_quarter_circle_to_a_power():
    assert factors("power_sqrt", [0, 6, 10, 11], decay_steps=10) == close([1, 0.8, 0, 0])
    assert factors("power_sqrt", [6, 8], decay_steps=10, alpha=3.0) == close([0.8**3, 0.6**3])


def test_tanh_runs_from_lb_to_ub():
    found = factors("tanh", [0, 5, 10, 11], decay_steps=10, lb=-6.0, ub=4.0, end_factor=0.1)
    expected = [0.1 + 0.9 * 0.5 * (1 - math.tanh(at)) for at in (-6, -1, 4, 4)]
    assert found == close(expected)


def test_inverse_sqrt_counts_from_the_end_of_warmup():
    warmup = WARMUPS["linear"](steps=25)
    schedule = Schedule(LR, DECAYS["inverse_sqrt"](timescale=25), warmup)
    assert [schedule(s) / LR for s in (24, 25, 26, 100)] == close([24 / 25, 1, math.sqrt(25 / 26), 0.5])


def test_noam_peaks_one_step_before_noam_steps():
    found = factors("noam", [0, 1, 14, 15, 16, 63], noam_steps=16)
    assert found == close([1 / 16, 2 / 16, 15 / 16, 1, math.sqrt(16 / 17), 0.5])


# --- rates


def test_power_is_its_recurrence():
    rate, curve = LR, Schedule(LR, DECAYS["power"](power=1.05)).curve(60)
    for step in range(60):
        assert curve[step] == pytest.approx(rate, rel=1e-10)
        rate = rate**1.05


def test_power_far_out_is_zero_not_an_overflow():
    with np.errstate(all="raise", under="ignore"):
        assert Schedule(LR, DECAYS["power"](power=2.0))(5000) == 0.0


def test_sine_is_its_recurrence():
    rate, curve = 3.0, Schedule(3.0, DECAYS["sine"]()).curve(60)
    for step in range(60):
        assert curve[step] == close(rate)
        rate = math.sin(rate)


@pytest.mark.parametrize(("name", "lr"), [("power", 1.0), ("power", 2.0), ("sine", math.pi), ("sine", 4.0)])
def test_a_base_rate_that_a_recurrence_has_no_use_for_is_refused(name, lr):
    with pytest.raises(InvalidValueError, match=r"^lr="):
        Schedule(lr, DECAYS[name]())


def test_under_warmup_a_rate_counts_as_any_decay():
    for name in ("power", "sine"):
        decay = DECAYS[name]()
        warm = Schedule(LR, decay, WARMUPS["linear"](steps=5)).curve(20)
        np.testing.assert_array_equal(warm[5:], Schedule(LR, decay).curve(15))
        assert warm[:5].tolist() == close([LR * s / 5 for s in range(5)])


# --- what is refused

REFUSED = {  # beside what `wrong` finds: rules that join several keys, and bounds written out by hand
    "natural_exponential": {
        "decay_rate": [0, -1, "1"],
        "decay_steps": [0, 1.5],
        "staircase": [1],
        "end_factor": [-0.1, 1.1],
    },
    "inverse_time": {
        "decay_rate": [0, math.inf],
        "decay_steps": [0],
        "staircase": ["no"],
        "end_factor": ["0", math.nan],
    },
    "multistep": {"milestones": [5, [5, 4], [-1], [1.5]], "gamma": [0, 1.1]},
    "cosine_restarts": {
        "first_decay_steps": [0, None],
        "t_mul": [0.9, math.nan],
        "m_mul": [0, 1.1],
        "end_factor": [-0.1, 1.1],
    },
    "linear_cosine": {"decay_steps": [0], "num_periods": [0], "alpha": [-1], "beta": [-0.1]},
    "noisy_linear_cosine": {
        "decay_steps": [0],
        "num_periods": [-1],
        "alpha": [-1],
        "beta": [-0.1],
        "v": [-1],
        "d": [-1],
        "noise_seed": [-1, 0.5],
    },
    "inverse_sqrt": {"timescale": [0, 2.5]},
    "noam": {"noam_steps": [0, None]},
    "wsd": {
        "stable_steps": [-1, None],
        "decay_steps": [0],
        "shape": ["straight"],
        "end_factor": [2],
        "k": [0],
        "count_from": [2, -1],
    },
    "one_cycle": {
        "total_steps": [0],
        "pct_start": [1.0, -0.1],
        "div_factor": [0.5],
        "final_div_factor": [0],
        "anneal": ["cos"],
    },
    "cyclic": {
        "base_factor": [-0.1, 1.1],
        "step_size_up": [0],
        "step_size_down": [0],
        "mode": ["square"],
        "gamma": [0, 1.1],
    },
    "rex": {"decay_steps": [0], "beta": [0, 1.1]},
    "power_sqrt": {"decay_steps": [0], "alpha": [0]},
    "tanh": {"decay_steps": [0], "lb": [3.0, "a"], "ub": [math.nan], "end_factor": [-1]},
    "interpolate": {
        "knots": [
            5,
            [],
            [[0, 1]],
            [[1, 1], [2, 0]],
            [[0, 1], [0, 0]],
            [[0, 1], [3, -1]],
            [[0, 1], 3],
            [[0, 1, 2], [1, 1]],
        ],
        "kind": ["cubic"],
    },
    "power": {"power": [0.9, None]},
    "sine": {},
    "plateau": {
        "factor": [0, 1],
        "patience": [-1, 1.5],
        "threshold": [-1],
        "cooldown": [-1],
        "min_lr": [-1],
        "cut": ["keras"],
        "metric": ["loss"],
        "eps": [-1],
        "threshold_mode": ["relative", None],
    },
    "joined": {"boundaries": [5, [0, 3], [3, 3], [3]], "pieces": [5]},
}
SOUND = {
    "natural_exponential": {"decay_rate": 1.0, "decay_steps": 5},
    "inverse_time": {"decay_rate": 1.0, "decay_steps": 5},
    "multistep": {"milestones": [5]},
    "cosine_restarts": {"first_decay_steps": 5},
    "linear_cosine": {"decay_steps": 5},
    "noisy_linear_cosine": {"decay_steps": 5},
    "inverse_sqrt": {"timescale": 5},
    "noam": {"noam_steps": 5},
    "wsd": {"stable_steps": 5, "decay_steps": 5},
    "one_cycle": {"total_steps": 5},
    "cyclic": {"base_factor": 0.1, "step_size_up": 5, "step_size_down": 5},
    "rex": {"decay_steps": 5},
    "power_sqrt": {"decay_steps": 5},
    "tanh": {"decay_steps": 5},
    "interpolate": {"knots": [[0, 1], [5, 0]]},
    "joined": {"boundaries": [5, 6], "pieces": [Piece(DECAYS["constant"]())] * 3},
}


def wrong(kind):
    """Yield values that the type of a key forbids: those just beyond its bounds, and values of other types."""
    rule = declared_rule(kind)
    if type(None) not in get_args(kind):
        yield None
    if kind is bool:
        yield from (1, "yes")
    elif isinstance(rule, OneOf):
        yield from ("no such name", 1)
    elif isinstance(rule, Integer):
        yield from (rule.at_least - 1, rule.at_least + 0.5, True, "1")
        yield from () if rule.at_most is None else (rule.at_most + 1,)
    elif isinstance(rule, Number):
        yield from (math.nan, math.inf, -math.inf, True, "1")
        yield from (bound for bound in (rule.above, rule.below) if bound is not None)
        yield from (math.nextafter(bound, -math.inf) for bound in (rule.at_least,) if bound is not None)
        yield from (math.nextafter(bound, math.inf) for bound in (rule.at_most,) if bound is not None)
    else:
        yield from (5, "a text")  # a list


@pytest.mark.parametrize(("families", "name"), [(g, n) for g in (DECAYS, WARMUPS) for n in g])
def test_every_key_declares_what_is_right_and_refuses_what_is_wrong(families, name):
    family = families[name]
    sound = {"steps": 0} if families is WARMUPS else {**FAMILIES.get(name, {})}
    family(**sound)
    for field in fields(family):
        assert field.type is bool or declared_rule(field.type) or get_origin(field.type) is tuple, field
        for value in wrong(field.type):
            with pytest.raises(InvalidValueError) as refused:
                family(**sound | {field.name: value})
            assert refused.value.key == field.name


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, key, value) for name, keys in REFUSED.items() for key, values in keys.items() for value in values],
)
def test_what_cannot_be_right_is_refused_by_its_name(name, key, value):
    sound = SOUND.get(name, {})
    DECAYS[name](**sound)
    with pytest.raises(InvalidValueError) as refused:
        DECAYS[name](**sound | {key: value})
    assert refused.value.key == key
    assert str(refused.value).startswith(f"{key}=")


def test_a_schedule_that_reacts_is_no_piece():
    with pytest.raises(InvalidValueError, match="cannot be a piece"):
        Piece(DECAYS["plateau"]())
