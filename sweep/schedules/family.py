"""Defines the types of keys that count updates, and the checks of lists, for decays and warmups."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from sweep.errors import InvalidValueError
from sweep.validation import Integer, check_integer

Floats = NDArray[np.float64]
"""The type of a float64 array of any shape."""


@dataclass(frozen=True)
class UpdateCount(Integer):
    """The rule of a key that counts updates.

    Such a key can be given as a fraction of the horizon or in epochs, and `schedule.per_worker` divides it. Other
    integers, such as the number of evaluations that a plateau waits for, have the rule `Integer`.
    """


Updates = Annotated[int, UpdateCount(at_least=1)]
"""A number of updates, >= 1."""
UpdatesFromZero = Annotated[int, UpdateCount(at_least=0)]
"""A number of updates, >= 0."""


def element_of(kind: Any, index: int) -> Any:
    """Return the type of an element of a type tuple[int, ...] or tuple[int, float]; None for other types."""
    kinds = get_args(kind) if get_origin(kind) is tuple else ()
    if kinds[-1:] == (...,):
        return kinds[0]
    return kinds[index] if index < len(kinds) else None


def as_tuples(family: Any, *keys: str) -> None:
    """Replace the lists under these keys of a frozen dataclass by tuples.

    Raises:
        InvalidValueError: names a key whose value is not a list.
    """
    for key in keys:
        if not isinstance(getattr(family, key), (list, tuple)):
            raise InvalidValueError(key, getattr(family, key), "must be a list")
        object.__setattr__(family, key, tuple(getattr(family, key)))


def check_rising(key: str, steps: Sequence[int], at_least: int = 0, equal_allowed: bool = False) -> None:
    """Refuse steps that are not integers >= at_least, or that are not increasing.

    Args:
        equal_allowed: whether a step may equal the previous one.

    Raises:
        InvalidValueError: names the key.
    """
    for step in steps:
        check_integer(key, step, at_least=at_least)
    for before, after in pairwise(steps):
        if after < before or (after == before and not equal_allowed):
            rule = "must not decrease" if equal_allowed else "must increase"
            raise InvalidValueError(key, list(steps), f"{rule} from one element to the next")
