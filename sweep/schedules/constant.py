"""The constant schedule."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.decay import Factor


@dataclass(frozen=True)
class Constant(Factor):
    """Factor 1 at every step."""

    def factor(self, s: np.ndarray) -> np.ndarray:
        return np.ones_like(s)
