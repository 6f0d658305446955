"""Defines the base classes of decay families: frozen dataclasses whose fields are their keys in conf/schedule."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.schedules.family import Floats, UpdateCount, element_of
from sweep.validation import check_keys, declared_rule

REGISTERED_DECAYS: dict[str, type["Decay"]] = {}
"""Maps the names in conf/schedule to the families, each of which registers itself."""


class Decay(ABC):
    """A decay family. It equals the library function that its docstring names at every step, not only at the ends."""

    warms_up: ClassVar[bool] = False
    """Whether the family warms up by itself; it then has no other warmup by default."""

    def __init_subclass__(cls, name: str | None = None, **options: Any) -> None:
        """Register a family under its name in conf/schedule; one without a name cannot be chosen."""
        super().__init_subclass__(**options)
        if name is not None:
            REGISTERED_DECAYS[name] = cls

    def __post_init__(self) -> None:
        check_keys(self)

    @abstractmethod
    def rate(self, s: Floats, lr: float) -> Floats:
        """Return the learning rates at the steps s, an array of the same shape.

        Args:
            s: float64, any shape, >= 0, counted from the start of the decay.
            lr: the base rate.
        """

    def per_worker(self, workers: int) -> Self:
        """Convert keys that count updates of one worker to updates of all `workers` workers together.

        Each key that counts updates is floor-divided by `workers`, whether it was given or computed.

        Raises:
            InvalidValueError: names a key that becomes 0, or whose elements are no longer increasing.
        """
        divided: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if isinstance(declared_rule(field.type), UpdateCount) and value is not None:
                divided[name] = divided_by_workers(name, value, workers)
            elif isinstance(declared_rule(element_of(field.type, 0)), UpdateCount):
                divided[name] = tuple(divided_by_workers(name, step, workers) for step in value)
        return self._divided(workers, **divided)

    def _divided(self, workers: int, **steps: Any) -> Self:
        """Return the decay with these divided values of its keys."""
        try:
            return replace(self, **steps)  # type: ignore[type-var]
        except InvalidValueError as error:
            rule = f"{error.rule}, also when divided by train.workers={workers} (schedule.per_worker)"
            given = getattr(self, error.key)
            raise InvalidValueError(error.key, list(given) if isinstance(given, tuple) else given, rule) from error

    def check_rate(self, lr: float) -> None:  # noqa: B027  # most families are defined for every base rate
        """Refuse a base rate for which the family is not defined.

        Raises:
            InvalidValueError: names lr.
        """

    @property
    def functions(self) -> Sequence[Component]:
        """Return the user's functions that the decay calls."""
        return ()

    @property
    def rises_for(self) -> int:
        """Return the number of updates before the first peak of a decay that warms up by itself; 0 for any other."""
        return 0

    @property
    def constant_half_life(self) -> float | None:
        """Return the number of updates in which the rate halves; None if it is not the same at all steps."""
        return None


class Factor(Decay):
    """A family that multiplies the base rate by a factor, a function of the step."""

    @abstractmethod
    def factor(self, s: Floats) -> Floats:
        """Return the factors at the steps s, an array of the same shape."""

    def rate(self, s: Floats, lr: float) -> Floats:
        return lr * self.factor(s)


def progress(s: Floats, span: float | Floats) -> Floats:
    """Return u = min(s, span) / span, the completed fraction of a decay of `span` updates, 0 <= u <= 1."""
    return np.minimum(s, span) / span


def divided_by_workers(key: str, steps: int, workers: int) -> int:
    """Return steps // workers.

    Raises:
        InvalidValueError: names the key if the result is 0 and `steps` is not.
    """
    if 0 < steps < workers:
        rule = f"is less than one update when divided by train.workers={workers} (schedule.per_worker)"
        raise InvalidValueError(key, steps, rule)
    return steps // workers
