"""Defines the types of keys that count updates, and checks lists, for decays and warmups."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from sweep.errors import InvalidValueError
from sweep.validation import Whole, whole

Floats = NDArray[np.float64]
"""A float64 array of any shape."""


@dataclass(frozen=True)
class Count(Whole):
    """The rule of a key that counts updates.

    Such a key can be given in parts of the horizon and in epochs, and `schedule.per_worker` divides it. Other integers,
    such as the number of evaluations that a plateau waits for, have the rule `Whole`.
    """


Updates = Annotated[int, Count(at_least=1)]
"""Updates, at least one."""
UpdatesFromZero = Annotated[int, Count(at_least=0)]
"""Updates, possibly none."""


def element_of(kind: Any, index: int) -> Any:
    """Return the type of an element of tuple[int, ...] or tuple[int, float]; None of other types."""
    kinds = get_args(kind) if get_origin(kind) is tuple else ()
    if kinds[-1:] == (...,):
        return kinds[0]
    return kinds[index] if index < len(kinds) else None


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
