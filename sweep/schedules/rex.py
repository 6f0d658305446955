"""REX, the reflected exponential."""

from dataclasses import dataclass

from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import PositivePart


@dataclass(frozen=True)
class Rex(Factor, name="rex"):
    """(1 - v) / (1 - v * (1 - beta)), v = min(s, D) / D, D = decay_steps.

    Reflected exponential (Chen, Wolfe and Kyrillidis, 2107.04197): with beta 0.5, (1 - v) / (1/2 + (1 - v)/2).

    Args:
        decay_steps: updates, >= 1; at s = decay_steps zero is reached.
        beta: 0 < beta <= 1; 1 is linear, less stays high for longer.
    """

    decay_steps: Updates
    beta: PositivePart = 0.5

    def factor(self, s: Floats) -> Floats:
        v = progress(s, self.decay_steps)
        return (1 - v) / (1 - v * (1 - self.beta))
