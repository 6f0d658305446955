"""Defines the schedule that replaces the rate by its sine with each update."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats
from sweep.validation import check_number


@dataclass(frozen=True)
class Sine(Decay, name="sine"):
    """The rate is lr(s + 1) = sin(lr(s)), which approaches sqrt(3 / s). The base rate must be below pi."""

    def rate(self, s: Floats, lr: float) -> Floats:
        steps = s.astype(np.int64)
        return _sines(float(lr), int(steps.max()).bit_length())[steps]

    def check_rate(self, lr: float) -> None:
        check_number("lr", lr, below=math.pi)


@lru_cache(maxsize=8)
def _sines(lr: float, bits: int) -> Floats:
    """Return the rates of the steps 0..2**bits-1."""
    rates = np.empty(2**bits)
    for step in range(len(rates)):
        rates[step] = lr
        lr = math.sin(lr)
    return rates
