"""Defines checks that refuse invalid values with a message that names the key, the value and the rule."""

import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Union, get_args, get_origin

from sweep.errors import InvalidValueError
from sweep.targets import is_given, name_of


def check_integer(key: str, value: Any, *, at_least: int, at_most: int | None = None) -> None:
    """Refuse anything but an integer (not a bool), at_least <= value <= at_most."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not integer or value < at_least or (at_most is not None and value > at_most):
        upper = "" if at_most is None else f" and <= {at_most}"
        raise InvalidValueError(key, value, f"must be an integer >= {at_least}{upper}{_search_hint(value)}")


def check_number(
    key: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse anything but a finite number with above < value < below and at_least <= value <= at_most."""
    bounds = {
        ">": (above, operator.gt),
        ">=": (at_least, operator.ge),
        "<": (below, operator.lt),
        "<=": (at_most, operator.le),
    }
    stated = {sign: (bound, holds) for sign, (bound, holds) in bounds.items() if bound is not None}
    if not _is_number(value) or not all(holds(value, bound) for bound, holds in stated.values()):
        rule = " and ".join(f"{sign} {bound}" for sign, (bound, _) in stated.items())
        raise InvalidValueError(key, value, f"must be a finite number {rule}".rstrip() + _search_hint(value))


def _search_hint(value: Any) -> str:
    """If a list of numbers was given for a number, return a hint on how to search several values."""
    if not isinstance(value, list) or len(value) < 2 or not all(map(_is_number, value)):
        return ""
    numbers = [str(number) for number in value]
    return f"; a search among these values is {','.join(numbers)}, in Python sweep.choice({', '.join(numbers)})"


def check_boolean(key: str, value: Any) -> None:
    """Refuse anything but true and false."""
    if not isinstance(value, bool):
        raise InvalidValueError(key, value, "must be true or false")


def check_one_of(key: str, value: Any, allowed: Collection[str]) -> None:
    """Refuse anything but an allowed name."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidValueError(key, value, f"must be one of {', '.join(allowed)}")


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


@dataclass(frozen=True)
class Integer:
    """The rule for a key that is an integer, at_least <= value <= at_most."""

    at_least: int
    at_most: int | None = None

    def check(self, key: str, value: Any) -> None:
        check_integer(key, value, at_least=self.at_least, at_most=self.at_most)


@dataclass(frozen=True)
class Number:
    """The rule for a key that is a finite number, above < value < below and at_least <= value <= at_most."""

    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None

    def check(self, key: str, value: Any) -> None:
        check_number(key, value, above=self.above, at_least=self.at_least, at_most=self.at_most, below=self.below)


@dataclass(frozen=True)
class OneOf:
    """The rule for a key that is one of several names."""

    names: tuple[str, ...]

    def check(self, key: str, value: Any) -> None:
        check_one_of(key, value, self.names)


@dataclass(frozen=True)
class Text:
    """The rule for a key that is a text of a certain form.

    Args:
        pattern: a regular expression for the whole text.
        rule: description of the form for messages, "must be ...".
    """

    pattern: str
    rule: str

    def check(self, key: str, value: Any) -> None:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise InvalidValueError(key, value, self.rule)


Rule = Integer | Number | OneOf | Text

Positive = Annotated[float, Number(above=0)]
"""A number > 0."""
NonNegative = Annotated[float, Number(at_least=0)]
"""A number >= 0."""
Fraction = Annotated[float, Number(at_least=0, at_most=1)]
"""A number from 0 to 1, both included."""
PositiveFraction = Annotated[float, Number(above=0, at_most=1)]
"""A number above 0, at most 1."""


def declared_rule(kind: Any) -> Rule | None:
    """Return the rule that the type of a key, or a member of a union with None, declares; None without a rule."""
    kinds = get_args(kind) if get_origin(kind) is Union else (kind,)
    return next((rule for plain in kinds for rule in getattr(plain, "__metadata__", ())), None)


def check_keys(checked: Any) -> None:
    """Check the fields of a dataclass against the rules that their types declare.

    Raises:
        InvalidValueError: names the key.
    """
    for field in fields(checked):
        value, rule = getattr(checked, field.name), declared_rule(field.type)
        if field.type is bool:
            check_boolean(field.name, value)
        elif rule is not None and not (value is None and type(None) in get_args(field.type)):
            rule.check(field.name, value)


def refuse_difference(name: str, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse a configuration that differs from the stored one of the same study or comparison; name the differences."""
    differing = [key for key in sorted({*stored, *asked}) if stored.get(key) != asked.get(key)]
    if differing:
        lines = "".join(f"\n  {_difference(key, stored.get(key), asked.get(key))}" for key in differing)
        raise InvalidValueError(
            "study.name", name, f"is a study of a different configuration; choose another name{lines}"
        )


def _difference(key: str, stored: Any, asked: Any) -> str:
    """Return a line about a value that differs; it has the name, not the digest, of an object given in Python."""
    if is_given(stored) and is_given(asked) and name_of(stored) == name_of(asked):
        return f"{key.removesuffix('._target_')}: {name_of(asked)} has different code or contents in the study"
    return f"{key}: {stored} in the study, {asked} requested"
