"""Cycles between two rates."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, Updates
from sweep.validation import OneOf, Part, PositivePart


@dataclass(frozen=True)
class Cyclic(Factor, name="cyclic"):
    """Straight up from base_factor to 1 in step_size_up updates, down in step_size_down, and again.

    torch's `CyclicLR` without its momentum cycle, max_lr being the base rate (1506.01186). The height above base_factor
    is whole (`triangular`), halves with every cycle (`triangular2`), or is multiplied by gamma ** s (`exp_range`).

    Args:
        base_factor: 0 <= base_factor <= 1.
        step_size_up, step_size_down: updates, >= 1.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: of exp_range, 0 < gamma <= 1.
    """

    warms_up = True

    base_factor: Part
    step_size_up: Updates
    step_size_down: Updates
    mode: Annotated[str, OneOf(("triangular", "triangular2", "exp_range"))] = "triangular"
    gamma: PositivePart = 1.0

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
