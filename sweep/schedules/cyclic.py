"""Defines the cyclic schedule, which rises and falls between two rates."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, Updates
from sweep.validation import Fraction, OneOf, PositiveFraction


@dataclass(frozen=True)
class Cyclic(Factor, name="cyclic"):
    """Rises linearly from base_factor to 1 in step_size_up updates, falls in step_size_down updates, and repeats.

    It equals torch's `CyclicLR` without its momentum cycle; max_lr is the base rate (1506.01186). The height above
    base_factor is constant (`triangular`), halves with every cycle (`triangular2`), or is multiplied by gamma ** s
    (`exp_range`).

    Args:
        base_factor: smallest factor, 0 <= base_factor <= 1.
        step_size_up, step_size_down: updates, >= 1.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: used by exp_range only, 0 < gamma <= 1.
    """

    warms_up = True

    base_factor: Fraction
    step_size_up: Updates
    step_size_down: Updates
    mode: Annotated[str, OneOf(("triangular", "triangular2", "exp_range"))] = "triangular"
    gamma: PositiveFraction = 1.0

    @property
    def rises_for(self) -> int:
        return self.step_size_up

    def factor(self, s: Floats) -> Floats:
        length = self.step_size_up + self.step_size_down
        cycle = np.floor(s / length)
        into = s - cycle * length
        height = np.minimum(into / self.step_size_up, (length - into) / self.step_size_down)
        if self.mode == "triangular2":
            height = height * 0.5**cycle
        elif self.mode == "exp_range":
            height = height * self.gamma**s
        return self.base_factor + (1 - self.base_factor) * height
