"""timm's hyperbolic tangent decay."""

from dataclasses import dataclass

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import real, whole


@dataclass(frozen=True)
class Tanh(Factor):
    """end_factor + (1 - end_factor) * (1 - tanh(lb * (1 - v) + ub * v)) / 2, v = min(s, D) / D, D = decay_steps.

    timm's `TanhLRScheduler` (Hsueh et al., 1806.01593). With the default bounds it starts within 1e-6 of 1 and ends
    0.25 % above end_factor.

    Args:
        decay_steps: updates, >= 1.
        lb, ub: where on the tanh it begins and ends, lb < ub.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: Updates
    lb: float = -7.0
    ub: float = 3.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        whole("decay_steps", self.decay_steps, at_least=1)
        real("lb", self.lb)
        real("ub", self.ub)
        if not self.lb < self.ub:
            raise InvalidValueError("lb", self.lb, f"must be below ub, which is {self.ub}")
        real("end_factor", self.end_factor, at_least=0, at_most=1)

    def factor(self, s: Floats) -> Floats:
        v = progress(s, self.decay_steps)
        fallen = np.tanh(self.lb * (1 - v) + self.ub * v)
        return self.end_factor + (1 - self.end_factor) * 0.5 * (1 - fallen)
