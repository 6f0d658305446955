"""Defines REX, the reflected exponential decay."""

from dataclasses import dataclass

from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import PositiveFraction


@dataclass(frozen=True)
class Rex(Factor, name="rex"):
    """The factor is (1 - v) / (1 - v * (1 - beta)), v = min(s, D) / D, D = decay_steps.

    It is the reflected exponential of Chen, Wolfe and Kyrillidis (2107.04197), which have beta = 0.5.

    Args:
        decay_steps: updates until 0 is reached, >= 1.
        beta: 0 < beta <= 1; 1 is linear decay, and with a smaller one the factor stays high for longer.
    """

    decay_steps: Updates
    beta: PositiveFraction = 0.5

    def factor(self, s: Floats) -> Floats:
        v = progress(s, self.decay_steps)
        return (1 - v) / (1 - v * (1 - self.beta))
