"""A recurrence of the rate: its sine."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats
from sweep.validation import real


@dataclass(frozen=True)
class Sine(Decay, name="sine"):
    """lr(s + 1) = sin(lr(s)): falls ever more slowly, like sqrt(3 / s). The base rate must be below pi."""

    def rate(self, s: Floats, lr: float) -> Floats:
        steps = s.astype(np.int64)
        return _sines(float(lr), int(steps.max()).bit_length())[steps]

    def check_rate(self, lr: float) -> None:
        real("lr", lr, below=math.pi)


@lru_cache(maxsize=8)
def _sines(lr: float, bits: int) -> Floats:
    """Return the rates of the steps 0 .. 2 ** bits - 1."""
    rates = np.empty(2**bits)
    for step in range(len(rates)):
        rates[step] = lr
        lr = math.sin(lr)
    return rates
