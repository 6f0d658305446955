"""Decay families: the factor on the base rate as a pure function of the step.

A family is a frozen dataclass whose fields are its keys in conf/schedule. `factor(s, xp)` takes a float64
array of steps s >= 0, counted from the decay's own start, and the array namespace it belongs to, and
returns the factor of each step in the same shape.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from sweep.validation import InvalidValueError, boolean, one_of, real, whole


class Decay(ABC):
    """A decay family. Equal to its original for every step, not only at the ends."""

    @abstractmethod
    def factor(self, s: Any, xp: Any) -> Any:
        """The factor on the base rate at the steps s (float64, any shape, >= 0)."""

    @property
    def half_life(self) -> float | None:
        """Updates in which the factor halves, where that is the same everywhere; else None."""
        return None


@dataclass(frozen=True)
class Constant(Decay):
    """Factor 1 at every step."""

    def factor(self, s: Any, xp: Any) -> Any:
        return xp.ones_like(s)


@dataclass(frozen=True)
class Exponential(Decay):
    """decay_rate ** (s / decay_steps); with `staircase`, decay_rate ** floor(s / decay_steps).

    TensorFlow's `exponential_decay`. decay_rate and decay_steps enter the smooth curve only as
    decay_rate ** (1 / decay_steps), that is as its half-life.

    Args:
        decay_rate: factor per decay_steps, 0 < decay_rate <= 1.
        decay_steps: updates, >= 1.
        staircase: whether the rate drops once every decay_steps (first at s = decay_steps).
    """

    decay_rate: float
    decay_steps: int
    staircase: bool = False

    def __post_init__(self) -> None:
        real("decay_rate", self.decay_rate, above=0, at_most=1)
        whole("decay_steps", self.decay_steps, at_least=1)
        boolean("staircase", self.staircase)

    def factor(self, s: Any, xp: Any) -> Any:
        exponent = s / self.decay_steps
        return self.decay_rate ** (xp.floor(exponent) if self.staircase else exponent)

    @property
    def half_life(self) -> float | None:
        """decay_steps * ln(1/2) / ln(decay_rate), in updates; None where the rate stays."""
        if self.decay_rate == 1:
            return None
        return self.decay_steps * math.log(0.5) / math.log(self.decay_rate)


@dataclass(frozen=True)
class Piecewise(Decay):
    """values[i] between boundaries[i-1] and boundaries[i].

    A boundary belongs to the piece before it with `side="right"` (TensorFlow's `piecewise_constant`: the
    value changes at boundary + 1) and to the piece after it with `side="left"` (optax: changes at it).

    Args:
        boundaries: updates, rising, >= 0.
        values: factors >= 0, one more than boundaries.
        side: "right" or "left".
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]
    side: str = "right"

    def __post_init__(self) -> None:
        for key in ("boundaries", "values"):
            if not isinstance(getattr(self, key), (list, tuple)):
                raise InvalidValueError(key, getattr(self, key), "must be a list")
            object.__setattr__(self, key, tuple(getattr(self, key)))
        for boundary in self.boundaries:
            whole("boundaries", boundary, at_least=0)
        if any(b <= a for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise InvalidValueError("boundaries", list(self.boundaries), "must rise from one to the next")
        for value in self.values:
            real("values", value, at_least=0)
        if len(self.values) != len(self.boundaries) + 1:
            rule = f"must have one more entry than boundaries, which has {len(self.boundaries)}"
            raise InvalidValueError("values", list(self.values), rule)
        one_of("side", self.side, ("right", "left"))

    def factor(self, s: Any, xp: Any) -> Any:
        factor = xp.full_like(s, self.values[0])
        for boundary, value in zip(self.boundaries, self.values[1:], strict=True):
            passed = s > boundary if self.side == "right" else s >= boundary
            factor = xp.where(passed, xp.full_like(s, value), factor)
        return factor


@dataclass(frozen=True)
class Polynomial(Decay):
    """(1 - end_factor) * (1 - u) ** power + end_factor, u = min(s, D) / D, D = decay_steps.

    TensorFlow's `polynomial_decay` with end_learning_rate = end_factor * lr. With `cycle`, D is
    decay_steps * ceil(s / decay_steps), and decay_steps at s = 0: the rate goes up again at each multiple.

    Args:
        decay_steps: updates, >= 1; at s = decay_steps the end is reached.
        power: > 0.
        end_factor: 0 <= end_factor <= 1.
        cycle: whether to start again beyond decay_steps.
    """

    decay_steps: int
    power: float = 1.0
    end_factor: float = 0.0
    cycle: bool = False

    def __post_init__(self) -> None:
        whole("decay_steps", self.decay_steps, at_least=1)
        real("power", self.power, above=0)
        real("end_factor", self.end_factor, at_least=0, at_most=1)
        boolean("cycle", self.cycle)

    def factor(self, s: Any, xp: Any) -> Any:
        if self.cycle:
            span = self.decay_steps * xp.maximum(xp.ceil(s / self.decay_steps), xp.ones_like(s))
        else:
            span = xp.full_like(s, self.decay_steps)
        return (1 - self.end_factor) * (1 - xp.minimum(s, span) / span) ** self.power + self.end_factor


@dataclass(frozen=True)
class Linear(Decay):
    """(1 - end_factor) * (1 - u) + end_factor, u = min(s, D) / D, D = decay_steps: `Polynomial` of power 1."""

    decay_steps: int
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        self._polynomial()

    def _polynomial(self) -> Polynomial:
        return Polynomial(self.decay_steps, power=1.0, end_factor=self.end_factor)

    def factor(self, s: Any, xp: Any) -> Any:
        return self._polynomial().factor(s, xp)


@dataclass(frozen=True)
class Cosine(Decay):
    """(1 - end_factor) * (1 + cos(pi * u)) / 2 + end_factor, u = min(s, D) / D, D = decay_steps.

    TensorFlow's `cosine_decay` with alpha = end_factor; torch's `CosineAnnealingLR` up to decay_steps.

    Args:
        decay_steps: updates, >= 1; at s = decay_steps the end is reached.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: int
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        whole("decay_steps", self.decay_steps, at_least=1)
        real("end_factor", self.end_factor, at_least=0, at_most=1)

    def factor(self, s: Any, xp: Any) -> Any:
        u = xp.minimum(s, xp.full_like(s, self.decay_steps)) / self.decay_steps
        return (1 - self.end_factor) * 0.5 * (1 + xp.cos(math.pi * u)) + self.end_factor


DECAYS: dict[str, type[Decay]] = {
    "constant": Constant,
    "exponential": Exponential,
    "piecewise": Piecewise,
    "polynomial": Polynomial,
    "linear": Linear,
    "cosine": Cosine,
}
