"""Defines `sweep.schedule`, which returns a schedule as a function of the step."""

from collections.abc import Callable, Mapping
from typing import Any

from sweep import given
from sweep.api.short_tracebacks import short_tracebacks
from sweep.api.values import Searched, as_texts
from sweep.errors import InvalidValueError
from sweep.requests.build import run_config
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import Schedule

HORIZONS = (4800, 9600)
"""Two horizons: a schedule that is the same for both does not depend on the horizon."""


@short_tracebacks
def schedule(
    name: str | Callable[..., Any],
    *,
    lr: float,
    steps: int | None = None,
    warmup: str | int | Mapping[str, Any] | None = None,
    **keys: Any,
) -> Schedule:
    """Return a schedule as a function of the step.

    A training with the same schedule, rate, horizon and warmup uses the same rates. The default differs: without
    `warmup`, this function has none, but a training has linear warmup over 5 % of the horizon (here
    `warmup="linear"`), except with `noam`, `one_cycle` and `cyclic`, which warm up by themselves.

    >>> rate = sweep.schedule("exponential", lr=0.1, decay_rate=0.96, decay_steps=100, staircase=True)
    >>> rate(100)
    0.096
    >>> rate.curve(1000)  # the rates of the updates 0..999, float64 [1000]

    Args:
        name: the family: `constant`, `exponential`, `cosine`, `wsd`, ... `docs/schedules.md` lists all families. Or a
            function (steps, horizon, **keys) that returns the factor at each of the steps; it needs `steps`.
        lr: the base rate, > 0.
        steps: the horizon T, which may be left out if the schedule does not depend on it.
        warmup: None for no warmup, a number of updates of linear warmup, the name of a warmup, or a mapping with its
            keys: `{"name": "polynomial", "steps": 50, "power": 2}`. A warmup given by its name has 5 % of the horizon,
            as in a training.
        keys: the keys of the family. `docs/schedules.md` lists them with their defaults;
            `python -m sweep schedule=cosine --help` shows those of one family.

    Raises:
        InvalidValueError: names the invalid argument.
    """
    register_resolvers()
    for key, value in {"name": name, "lr": lr, "warmup": warmup, **keys}.items():
        if isinstance(value, Searched) or (isinstance(value, str) and "${epochs:" in value):
            raise InvalidValueError(key, value, "must be a plain value, without searched values or epochs")
    shown = name if isinstance(name, str) else getattr(name, "__name__", type(name).__name__)
    texts = [_schedule_override(name), *as_texts({"optimizer.lr": lr}), *_warmup_overrides(warmup)]
    texts += as_texts({f"schedule.{key}": value for key, value in keys.items()})
    if steps is not None:
        return _composed(texts, steps)
    one, other = (_composed(texts, horizon) for horizon in HORIZONS)
    if one != other:
        raise InvalidValueError("steps", None, f"must be given, because schedule={shown} depends on the horizon")
    return one


def _schedule_override(schedule: str | Callable[..., Any]) -> str:
    """Return the override that chooses a schedule. Register a function for the rest of the process."""
    if isinstance(schedule, str):
        return f"schedule={schedule}"
    target = given.target_of("schedule", schedule)
    given.register(target, schedule)
    return f"schedule._target_={target}"


def _composed(texts: list[str], steps: int) -> Schedule:
    for key, value in parse(texts).searched.items():
        raise InvalidValueError(key, value, "must be a plain value, not a sweep expression")
    return run_config(Composer().compose([*texts, *as_texts({"train.steps": steps})])).schedule


def _warmup_overrides(warmup: str | int | Mapping[str, Any] | None) -> list[str]:
    if warmup is None:
        return ["warmup=none"]
    if isinstance(warmup, str):
        return [f"warmup={warmup}"]
    if isinstance(warmup, Mapping):
        if "name" not in warmup:
            raise InvalidValueError("warmup", dict(warmup), "must have a name: {'name': 'linear', 'steps': 100}")
        keys = {f"warmup.{key}": value for key, value in warmup.items() if key != "name"}
        return [f"warmup={warmup['name']}", *as_texts(keys)]
    return ["warmup=linear", *as_texts({"warmup.steps": warmup})]
