"""Defines exponential, natural exponential and inverse time decay, each with an optional lower bound."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, Updates
from sweep.validation import Fraction, Positive, PositiveFraction, check_integer, check_number


@dataclass(frozen=True)
class _Bounded(Factor):
    """A decay that does not fall below `end_factor`: max(unbounded factor, end_factor).

    Args:
        end_factor: lower bound of the factor, 0 <= end_factor <= 1; None for no bound. The curve above the bound does
            not depend on the bound (optax's `exponential_decay` with end_value = end_factor * lr).
    """

    end_factor: Fraction | None = field(default=None, kw_only=True)

    @abstractmethod
    def unbounded(self, s: Floats) -> Floats:
        """Return the factor at the steps s without the lower bound."""

    def factor(self, s: Floats) -> Floats:
        factor = self.unbounded(s)
        return factor if self.end_factor is None else np.maximum(factor, self.end_factor)


@dataclass(frozen=True)
class Exponential(_Bounded, name="exponential"):
    """The factor is decay_rate ** (s / decay_steps); with `staircase`, decay_rate ** floor(s / decay_steps).

    It equals TensorFlow's `exponential_decay`. The smooth curve depends on decay_rate ** (1 / decay_steps) only, and
    therefore on the half-life, which can be given instead of the two.

    Args:
        decay_rate: factor per decay_steps updates, 0 < decay_rate <= 1; None with half_life.
        decay_steps: updates, >= 1; None with half_life.
        staircase: whether the rate drops once every decay_steps (first at s = decay_steps).
        half_life: updates in which the smooth curve halves, >= 1: the factor is 0.5 ** (s / half_life).
        end_factor: lower bound of the factor, 0 <= end_factor <= 1; None for no bound.
    """

    decay_rate: PositiveFraction | None = None
    decay_steps: Updates | None = None
    staircase: bool = False
    half_life: Updates | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.half_life is None:
            check_number("decay_rate", self.decay_rate, above=0, at_most=1)
            check_integer("decay_steps", self.decay_steps, at_least=1)
            return
        for key in ("decay_rate", "decay_steps"):
            if getattr(self, key) is not None:
                raise InvalidValueError(
                    key, getattr(self, key), "must be null if half_life is given, which determines the same curve"
                )
        if self.staircase:
            raise InvalidValueError(
                "half_life", self.half_life, "is defined for the smooth curve only: staircase must be false"
            )

    def unbounded(self, s: Floats) -> Floats:
        if self.half_life is not None:
            return np.power(np.full_like(s, 0.5), s / self.half_life)
        assert self.decay_rate is not None and self.decay_steps is not None  # noqa: PT018
        exponent = s / self.decay_steps
        return self.decay_rate ** (np.floor(exponent) if self.staircase else exponent)

    @property
    def constant_half_life(self) -> float | None:
        """Return the half-life, decay_steps * ln(1/2) / ln(decay_rate) updates; None with a bound or constant rate."""
        if self.end_factor:
            return None
        if self.half_life is not None:
            return float(self.half_life)
        if self.decay_rate == 1 or self.decay_steps is None or self.decay_rate is None:
            return None
        return self.decay_steps * math.log(0.5) / math.log(self.decay_rate)


@dataclass(frozen=True)
class _Timed(_Bounded):
    """A decay that is a function of decay_rate * s / decay_steps; `staircase` rounds s / decay_steps down."""

    decay_rate: Positive
    decay_steps: Updates
    staircase: bool = False

    def time(self, s: Floats) -> Floats:
        """Return decay_rate * s / decay_steps, with `staircase` decay_rate * floor(s / decay_steps)."""
        intervals = s / self.decay_steps
        return self.decay_rate * (np.floor(intervals) if self.staircase else intervals)


@dataclass(frozen=True)
class NaturalExponential(_Timed, name="natural_exponential"):
    """The factor is exp(-decay_rate * s / decay_steps); `staircase` rounds s / decay_steps down.

    It equals TensorFlow's `natural_exp_decay`.

    Args:
        decay_rate: > 0.
        decay_steps: updates, >= 1.
        staircase: whether the rate drops once every decay_steps (first at s = decay_steps).
        end_factor: lower bound of the factor, 0 <= end_factor <= 1; None for no bound.
    """

    def unbounded(self, s: Floats) -> Floats:
        return np.exp(-self.time(s))

    @property
    def constant_half_life(self) -> float | None:
        """Return decay_steps * ln(2) / decay_rate, in updates; None with a bound."""
        return None if self.end_factor else self.decay_steps * math.log(2) / self.decay_rate


@dataclass(frozen=True)
class InverseTime(_Timed, name="inverse_time"):
    """The factor is 1 / (1 + decay_rate * s / decay_steps); `staircase` rounds s / decay_steps down.

    It equals TensorFlow's `inverse_time_decay`.

    Args:
        decay_rate: > 0.
        decay_steps: updates, >= 1.
        staircase: whether the rate drops once every decay_steps (first at s = decay_steps).
        end_factor: lower bound of the factor, 0 <= end_factor <= 1; None for no bound.
    """

    def unbounded(self, s: Floats) -> Floats:
        return 1 / (1 + self.time(s))
