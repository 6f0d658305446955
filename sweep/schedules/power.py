"""A recurrence of the rate: its power."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats
from sweep.validation import Real, real


@dataclass(frozen=True)
class Power(Decay, name="power"):
    """lr(s + 1) = lr(s) ** power, so that lr(s) = lr ** (power ** s).

    An imitation of exponential decay that is defined for a base rate below 1 only.

    Args:
        power: >= 1.
    """

    power: Annotated[float, Real(at_least=1)] = 1.0001

    def rate(self, s: Floats, lr: float) -> Floats:
        exponent = np.minimum(s * np.log(self.power), np.full_like(s, 700.0))  # exp overflows above; the rate is 0
        return np.exp(np.exp(exponent) * np.log(lr))

    def check_rate(self, lr: float) -> None:
        real("lr", lr, below=1)
