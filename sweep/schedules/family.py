"""What the families of decays and warmups share: the rules of their keys."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from sweep.errors import InvalidValueError
from sweep.validation import boolean, one_of, real, whole

Floats = NDArray[np.float64]
"""A float64 array of any shape."""


@dataclass(frozen=True)
class Whole:
    """The rule of a key that is an integer, at_least <= value <= at_most."""

    at_least: int
    at_most: int | None = None

    def check(self, key: str, value: Any) -> None:
        whole(key, value, at_least=self.at_least, at_most=self.at_most)


@dataclass(frozen=True)
class Count(Whole):
    """The rule of a key that counts updates.

    Such a key can be given in parts of the horizon and in epochs, and `schedule.per_worker` divides it. Other integers,
    such as the number of evaluations that a plateau waits for, have the rule `Whole`.
    """


@dataclass(frozen=True)
class Real:
    """The rule of a key that is a finite number, above < value < below and at_least <= value <= at_most."""

    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None

    def check(self, key: str, value: Any) -> None:
        real(key, value, above=self.above, at_least=self.at_least, at_most=self.at_most, below=self.below)


@dataclass(frozen=True)
class OneOf:
    """The rule of a key that is one of some names."""

    names: tuple[str, ...]

    def check(self, key: str, value: Any) -> None:
        one_of(key, value, self.names)


Rule = Whole | Real | OneOf

Updates = Annotated[int, Count(at_least=1)]
"""Updates, at least one."""
UpdatesFromZero = Annotated[int, Count(at_least=0)]
"""Updates, possibly none."""
Positive = Annotated[float, Real(above=0)]
"""A number > 0."""
NotNegative = Annotated[float, Real(at_least=0)]
"""A number >= 0."""
Part = Annotated[float, Real(at_least=0, at_most=1)]
"""A number from 0 to 1, both included."""
PositivePart = Annotated[float, Real(above=0, at_most=1)]
"""A number above 0, at most 1."""


def rule_of(kind: Any) -> Rule | None:
    """Return the rule that the type of a key declares, also where the key may be None; None if it declares no rule."""
    kinds = get_args(kind) if get_origin(kind) is Union else (kind,)
    return next((rule for plain in kinds for rule in getattr(plain, "__metadata__", ())), None)


def element_of(kind: Any, index: int) -> Any:
    """Return the type of an element of tuple[int, ...] or tuple[int, float]; None of other types."""
    kinds = get_args(kind) if get_origin(kind) is tuple else ()
    if kinds[-1:] == (...,):
        return kinds[0]
    return kinds[index] if index < len(kinds) else None


def check_keys(family: Any) -> None:
    """Check the keys of a frozen dataclass by the rules that their types declare.

    Raises:
        InvalidValueError: names the key.
    """
    for field in fields(family):
        value, rule = getattr(family, field.name), rule_of(field.type)
        if field.type is bool:
            boolean(field.name, value)
        elif rule is not None and not (value is None and type(None) in get_args(field.type)):
            rule.check(field.name, value)


def as_tuples(family: Any, *keys: str) -> None:
    """Replace the lists under these keys of a frozen dataclass by tuples.

    Raises:
        InvalidValueError: names a key whose value is no list.
    """
    for key in keys:
        if not isinstance(getattr(family, key), (list, tuple)):
            raise InvalidValueError(key, getattr(family, key), "must be a list")
        object.__setattr__(family, key, tuple(getattr(family, key)))


def check_rising(key: str, steps: Sequence[int], at_least: int = 0, equal_allowed: bool = False) -> None:
    """Refuse steps that are not whole numbers >= at_least, or that do not rise from one to the next.

    Raises:
        InvalidValueError: names the key.
    """
    for step in steps:
        whole(key, step, at_least=at_least)
    for before, after in pairwise(steps):
        if after < before or (after == before and not equal_allowed):
            rule = "must not fall" if equal_allowed else "must rise"
            raise InvalidValueError(key, list(steps), f"{rule} from one to the next")
