"""timm's hyperbolic tangent decay."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import Part, Real


@dataclass(frozen=True)
class Tanh(Factor, name="tanh"):
    """end_factor + (1 - end_factor) * (1 - tanh(lb * (1 - v) + ub * v)) / 2, v = min(s, D) / D, D = decay_steps.

    timm's `TanhLRScheduler` (Hsueh et al., 1806.01593). With the default bounds it starts within 1e-6 of 1 and ends
    0.25 % above end_factor.

    Args:
        decay_steps: updates, >= 1.
        lb, ub: where on the tanh it begins and ends, lb < ub.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: Updates
    lb: Annotated[float, Real()] = -7.0
    ub: Annotated[float, Real()] = 3.0
    end_factor: Part = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lb < self.ub:
            raise InvalidValueError("lb", self.lb, f"must be below ub, which is {self.ub}")

    def factor(self, s: Floats) -> Floats:
        v = progress(s, self.decay_steps)
        fallen = np.tanh(self.lb * (1 - v) + self.ub * v)
        return self.end_factor + (1 - self.end_factor) * 0.5 * (1 - fallen)
