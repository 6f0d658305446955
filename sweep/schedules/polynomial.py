"""Polynomial and linear decay."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import Part, Positive


@dataclass(frozen=True)
class Polynomial(Factor, name="polynomial"):
    """(1 - end_factor) * (1 - u) ** power + end_factor, u = min(s, D) / D, D = decay_steps.

    TensorFlow's `polynomial_decay` with end_learning_rate = end_factor * lr. With `cycle`, D is
    decay_steps * ceil(s / decay_steps), and decay_steps at s = 0: the rate goes up again at each multiple.

    Args:
        decay_steps: updates, >= 1; at s = decay_steps the end is reached.
        power: > 0.
        end_factor: 0 <= end_factor <= 1.
        cycle: whether to start again beyond decay_steps.
    """

    decay_steps: Updates
    power: Positive = 1.0
    end_factor: Part = 0.0
    cycle: bool = False

    def factor(self, s: Floats) -> Floats:
        span = self.decay_steps + np.zeros_like(s)
        if self.cycle:
            span = span * np.maximum(np.ceil(s / span), np.ones_like(s))
        return (1 - self.end_factor) * (1 - progress(s, span)) ** self.power + self.end_factor


@dataclass(frozen=True)
class Linear(Factor, name="linear"):
    """(1 - end_factor) * (1 - u) + end_factor, u = min(s, D) / D, D = decay_steps: `Polynomial` of power 1.

    Args:
        decay_steps: updates, >= 1; at s = decay_steps the end is reached.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: Updates
    end_factor: Part = 0.0

    def factor(self, s: Floats) -> Floats:
        return (1 - self.end_factor) * (1 - progress(s, self.decay_steps)) + self.end_factor
