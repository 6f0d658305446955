"""Defines the one-cycle schedule."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, Updates
from sweep.validation import Number, OneOf


@dataclass(frozen=True)
class OneCycle(Factor, name="one_cycle"):
    """Rises from 1 / div_factor to 1, then falls to 1 / (div_factor * final_div_factor) and keeps that.

    It equals torch's `OneCycleLR` without its momentum cycle. The peak is at s = pct_start * T - 1 (between two steps
    if that is not an integer), and the end is reached at s = T - 1, T = total_steps. It warms up by itself.

    Args:
        total_steps: T, updates, >= 1.
        pct_start: fraction of T in which the rate rises, 0 <= pct_start < 1.
        div_factor: peak divided by the first rate, >= 1.
        final_div_factor: first rate divided by the last one, >= 1.
        anneal: "cosine" or "linear", for the rise and the fall.
    """

    warms_up = True

    total_steps: Updates
    pct_start: Annotated[float, Number(at_least=0, below=1)] = 0.3
    div_factor: Annotated[float, Number(at_least=1)] = 25.0
    final_div_factor: Annotated[float, Number(at_least=1)] = 1e4
    anneal: Annotated[str, OneOf(("cosine", "linear"))] = "cosine"

    @property
    def rises_for(self) -> int:
        return max(math.ceil(self.pct_start * self.total_steps) - 1, 0)

    def factor(self, s: Floats) -> Floats:
        peak, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        start = 1 / self.div_factor
        up = self._between(start, 1.0, s / (peak if peak > 0 else 1.0))
        down = self._between(1.0, start / self.final_div_factor, np.minimum((s - peak) / (end - peak), 1 + 0 * s))
        return np.where(s < peak, up, down)

    def _between(self, begin: float, end: float, x: Floats) -> Floats:
        way = x if self.anneal == "linear" else 0.5 * (1 - np.cos(math.pi * x))
        return begin + (end - begin) * way
