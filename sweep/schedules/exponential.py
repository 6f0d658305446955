"""Decays in time constants: exponential, natural exponential, inverse time."""

import math
from dataclasses import dataclass
from typing import Any

from sweep.schedules.decay import Factor
from sweep.validation import InvalidValueError, boolean, real, whole


@dataclass(frozen=True, eq=False)
class Exponential(Factor):
    """decay_rate ** (s / decay_steps); with `staircase`, decay_rate ** floor(s / decay_steps).

    TensorFlow's `exponential_decay`. decay_rate and decay_steps enter the smooth curve only as
    decay_rate ** (1 / decay_steps), that is as its half-life; it can be given in their place.

    Args:
        decay_rate: factor per decay_steps, 0 < decay_rate <= 1; None with half_life.
        decay_steps: updates, >= 1; None with half_life.
        staircase: whether the rate drops once every decay_steps (first at s = decay_steps).
        half_life: updates, >= 1, in which the smooth curve halves: 0.5 ** (s / half_life).
    """

    decay_rate: float | None = None
    decay_steps: int | None = None
    staircase: bool = False
    half_life: int | None = None

    def __post_init__(self) -> None:
        boolean("staircase", self.staircase)
        if self.half_life is None:
            real("decay_rate", self.decay_rate, above=0, at_most=1)
            whole("decay_steps", self.decay_steps, at_least=1)
            return
        whole("half_life", self.half_life, at_least=1)
        for key in ("decay_rate", "decay_steps"):
            if getattr(self, key) is not None:
                raise InvalidValueError(key, getattr(self, key), "says the same as half_life: give one or the other")
        if self.staircase:
            raise InvalidValueError("half_life", self.half_life, "is of the smooth curve: staircase must be false")

    def factor(self, s: Any, xp: Any) -> Any:
        if self.half_life is not None:
            return xp.pow(xp.full_like(s, 0.5), s / self.half_life)
        exponent = s / self.decay_steps
        return self.decay_rate ** (xp.floor(exponent) if self.staircase else exponent)

    @property
    def constant_half_life(self) -> float | None:
        """half_life, or decay_steps * ln(1/2) / ln(decay_rate), in updates; None where the rate stays."""
        if self.half_life is not None:
            return float(self.half_life)
        if self.decay_rate == 1 or self.decay_steps is None or self.decay_rate is None:
            return None
        return self.decay_steps * math.log(0.5) / math.log(self.decay_rate)


@dataclass(frozen=True, eq=False)
class _Timed(Factor):
    """A function of the time decay_rate * s / decay_steps; with `staircase`, s / decay_steps is rounded down.

    Args:
        decay_rate: > 0.
        decay_steps: updates, >= 1.
        staircase: whether the rate drops once every decay_steps (first at s = decay_steps).
    """

    decay_rate: float
    decay_steps: int
    staircase: bool = False

    def __post_init__(self) -> None:
        real("decay_rate", self.decay_rate, above=0)
        whole("decay_steps", self.decay_steps, at_least=1)
        boolean("staircase", self.staircase)

    def time(self, s: Any, xp: Any) -> Any:
        """The time at the steps s."""
        intervals = s / self.decay_steps
        return self.decay_rate * (xp.floor(intervals) if self.staircase else intervals)


@dataclass(frozen=True, eq=False)
class NaturalExponential(_Timed):
    """exp(-decay_rate * s / decay_steps); with `staircase`, s / decay_steps is rounded down.

    TensorFlow's `natural_exp_decay`; the arguments are those of `_Timed`.
    """

    def factor(self, s: Any, xp: Any) -> Any:
        return xp.exp(-self.time(s, xp))

    @property
    def constant_half_life(self) -> float | None:
        """decay_steps * ln(2) / decay_rate, in updates."""
        return self.decay_steps * math.log(2) / self.decay_rate


@dataclass(frozen=True, eq=False)
class InverseTime(_Timed):
    """1 / (1 + decay_rate * s / decay_steps); with `staircase`, s / decay_steps is rounded down.

    TensorFlow's `inverse_time_decay`; the arguments are those of `_Timed`.
    """

    def factor(self, s: Any, xp: Any) -> Any:
        return 1 / (1 + self.time(s, xp))
