"""What a decay family is.

A family is a frozen dataclass whose fields are its keys in conf/schedule. Steps are given as a float64 array s >= 0 of
any shape, counted from the decay's own start, with the array namespace `xp` that it belongs to; parameters are arrays
of that namespace by then (`Family.on`).
"""

from abc import ABC, abstractmethod
from typing import Any

from sweep.schedules.family import Family


class Decay(Family, ABC):
    """A decay family. Equal to its original for every step, not only at the ends."""

    @abstractmethod
    def rate(self, s: Any, lr: Any, xp: Any) -> Any:
        """The learning rate at the steps s, of the base rate lr."""

    def check_rate(self, lr: float) -> None:
        """Refuse a base rate for which the family is not defined.

        Raises:
            InvalidValueError: names lr.
        """

    @property
    def rises_for(self) -> int:
        """Updates before a decay that warms up by itself is at its first peak; 0 for one that begins there."""
        return 0

    @property
    def constant_half_life(self) -> float | None:
        """Updates in which the rate halves, where that is the same everywhere; else None."""
        return None


class Factor(Decay):
    """A family that is a factor on the base rate."""

    @abstractmethod
    def factor(self, s: Any, xp: Any) -> Any:
        """The factor on the base rate at the steps s."""

    def rate(self, s: Any, lr: Any, xp: Any) -> Any:
        return lr * self.factor(s, xp)


def progress(s: Any, span: Any, xp: Any) -> Any:
    """u = min(s, span) / span: how much of a decay of `span` updates is done, 0 <= u <= 1."""
    return xp.minimum(s, span) / span
