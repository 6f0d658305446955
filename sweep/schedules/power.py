"""Defines the schedule that raises the rate to a power with each update."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats
from sweep.validation import Number, check_number


@dataclass(frozen=True)
class Power(Decay, name="power"):
    """The rate is lr(s) = lr ** (power ** s), so that lr(s + 1) = lr(s) ** power.

    It resembles exponential decay, and is defined for base rates below 1 only.

    Args:
        power: exponent of each update, >= 1.
    """

    power: Annotated[float, Number(at_least=1)] = 1.0001

    def rate(self, s: Floats, lr: float) -> Floats:
        exponent = np.minimum(s * np.log(self.power), np.full_like(s, 700.0))  # exp overflows above; the rate is 0
        return np.exp(np.exp(exponent) * np.log(lr))

    def check_rate(self, lr: float) -> None:
        check_number("lr", lr, below=1)
