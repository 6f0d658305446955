"""Tests the conversion of sweep expressions to dimensions."""

import shlex

import pytest

from sweep.errors import InvalidValueError
from sweep.requests.expressions import dimension, parse, parse_override
from sweep.space import Dimension

OF_LISTS = {"milestones": "multistep", "values": "piecewise", "knots": "interpolate"}
"""Maps keys that are lists to a schedule that has them."""


def made(text: str, horizon: int = 200, epoch: int = 10) -> Dimension:
    of_schedule = next((name for key, name in OF_LISTS.items() if key in text), "exponential")
    names = {"schedule": of_schedule, "warmup": "linear"}
    return dimension(parse_override(text), names.__getitem__, {"fraction": horizon, "epochs": epoch}.__getitem__)


@pytest.mark.parametrize(
    ("text", "low", "high", "integer", "log"),
    [
        ("schedule.decay_rate=interval(0.5,0.99)", 0.5, 0.99, False, False),
        ("optimizer.lr=tag(log,interval(1e-4,1))", 1e-4, 1.0, False, True),
        ("schedule.decay_steps=interval(100,1000)", 100, 1000, True, False),
        ("schedule.decay_steps=tag(log,interval(100,1000))", 100, 1000, True, True),
        ("train.batch_size=interval(16,64)", 16, 64, True, False),
        ("model.width=interval(16,64)", 16.0, 64.0, False, False),
        ("model.width=int(interval(16,64))", 16, 64, True, False),
        ("warmup.steps=tag(fraction,interval(0,0.2))", 0, 40, True, False),
        ("schedule.decay_steps=tag(log,fraction,interval(0.001,0.5))", 1, 100, True, True),
        ("schedule.decay_steps=tag(fraction,interval(0.07,0.5))", 14, 100, True, False),
        ("schedule.decay_steps=tag(fraction,interval(0.011,0.0149))", 3, 3, True, False),
        ("warmup.steps=tag(epochs,interval(1,2.55))", 10, 25, True, False),
        ("schedule.milestones.0=interval(10,50)", 10, 50, True, False),
        ("schedule.milestones.1=tag(fraction,interval(0.5,0.75))", 100, 150, True, False),
        ("schedule.values.2=tag(log,interval(0.01,1))", 0.01, 1.0, False, True),
        ("schedule.knots.1.0=interval(10,50)", 10, 50, True, False),
        ("schedule.knots.1.1=interval(0,1)", 0.0, 1.0, False, False),
        ("optimizer.betas.1=interval(0.9,0.999)", 0.9, 0.999, False, False),
        ("model.hidden.0=int(interval(8,64))", 8, 64, True, False),
    ],
)
def test_an_interval(text: str, low: float, high: float, integer: bool, log: bool) -> None:
    dim = made(text)
    assert (dim.low, dim.high, dim.integer, dim.log, dim.choices) == (low, high, integer, log, ())
    assert isinstance(dim.low, int) is integer


@pytest.mark.parametrize("horizon", [1, 2, 3])
@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("warmup.steps=tag(fraction,interval(0.05,0.4))", 0, 0.4),
        ("warmup.steps=tag(log,fraction,interval(0.05,0.4))", 0, 0.4),
        ("warmup.steps=tag(fraction,choice(0.4,0.6,0.9))", 0, 0.9),
        ("schedule.decay_steps=tag(fraction,interval(0.05,0.4))", 1, 0.4),
        ("schedule.decay_steps=tag(log,fraction,interval(0.05,0.4))", 1, 0.4),
        ("schedule.decay_steps=tag(fraction,choice(0.1,0.9))", 1, 0.9),
        ("schedule.decay_steps=tag(fraction,range(0.1,0.9,0.4))", 1, 0.9),
    ],
)
def test_parts_of_a_short_horizon_are_lengths_that_it_has(text: str, low: int, high: float, horizon: int) -> None:
    """A length that must be at least 1 is rounded up, and a warmup of a fraction of the horizon is shorter than it."""
    updates = made(text, horizon).ends
    assert all(isinstance(steps, int) for steps in updates)
    assert min(updates) >= low
    assert max(updates) <= max(low, round(high * horizon), 1)
    if text.startswith("warmup"):
        assert max(updates) < horizon


def test_a_part_that_is_nothing_stays_nothing() -> None:
    assert made("schedule.decay_steps=tag(fraction,choice(0.0,0.1))", 3).choices == (0, 1)


@pytest.mark.parametrize(
    "given",
    [
        ["optimizer.betas=[0.8,0.9],[0.9,0.99]", "optimizer.betas.1=interval(0.9,0.99)"],
        ["optimizer.betas=[0.8,0.9],[0.9,0.99]", "optimizer.betas.1=0.95"],
    ],
)
def test_a_list_is_searched_whole_or_by_its_elements(given: list[str]) -> None:
    with pytest.raises(
        InvalidValueError, match=r"must not be given, because optimizer\.betas, which contains it, is searched"
    ):
        parse(given)


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("schedule.decay_rate=0.5,0.9", (0.5, 0.9)),
        ("schedule.decay_rate=choice(0.5,0.9,0.5)", (0.5, 0.9)),
        ("schedule.staircase=true,false", (True, False)),
        ("model.hidden=[64],[128,128]", ([64], [128, 128])),
        ("optimizer.clip_norm=null,1.0", (None, 1.0)),
        ("model.act='re lu',tanh", ("re lu", "tanh")),
        ("warmup.steps=tag(fraction,choice(0.1,0.25))", (20, 50)),
        ("warmup.steps=tag(epochs,range(1,4))", (10, 20, 30)),
        ("warmup.steps=${fraction:0.1},${fraction:0.2}", ("${fraction:0.1}", "${fraction:0.2}")),
    ],
)
def test_a_choice(text: str, choices: tuple[object, ...]) -> None:
    assert made(text).choices == choices


@pytest.mark.parametrize(
    ("text", "low", "high", "step", "integer"),
    [
        ("schedule.decay_steps=range(10,50,20)", 10, 30, 20, True),
        ("schedule.decay_steps=range(10,51,20)", 10, 50, 20, True),
        ("schedule.decay_rate=range(0.5,0.8,0.1)", 0.5, 0.7, 0.1, False),
        ("model.width=range(1,4)", 1, 3, 1, True),
    ],
)
def test_a_range_excludes_its_stop(text: str, low: float, high: float, step: float, integer: bool) -> None:
    dim = made(text)
    assert (dim.low, dim.high, dim.step, dim.integer) == (low, pytest.approx(high), step, integer)


def test_a_command_line_is_taken_apart() -> None:
    request = parse(["schedule=exponential,cosine", "train.steps=9", "optimizer.lr=interval(0.1,1)", "warmup=none"])
    assert request.plain == ("train.steps=9", "warmup=none")
    assert request.groups == {"schedule": ("exponential", "cosine")}
    assert list(request.sweeps) == ["optimizer.lr"]
    assert request.first == ("schedule=exponential", "train.steps=9", "warmup=none")
    assert request.searched == {"schedule": "exponential,cosine", "optimizer.lr": "interval(0.1,1)"}


def test_bounds_that_are_no_whole_updates_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="must have integers as ends"):
        made("schedule.decay_steps=interval(0.1,10)")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("dataset.path=~/x.npz", """'dataset.path="~/x.npz"'"""),
        ("dataset.path=a=b.npz", """'dataset.path="a=b.npz"'"""),
        ("model.text=~x,y", """'model.text="~x",y'"""),
        ("dataset.path=é.npz", """'dataset.path="é.npz"'"""),
    ],
)
def test_a_value_that_must_be_quoted_is_shown_quoted_for_a_shell(text: str, quoted: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        parse_override(text)
    assert str(refused.value).endswith(f"must be quoted: {quoted}")
    parse_override(shlex.split(quoted)[0])


@pytest.mark.parametrize("text", ["schedule.boundaries=[1,2", "optimizer.groups={a:1", "warmup.steps=interval(1,2"])
def test_quotes_are_no_remedy_for_a_bracket_that_is_missing(text: str) -> None:
    with pytest.raises(InvalidValueError, match="cannot be parsed") as refused:
        parse_override(text)
    assert "quoted" not in str(refused.value)
