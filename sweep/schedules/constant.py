"""Defines the constant schedule."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats


@dataclass(frozen=True)
class Constant(Factor, name="constant"):
    """Keeps the base rate: the factor is 1 at every step."""

    def factor(self, s: Floats) -> Floats:
        return np.ones_like(s)
