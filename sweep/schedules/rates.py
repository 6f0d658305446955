"""Decays that are recurrences of the rate itself, not a factor on it."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import device

from sweep.schedules.decay import Decay
from sweep.validation import real


@dataclass(frozen=True, eq=False)
class Power(Decay):
    """lr(s + 1) = lr(s) ** power, so that lr(s) = lr ** (power ** s).

    An imitation of exponential decay that is defined for a base rate below 1 only.

    Args:
        power: >= 1.
    """

    power: float = 1.0001

    def __post_init__(self) -> None:
        real("power", self.power, at_least=1)

    def rate(self, s: Any, lr: Any, xp: Any) -> Any:
        exponent = xp.minimum(s * xp.log(self.power), xp.full_like(s, 700.0))  # exp overflows above; the rate is 0
        return xp.exp(xp.exp(exponent) * xp.log(lr))

    def check_rate(self, lr: float) -> None:
        real("lr", lr, below=1)


@dataclass(frozen=True, eq=False)
class Sine(Decay):
    """lr(s + 1) = sin(lr(s)): falls ever more slowly, like sqrt(3 / s). The base rate must be below pi."""

    def rate(self, s: Any, lr: Any, xp: Any) -> Any:
        s, lr = xp.broadcast_arrays(s, lr)
        steps, rates = (np.asarray(a.cpu() if hasattr(a, "cpu") else a) for a in (s, lr))
        found = np.empty(steps.shape)
        for base in np.unique(rates):
            own = rates == base
            chosen = steps[own].astype(np.int64)
            found[own] = _sines(float(base), int(chosen.max()).bit_length())[chosen]
        return xp.asarray(found, device=device(s))

    def check_rate(self, lr: float) -> None:
        real("lr", lr, below=math.pi)


@lru_cache(maxsize=8)
def _sines(lr: float, bits: int) -> np.ndarray:
    """The rates of the steps 0 .. 2 ** bits - 1."""
    rates = np.empty(2**bits)
    for step in range(len(rates)):
        rates[step] = lr
        lr = math.sin(lr)
    return rates
