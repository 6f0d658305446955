"""Checks that refuse a value where it is built, with one message: the key, the value, the rule."""

import math
import operator
from collections.abc import Collection, Mapping
from typing import Any

from sweep.errors import InvalidValueError
from sweep.targets import is_given, name_of


def whole(key: str, value: Any, *, at_least: int, at_most: int | None = None) -> None:
    """Refuse what is not an integer, at_least <= value <= at_most (a bool is not an integer here)."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not integer or value < at_least or (at_most is not None and value > at_most):
        upper = "" if at_most is None else f" and <= {at_most}"
        raise InvalidValueError(key, value, f"must be an integer >= {at_least}{upper}{_hint(value)}")


def real(
    key: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse what is not a finite number within the bounds: above < value < below, at_least <= value <= at_most."""
    bounds = {
        ">": (above, operator.gt),
        ">=": (at_least, operator.ge),
        "<": (below, operator.lt),
        "<=": (at_most, operator.le),
    }
    stated = {sign: (bound, holds) for sign, (bound, holds) in bounds.items() if bound is not None}
    if not _is_number(value) or not all(holds(value, bound) for bound, holds in stated.values()):
        rule = " and ".join(f"{sign} {bound}" for sign, (bound, _) in stated.items())
        raise InvalidValueError(key, value, f"must be a finite number {rule}".rstrip() + _hint(value))


def _hint(value: Any) -> str:
    """Return how several values are searched, where a list of numbers was given for one number."""
    if not isinstance(value, list) or not value or not all(map(_is_number, value)):
        return ""
    numbers = [str(number) for number in value]
    return f"; a search among these values is {','.join(numbers)}, in Python sweep.choice({', '.join(numbers)})"


def boolean(key: str, value: Any) -> None:
    """Refuse what is not true or false."""
    if not isinstance(value, bool):
        raise InvalidValueError(key, value, "must be true or false")


def one_of(key: str, value: Any, allowed: Collection[str]) -> None:
    """Refuse what is not among the allowed names."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidValueError(key, value, f"must be one of {', '.join(allowed)}")


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond what a float can hold
        return False


def refuse_difference(name: str, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse another configuration under the name of a study or comparison, with the difference."""
    differing = [key for key in sorted({*stored, *asked}) if stored.get(key) != asked.get(key)]
    if differing:
        lines = "".join(f"\n  {_difference(key, stored.get(key), asked.get(key))}" for key in differing)
        raise InvalidValueError("study.name", name, f"is a study of another configuration; choose another name{lines}")


def _difference(key: str, stored: Any, asked: Any) -> str:
    """Return a line on a value that differs. Of an object that was given in Python messages have the name alone."""
    if is_given(stored) and is_given(asked) and name_of(stored) == name_of(asked):
        return f"{key.removesuffix('._target_')}: {name_of(asked)} has other code or contents than in the study"
    return f"{key}: {stored} in the study, {asked} asked for"
