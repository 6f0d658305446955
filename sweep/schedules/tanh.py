"""Defines timm's hyperbolic tangent decay."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor, progress
from sweep.schedules.family import Floats, Updates
from sweep.validation import Fraction, Number


@dataclass(frozen=True)
class Tanh(Factor, name="tanh"):
    """The factor is end_factor + (1 - end_factor) * (1 - tanh(lb * (1 - v) + ub * v)) / 2, v = min(s, D) / D.

    D is decay_steps. It equals timm's `TanhLRScheduler` (Hsueh et al., 1806.01593). With the default bounds the first
    factor is within 1e-6 of 1, and the last one is end_factor + 0.0025 * (1 - end_factor).

    Args:
        decay_steps: updates until the end is reached, >= 1.
        lb, ub: first and last argument of the tanh, lb < ub.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: Updates
    lb: Annotated[float, Number()] = -7.0
    ub: Annotated[float, Number()] = 3.0
    end_factor: Fraction = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lb < self.ub:
            raise InvalidValueError("lb", self.lb, f"must be below ub, which is {self.ub}")

    def factor(self, s: Floats) -> Floats:
        v = progress(s, self.decay_steps)
        fallen = np.tanh(self.lb * (1 - v) + self.ub * v)
        return self.end_factor + (1 - self.end_factor) * 0.5 * (1 - fallen)
