"""What a decay family is: a frozen dataclass whose fields are its keys in conf/schedule."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.schedules.family import Count, Floats, element_of
from sweep.validation import check_keys, rule_of

FAMILIES: dict[str, type["Decay"]] = {}
"""The families by their names in conf/schedule: each registers itself."""


class Decay(ABC):
    """A decay family. It equals its original at every step, not only at the ends."""

    warms_up: ClassVar[bool] = False
    """Whether the family warms up by itself, so that it has no warmup unless one is asked for."""

    def __init_subclass__(cls, name: str | None = None, **options: Any) -> None:
        """Register a family under its name in conf/schedule; one without a name cannot be chosen."""
        super().__init_subclass__(**options)
        if name is not None:
            FAMILIES[name] = cls

    def __post_init__(self) -> None:
        check_keys(self)

    @abstractmethod
    def rate(self, s: Floats, lr: float) -> Floats:
        """Return the learning rate of the base rate lr at the steps s.

        Args:
            s: float64, any shape, >= 0, counted from the start of the decay.
        """

    def per_worker(self, workers: int) -> Self:
        """Return the decay in updates of `workers` workers together, where its keys count those of one worker.

        Each key that counts updates is floor-divided, whether it was given or computed: `DECAY_STEP // num_gpu`.

        Raises:
            InvalidValueError: names a key that becomes 0, or that no longer rises from one element to the next.
        """
        divided: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if isinstance(rule_of(field.type), Count) and value is not None:
                divided[name] = shared(name, value, workers)
            elif isinstance(rule_of(element_of(field.type, 0)), Count):
                divided[name] = tuple(shared(name, step, workers) for step in value)
        return self._divided(workers, **divided)

    def _divided(self, workers: int, **steps: Any) -> Self:
        """Return the decay with these values in place of what was given."""
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
        """Return the functions of the user's that it calls."""
        return ()

    @property
    def rises_for(self) -> int:
        """The updates before the first peak of a decay that warms up by itself; 0 of any other."""
        return 0

    @property
    def constant_half_life(self) -> float | None:
        """The updates in which the rate halves, where that is the same everywhere; else None."""
        return None


class Factor(Decay):
    """A family that is a factor on the base rate."""

    @abstractmethod
    def factor(self, s: Floats) -> Floats:
        """Return the factor on the base rate at the steps s."""

    def rate(self, s: Floats, lr: float) -> Floats:
        return lr * self.factor(s)


def progress(s: Floats, span: float | Floats) -> Floats:
    """Return u = min(s, span) / span: how much of a decay of `span` updates is done, 0 <= u <= 1."""
    return np.minimum(s, span) / span


def shared(key: str, steps: int, workers: int) -> int:
    """Return steps // workers.

    Raises:
        InvalidValueError: if that is 0, and steps are not.
    """
    if 0 < steps < workers:
        rule = f"is no whole update when divided by train.workers={workers} (schedule.per_worker)"
        raise InvalidValueError(key, steps, rule)
    return steps // workers
