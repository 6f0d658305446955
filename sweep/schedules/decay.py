"""What a decay family is.

A family is a frozen dataclass whose fields are its keys in conf/schedule. Steps are given as a float64 array s >= 0 of
any shape, counted from the decay's own start, with the array namespace `xp` that it belongs to; parameters are arrays
of that namespace by then (`Family.on`).
"""

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any, Self

from sweep.schedules.family import OTHER_COUNTS, Family
from sweep.validation import InvalidValueError


class Decay(Family, ABC):
    """A decay family. Equal to its original for every step, not only at the ends."""

    @abstractmethod
    def rate(self, s: Any, lr: Any, xp: Any) -> Any:
        """The learning rate at the steps s, of the base rate lr."""

    def per_worker(self, workers: int) -> Self:
        """The same in updates of `workers` workers together, where lengths and boundaries are in updates of one.

        Each is floor-divided, whether it was given or computed: `DECAY_STEP // num_gpu`.

        Raises:
            InvalidValueError: names one that becomes 0, or that no longer rises from one to the next.
        """
        divided: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if field.type in (int, int | None) and name not in OTHER_COUNTS and value is not None:
                divided[name] = shared(name, value, workers)
            elif field.type == tuple[int, ...]:
                divided[name] = tuple(shared(name, step, workers) for step in value)
        return self._divided(workers, **divided)

    def _divided(self, workers: int, **steps: Any) -> Self:
        """The same with these in place of what was given."""
        try:
            return replace(self, **steps)  # type: ignore[type-var]
        except InvalidValueError as error:
            rule = f"{error.rule}, also when divided by train.workers={workers} (schedule.per_worker)"
            given = getattr(self, error.key)
            raise InvalidValueError(error.key, list(given) if isinstance(given, tuple) else given, rule) from error

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


def shared(key: str, steps: int, workers: int) -> int:
    """steps // workers.

    Raises:
        InvalidValueError: if that is 0, and steps are not.
    """
    if 0 < steps < workers:
        rule = f"is no whole update when divided by train.workers={workers} (schedule.per_worker)"
        raise InvalidValueError(key, steps, rule)
    return steps // workers
