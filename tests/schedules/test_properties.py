"""Tests properties of every family with every warmup and counting: bounds, continuity, scalar and array steps."""

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.schedules import DECAYS, WARMUPS, Piece, Schedule
from sweep.validation import Integer, Number, OneOf, declared_rule

HORIZON = 400
counts = st.integers(1, 300)
factors = st.floats(0, 1)
positive = st.floats(0.01, 20)


def rising(at_least=0, **options):
    return st.lists(st.integers(at_least, 300), unique=True, **options).map(sorted)


def knots(steps):
    values = st.lists(st.floats(0, 3), min_size=len(steps) + 1, max_size=len(steps) + 1)
    return values.map(lambda given: tuple(zip([0, *steps], given, strict=True)))


def pieces(boundaries):
    piece = st.builds(Piece, st.one_of(PARAMETERS["linear"], PARAMETERS["cosine"], PARAMETERS["constant"]), factors)
    several = st.lists(piece, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1).map(tuple)
    return st.builds(DECAYS["joined"], boundaries=st.just(boundaries), pieces=several)


def family(name, **parameters):
    return st.builds(DECAYS[name], **parameters)


def keys_of(declaring, **given):
    """Return a strategy for each key of a family or warmup: within its declared bounds, and in a moderate range."""
    return {field.name: strategy(field.type) for field in fields(declaring)} | given


def strategy(kind):
    rule = declared_rule(kind)
    if kind is bool:
        return st.booleans()
    if isinstance(rule, OneOf):
        return st.sampled_from(rule.names)
    if isinstance(rule, Integer):
        return st.integers(rule.at_least, rule.at_least + 300 if rule.at_most is None else rule.at_most)
    if isinstance(rule, Number):
        low = next((bound for bound in (rule.at_least, rule.above) if bound is not None), -10)
        high = next((bound for bound in (rule.at_most, rule.below) if bound is not None), low + 20)
        ends = {"exclude_min": low == rule.above, "exclude_max": high == rule.below}
        if ends["exclude_min"] and high == low + 20:
            low += 0.5  # an exponent near 0 makes a curve too steep to be told from one with a jump
        return st.floats(low, high, **ends)
    return st.nothing()  # a list: its strategy is given


PARAMETERS = {name: st.builds(cls, **keys_of(cls)) for name, cls in DECAYS.items()} | {
    "exponential": st.one_of(
        family("exponential", **keys_of(DECAYS["exponential"], half_life=st.none(), end_factor=st.none() | factors)),
        family("exponential", half_life=counts, end_factor=st.none() | factors),
    ),
    "piecewise": rising(max_size=5).flatmap(
        lambda boundaries: family(
            "piecewise",
            boundaries=st.just(boundaries),
            values=st.lists(st.floats(0, 3), min_size=len(boundaries) + 1, max_size=len(boundaries) + 1),
            side=st.sampled_from(["right", "left"]),
        )
    ),
    "multistep": family(
        "multistep", milestones=st.lists(st.integers(0, 300)).map(sorted), gamma=st.floats(0, 1, exclude_min=True)
    ),
    "power_sqrt": family("power_sqrt", decay_steps=counts, alpha=st.floats(1, 20)),
    "rex": family("rex", decay_steps=counts, beta=st.floats(0.001, 1)),
    "tanh": family("tanh", decay_steps=counts, lb=st.floats(-10, -0.1), ub=st.floats(0, 10), end_factor=factors),
    "interpolate": rising(at_least=1, min_size=1, max_size=5)
    .flatmap(knots)
    .flatmap(lambda k: family("interpolate", knots=st.just(k), kind=st.sampled_from(["linear", "cosine", "pchip"]))),
    "plateau": family("plateau", factor=st.floats(0.01, 0.99), patience=st.integers(1, 5), min_lr=factors),
}
"""Maps families to strategies that follow their declared rules, or the dependencies between their keys."""
PARAMETERS["joined"] = rising(at_least=1, max_size=3).flatmap(pieces)
WARMING = {name: keys_of(cls, steps=st.integers(0, 150)) for name, cls in WARMUPS.items()} | {
    "none": {},
    "until_error": {"start_factor": st.floats(0.01, 1), "until_error": st.floats(0, 1, exclude_min=True)},
}
GENTLE = sorted(WARMUPS.keys() - {"none", "constant", "until_error"})
"""Warmups that reach the base rate without a jump."""
FROM_ONE = sorted(
    DECAYS.keys()
    - {"piecewise", "linear_cosine", "noisy_linear_cosine", "noam", "one_cycle", "cyclic", "interpolate", "joined"}
    - {"multistep", "wsd", "tanh"}  # a milestone, or the stable phase's end, may be at 0; tanh starts just below 1
)
"""Families whose factor at s = 0 is 1."""
CONTINUOUS = sorted(
    DECAYS.keys() - {"piecewise", "multistep", "cosine_restarts", "noisy_linear_cosine", "sine", "joined"}
)
"""Families that have no jumps without staircase, cycle and count_from."""

every_family = pytest.mark.parametrize("name", sorted(DECAYS))


def rates(name):
    """Return a strategy for base rates for which the family is defined."""
    return st.floats(1e-8, {"power": 0.99, "sine": 3.14}.get(name, 1e3))


def warmups(name, counting):
    return st.builds(WARMUPS[name], **WARMING[name] | {"counting": st.just(counting)})


def stated_peak(decay):
    """Return the largest factor that the definition allows; infinity for the noisy family."""
    name = next(name for name, cls in DECAYS.items() if type(decay) is cls)
    if name == "noisy_linear_cosine":
        return math.inf
    if name == "linear_cosine":
        return 1 + decay.alpha + decay.beta
    if name == "piecewise":
        return max(decay.values)
    if name == "interpolate":
        return max(factor for _, factor in decay.knots)
    return 1.0


@every_family
@pytest.mark.parametrize("warming", sorted(WARMUPS))
@pytest.mark.parametrize("counting", ["prefix", "overlap"])
def test_every_rate_is_finite_not_negative_and_at_most_the_stated_peak(name, warming, counting):
    @settings(deadline=None, max_examples=12, database=None)
    @given(lr=rates(name), decay=PARAMETERS[name], warmup=warmups(warming, counting))
    def check(lr, decay, warmup):
        curve = Schedule(lr, decay, warmup).curve(HORIZON)
        assert np.isfinite(curve).all()
        if name != "noisy_linear_cosine":
            assert curve.min() >= 0
        assert curve.max() <= lr * max(1.0, stated_peak(decay)) * (1 + 1e-12)

    check()


@every_family
def test_one_step_is_the_same_as_int_and_in_an_array(name):
    @settings(deadline=None, max_examples=30, database=None)
    @given(lr=rates(name), decay=PARAMETERS[name], warmup=warmups("linear", "prefix"), step=st.integers(0, 700))
    def check(lr, decay, warmup, step):
        schedule = Schedule(lr, decay, warmup)
        one = schedule(step)
        # NumPy has other kernels of cos, exp and pow for arrays: to some units in the last place
        np.testing.assert_allclose(schedule(np.array([step])), [one], rtol=1e-12, atol=1e-13 * lr)

    check()


@every_family
@pytest.mark.parametrize("counting", ["prefix", "overlap"])
def test_after_warmup_the_rate_is_the_decay_alone(name, counting):
    @settings(deadline=None, max_examples=20, database=None)
    @given(lr=rates(name), decay=PARAMETERS[name], warmup=warmups("linear", counting))
    def check(lr, decay, warmup):
        curve, alone = Schedule(lr, decay, warmup).curve(HORIZON), Schedule(lr, decay).curve(HORIZON)
        first = warmup.steps + (1 if warmup.inclusive and warmup.steps else 0)
        counted_from = warmup.steps if counting == "prefix" else 0
        np.testing.assert_array_equal(curve[first:], alone[first - counted_from : HORIZON - counted_from])

    check()


@pytest.mark.parametrize("name", FROM_ONE)
@pytest.mark.parametrize("warming", GENTLE)
def test_under_prefix_warmup_arrives_where_the_decay_begins(name, warming):
    """At s = W the formula of the warmup equals the decay, so that the curve is continuous."""

    @settings(deadline=None, max_examples=10, database=None)
    @given(lr=rates(name), decay=PARAMETERS[name], warmup=warmups(warming, "prefix"))
    def check(lr, decay, warmup):
        if warmup.steps == 0:
            return
        at_w = Schedule(lr, decay, warmup)(warmup.steps)
        assert at_w == pytest.approx(lr, rel=1e-12)
        formula = warmup.factor(np.asarray(float(warmup.steps)))
        assert float(formula) == pytest.approx(1.0, rel=1e-12)

    check()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_family_without_jumps_has_none(name):
    """The factors just before and just after each step are equal."""

    @settings(deadline=None, max_examples=30, database=None)
    @given(decay=PARAMETERS[name])
    def check(decay):
        if getattr(decay, "staircase", False) or getattr(decay, "cycle", False) or getattr(decay, "count_from", 0):
            return
        if name == "one_cycle" and decay.total_steps * (1 - decay.pct_start) < 0.01:
            return  # the fall is so steep that it looks like a jump
        steps, schedule = np.arange(1, HORIZON), Schedule(0.5, decay)
        before, after = schedule(steps - 1e-9), schedule(steps + 1e-9)
        np.testing.assert_allclose(before, after, atol=1e-3)

    check()
