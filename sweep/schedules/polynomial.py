"""Defines polynomial and linear decay."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import Fraction, Positive


@dataclass(frozen=True)
class Polynomial(Factor, name="polynomial"):
    """The factor is (1 - end_factor) * (1 - u) ** power + end_factor, u = min(s, D) / D, D = decay_steps.

    It equals TensorFlow's `polynomial_decay` with end_learning_rate = end_factor * lr. With `cycle`, D is
    decay_steps * ceil(s / decay_steps), and decay_steps at s = 0: the rate rises again after each multiple.

    Args:
        decay_steps: updates until end_factor is reached, >= 1.
        power: exponent, > 0.
        end_factor: 0 <= end_factor <= 1.
        cycle: whether to extend the decay beyond decay_steps as above; if not, the factor stays at end_factor.
    """

    decay_steps: Updates
    power: Positive = 1.0
    end_factor: Fraction = 0.0
    cycle: bool = False

    def factor(self, s: Floats) -> Floats:
        span = self.decay_steps + np.zeros_like(s)
        if self.cycle:
            span = span * np.maximum(np.ceil(s / span), np.ones_like(s))
        return (1 - self.end_factor) * (1 - progress(s, span)) ** self.power + self.end_factor


@dataclass(frozen=True)
class Linear(Factor, name="linear"):
    """The factor is (1 - end_factor) * (1 - u) + end_factor, u = min(s, D) / D, D = decay_steps.

    Args:
        decay_steps: updates until end_factor is reached, >= 1.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: Updates
    end_factor: Fraction = 0.0

    def factor(self, s: Floats) -> Floats:
        return (1 - self.end_factor) * (1 - progress(s, self.decay_steps)) + self.end_factor
