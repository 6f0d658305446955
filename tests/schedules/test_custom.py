"""Tests schedules that are user functions: their arguments, and what is refused."""

import pickle

import numpy as np
import pytest

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS, Custom, Joined, Piece, Schedule
from tests.schedules.examples import figures_of

CALLS = []


def knee(steps, horizon, knee=0.5):
    """Return 1 until a fraction of the horizon, then factors that fall linearly to 0 at its end."""
    return np.minimum(1.0, (1 - steps / horizon) / (1 - knee))


def half_life(steps, horizon, half_life):
    return 0.5 ** (steps / half_life)


def floored(steps, horizon, end_factor=0.1):
    return np.maximum(1 - steps / horizon, end_factor or 0.0)


def watched(steps, horizon):
    CALLS.append((steps, horizon))
    return np.ones(len(steps))


def only_within(steps, horizon):
    return np.sqrt(1 - steps / horizon)


def overwriting(steps, horizon):
    steps /= horizon
    return 1 - steps


def as_list(steps, horizon):
    return [1 - step / horizon for step in steps.tolist()]


def as_integers(steps, horizon):
    return (steps < 5).astype(int)


def by_the_last(steps, horizon):
    return 1 - 0.5 * steps / max(steps[-1], 1)


def by_the_number(steps, horizon):
    return np.linspace(1, 0, len(steps))


def accumulated(steps, horizon):
    return np.cumprod(np.full(len(steps), 0.99))


def drawn(steps, horizon):
    return np.random.default_rng().random(len(steps))


def counting(steps, horizon):
    CALLS.append(steps)
    return np.full(len(steps), 1 / len(CALLS))


def scalar(steps, horizon):
    return 0.5


def too_many(steps, horizon):
    return np.ones(len(steps) + 1)


def nothing(steps, horizon):
    return None


def texts(steps, horizon):
    return ["1"] * len(steps)


def ragged(steps, horizon):
    return [[1.0], [1.0, 2.0]]


def complex_numbers(steps, horizon):
    return np.ones(len(steps), dtype=complex)


def negative(steps, horizon):
    return 1 - 2 * steps / horizon


def not_finite(steps, horizon):
    return np.where(steps == 7, np.nan, 1.0)


def failing(steps, horizon):
    return steps / unknown  # noqa: F821


def leaving(steps, horizon):
    raise SystemExit(3)


def custom(name, horizon=20, workers=1, **keys):
    return Custom(Component("schedule", f"{__name__}.{name}", keys, (__name__,)), horizon, workers)


def test_its_factors_are_on_the_base_rate_and_count_as_those_of_other_schedules():
    steps = np.arange(20)
    expected = np.minimum(1.0, (1 - steps / 20) / 0.5)
    assert Schedule(0.4, custom("knee")).curve(20).tolist() == (0.4 * expected).tolist()
    warm = Schedule(0.4, custom("knee", 15), WARMUPS["linear"](steps=5)).curve(20)
    assert warm.tolist() == pytest.approx([0.08 * s for s in range(5)] + (0.4 * knee(steps[:15], 15)).tolist())
    overlap = Schedule(0.4, custom("knee"), WARMUPS["linear"](steps=5, counting="overlap")).curve(20)
    assert overlap[5:].tolist() == (0.4 * expected)[5:].tolist()


def test_a_key_is_an_argument_of_the_function():
    curve = Schedule(1.0, custom("knee", knee=0.25)).curve(20)
    assert curve.tolist() == knee(np.arange(20), 20, 0.25).tolist()
    assert figures_of(Schedule(1.0, custom("half_life", half_life=5)), 20).half_life == 5  # counted


def test_it_is_called_with_float64_steps_and_the_horizon():
    CALLS.clear()
    custom("watched", 20)
    assert len(CALLS) == 3  # the curve, the same again, and a part of it
    for steps, horizon in CALLS:
        assert (steps.dtype, steps.ndim, horizon) == (np.float64, 1, 20)
    assert CALLS[0][0].tolist() == CALLS[1][0].tolist() == list(range(20))
    assert CALLS[2][0].tolist() == list(range(6, 13))
    CALLS.clear()
    assert Schedule(0.5, custom("watched", 20)).curve(20).tolist() == [0.5] * 20
    assert len(CALLS) == 3, "the curve is computed once"


@pytest.mark.parametrize("horizon", [1, 2, 3, 4, 1000])
def test_horizons_of_any_length(horizon):
    assert Schedule(1.0, custom("knee", horizon)).curve(horizon).tolist() == knee(np.arange(horizon), horizon).tolist()


@pytest.mark.parametrize("name", ["overwriting", "as_list", "as_integers"])
def test_what_a_function_may_do_and_return(name):
    curve = Schedule(1.0, custom(name)).curve(20)
    assert curve.dtype == np.float64
    expected = [float(s < 5) for s in range(20)] if name == "as_integers" else [1 - s / 20 for s in range(20)]
    assert curve.tolist() == pytest.approx(expected)


def test_a_single_step_has_the_rate_that_the_curve_has():
    schedule = Schedule(0.3, custom("knee"))
    assert [schedule(step) for step in (0, 7, 19)] == schedule.curve(20)[[0, 7, 19]].tolist()


def test_steps_beyond_the_horizon_are_computed_and_checked_when_they_are_needed():
    schedule = Schedule(1.0, custom("half_life", 20, half_life=10))
    assert schedule.curve(40).tolist() == pytest.approx([0.5 ** (s / 10) for s in range(40)])
    with pytest.raises(InvalidValueError, match=r"finite factors >= 0; it returned -0\.1 for step 21, which is beyond"):
        Schedule(1.0, custom("knee", 20)).curve(22)


def test_it_is_sent_to_another_process_with_its_curve_and_can_be_computed_further_there():
    decay = custom("half_life", 20, half_life=10)
    sent = pickle.loads(pickle.dumps(decay))
    assert sent == decay
    assert sent.planned.tolist() == decay.planned.tolist()
    assert Schedule(1.0, sent)(30) == 0.5**3


def test_of_one_worker_steps_and_horizon_are_so_many_times_as_many():
    two = custom("half_life", 20, workers=2, half_life=10)
    assert two == custom("half_life", 20, half_life=10).per_worker(2)
    assert Schedule(1.0, two).curve(20).tolist() == pytest.approx([0.5 ** (2 * s / 10) for s in range(20)])
    relative = Schedule(1.0, custom("knee", 20, workers=2)).curve(20)
    assert relative.tolist() == Schedule(1.0, custom("knee", 20)).curve(20).tolist()


def test_as_a_piece_it_need_not_be_defined_beyond_its_own_steps():
    joined = Joined([10, 15], [Piece(custom("only_within", 10)), Piece(custom("knee", 5), 0.5), Piece(custom("knee"))])
    curve = Schedule(1.0, joined).curve(35)
    assert curve[:10].tolist() == np.sqrt(1 - np.arange(10) / 10).tolist()
    assert curve[10:15].tolist() == (0.5 * knee(np.arange(5), 5)).tolist()
    assert curve[15:].tolist() == knee(np.arange(20), 20).tolist()
    assert [function.target for function in joined.functions] == [
        f"{__name__}.{name}" for name in ("only_within", "knee", "knee")
    ]
    assert list(DECAYS["constant"]().functions) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "by_the_last",
            "must compute each factor from its step, horizon and keys alone; called with the steps 6 to 12",
        ),
        ("by_the_number", "must compute each factor from its step, horizon and keys alone"),
        ("accumulated", "must compute each factor from its step, horizon and keys alone"),
        ("drawn", "must return the same for the same arguments; a second call returned other factors"),
        ("counting", "must return the same for the same arguments"),
        ("scalar", "one number for each step; it returned a single float for 20 steps"),
        ("too_many", r"one number for each step; it returned an array of shape \[21\] for 20 steps"),
        ("nothing", "one number for each step; it returned a NoneType"),
        ("texts", "one number for each step; it returned a list of <U1"),
        ("ragged", "one number for each step; it returned a list"),
        ("complex_numbers", "one number for each step; it returned a ndarray of complex128"),
        ("negative", r"must return finite factors >= 0; it returned -0\.1 for step 11$"),
        ("not_finite", "must return finite factors >= 0; it returned nan for step 7$"),
    ],
)
def test_a_function_that_is_no_schedule_is_refused(name, said):
    with pytest.raises(InvalidValueError, match=rf"^schedule\._target_={__name__}\.{name}: .*{said}"):
        custom(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("failing", r"NameError: name 'unknown' is not defined \(.*/test_custom\.py:\d+ in failing\)$"),
        ("leaving", r"SystemExit: 3 \(.*/test_custom\.py:\d+ in leaving\)$"),
        ("half_life", "missing 1 required positional argument: 'half_life'"),
    ],
)
def test_an_error_of_the_function_names_the_line_of_its_code(name, said):
    with pytest.raises(InvalidValueError, match=rf"^schedule=\{{\}}: was refused by .*\.{name}: .*{said}"):
        custom(name)


def test_a_key_that_the_function_does_not_have_is_refused_with_a_hint():
    with pytest.raises(InvalidValueError, match=r"^schedule\.kne=0\.2: is not a key of .* \(did you mean knee\?\)"):
        custom("knee", kne=0.2)
