"""Defines the power-of-square-root decay."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import Positive


@dataclass(frozen=True)
class PowerSqrt(Factor, name="power_sqrt"):
    """The factor is sqrt(1 - v^2) ** alpha, v = min(s, D) / D, D = decay_steps (2603.10301).

    Args:
        decay_steps: updates until 0 is reached, >= 1.
        alpha: exponent, > 0; with a larger one the factor falls earlier.
    """

    decay_steps: Updates
    alpha: Positive = 1.0

    def factor(self, s: Floats) -> Floats:
        v = progress(s, self.decay_steps)
        return np.sqrt(1 - v * v) ** self.alpha
