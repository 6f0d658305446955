"""A power of a quarter circle."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import Positive


@dataclass(frozen=True)
class PowerSqrt(Factor, name="power_sqrt"):
    """sqrt(1 - v^2) ** alpha, v = min(s, D) / D, D = decay_steps (2603.10301): a quarter circle to a power.

    Args:
        decay_steps: updates, >= 1; at s = decay_steps zero is reached.
        alpha: > 0; more falls earlier.
    """

    decay_steps: Updates
    alpha: Positive = 1.0

    def factor(self, s: Floats) -> Floats:
        v = progress(s, self.decay_steps)
        return np.sqrt(1 - v * v) ** self.alpha
