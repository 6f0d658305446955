"""Defines inverse square root decay and the Noam schedule."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, Updates


@dataclass(frozen=True)
class InverseSqrt(Factor, name="inverse_sqrt"):
    """The factor is sqrt(timescale / (s + timescale)), s counted from the end of warmup.

    With the default timescale, the length of the warmup, it equals Hugging Face's `get_inverse_sqrt_schedule`.

    Args:
        timescale: updates, >= 1; at s = 3 * timescale the factor is 1/2.
    """

    timescale: Updates

    def factor(self, s: Floats) -> Floats:
        return np.sqrt(self.timescale / (s + self.timescale))


@dataclass(frozen=True)
class Noam(Factor, name="noam"):
    """The factor is sqrt(N) * min((s + 1) ** -0.5, (s + 1) * N ** -1.5), N = noam_steps.

    It is the schedule of "Attention is all you need" (1706.03762) divided by its peak: the factor is 1 at s = N - 1. It
    warms up by itself.

    Args:
        noam_steps: updates of its warmup, >= 1.
    """

    warms_up = True

    noam_steps: Updates

    @property
    def rises_for(self) -> int:
        return self.noam_steps - 1

    def factor(self, s: Floats) -> Floats:
        count, n = s + 1, self.noam_steps
        return np.minimum(np.sqrt(n / count), count / n)
