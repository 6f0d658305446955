"""One cycle: up, then down."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, Updates
from sweep.validation import OneOf, Real


@dataclass(frozen=True)
class OneCycle(Factor, name="one_cycle"):
    """Up from 1 / div_factor to 1, then down to 1 / (div_factor * final_div_factor), which it keeps.

    torch's `OneCycleLR` without its momentum cycle, total_steps being T: 1 is reached at s = pct_start * T - 1 (between
    two steps where that is no whole number) and the end at s = T - 1. It warms up by itself.

    Args:
        total_steps: T, updates, >= 1.
        pct_start: part of T that goes up, 0 <= pct_start < 1.
        div_factor: >= 1.
        final_div_factor: >= 1.
        anneal: "cosine" or "linear", both ways.
    """

    warms_up = True

    total_steps: Updates
    pct_start: Annotated[float, Real(at_least=0, below=1)] = 0.3
    div_factor: Annotated[float, Real(at_least=1)] = 25.0
    final_div_factor: Annotated[float, Real(at_least=1)] = 1e4
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
