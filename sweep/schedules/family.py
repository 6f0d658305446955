"""What the families of decays and warmups share: the type of keys that count updates, and checks of lists."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from sweep.errors import InvalidValueError
from sweep.validation import whole

Floats = NDArray[np.float64]
"""A float64 array of any shape."""

Updates = Annotated[int, "updates"]
"""The type of a key that counts updates.

Such a key can be given in parts of the horizon and in epochs, and `schedule.per_worker` divides it. Other integers,
such as the number of evaluations that a plateau waits for, are plain ints.
"""


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
