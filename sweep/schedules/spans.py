"""Decays over a given span: polynomial, linear, REX, power of a quarter circle, tanh, inverse square root, Noam."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.schedules.decay import Factor, progress
from sweep.validation import InvalidValueError, boolean, real, whole


@dataclass(frozen=True, eq=False)
class Polynomial(Factor):
    """(1 - end_factor) * (1 - u) ** power + end_factor, u = min(s, D) / D, D = decay_steps.

    TensorFlow's `polynomial_decay` with end_learning_rate = end_factor * lr. With `cycle`, D is
    decay_steps * ceil(s / decay_steps), and decay_steps at s = 0: the rate goes up again at each multiple.

    Args:
        decay_steps: updates, >= 1; at s = decay_steps the end is reached.
        power: > 0.
        end_factor: 0 <= end_factor <= 1.
        cycle: whether to start again beyond decay_steps.
    """

    decay_steps: int
    power: float = 1.0
    end_factor: float = 0.0
    cycle: bool = False

    def __post_init__(self) -> None:
        whole("decay_steps", self.decay_steps, at_least=1)
        real("power", self.power, above=0)
        real("end_factor", self.end_factor, at_least=0, at_most=1)
        boolean("cycle", self.cycle)

    def factor(self, s: Any, xp: Any) -> Any:
        span = self.decay_steps + xp.zeros_like(s)
        if self.cycle:
            span = span * xp.maximum(xp.ceil(s / span), xp.ones_like(s))
        return (1 - self.end_factor) * (1 - progress(s, span, xp)) ** self.power + self.end_factor


@dataclass(frozen=True, eq=False)
class Linear(Factor):
    """(1 - end_factor) * (1 - u) + end_factor, u = min(s, D) / D, D = decay_steps: `Polynomial` of power 1.

    Args:
        decay_steps: updates, >= 1; at s = decay_steps the end is reached.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: int
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        whole("decay_steps", self.decay_steps, at_least=1)
        real("end_factor", self.end_factor, at_least=0, at_most=1)

    def factor(self, s: Any, xp: Any) -> Any:
        return (1 - self.end_factor) * (1 - progress(s, self.decay_steps, xp)) + self.end_factor


@dataclass(frozen=True, eq=False)
class Rex(Factor):
    """(1 - v) / (1 - v * (1 - beta)), v = min(s, D) / D, D = decay_steps.

    Reflected exponential (Chen, Wolfe and Kyrillidis, 2107.04197): with beta 0.5, (1 - v) / (1/2 + (1 - v)/2).

    Args:
        decay_steps: updates, >= 1; at s = decay_steps zero is reached.
        beta: 0 < beta <= 1; 1 is linear, less stays high for longer.
    """

    decay_steps: int
    beta: float = 0.5

    def __post_init__(self) -> None:
        whole("decay_steps", self.decay_steps, at_least=1)
        real("beta", self.beta, above=0, at_most=1)

    def factor(self, s: Any, xp: Any) -> Any:
        v = progress(s, self.decay_steps, xp)
        return (1 - v) / (1 - v * (1 - self.beta))


@dataclass(frozen=True, eq=False)
class PowerSqrt(Factor):
    """sqrt(1 - v^2) ** alpha, v = min(s, D) / D, D = decay_steps (2603.10301): a quarter circle to a power.

    Args:
        decay_steps: updates, >= 1; at s = decay_steps zero is reached.
        alpha: > 0; more falls earlier.
    """

    decay_steps: int
    alpha: float = 1.0

    def __post_init__(self) -> None:
        whole("decay_steps", self.decay_steps, at_least=1)
        real("alpha", self.alpha, above=0)

    def factor(self, s: Any, xp: Any) -> Any:
        v = progress(s, self.decay_steps, xp)
        return xp.sqrt(1 - v * v) ** self.alpha


@dataclass(frozen=True, eq=False)
class Tanh(Factor):
    """end_factor + (1 - end_factor) * (1 - tanh(lb * (1 - v) + ub * v)) / 2, v = min(s, D) / D, D = decay_steps.

    timm's `TanhLRScheduler` (Hsueh et al., 1806.01593). With the default bounds it starts within 1e-6 of 1 and ends
    0.25 % above end_factor.

    Args:
        decay_steps: updates, >= 1.
        lb, ub: where on the tanh it begins and ends, lb < ub.
        end_factor: 0 <= end_factor <= 1.
    """

    decay_steps: int
    lb: float = -7.0
    ub: float = 3.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        whole("decay_steps", self.decay_steps, at_least=1)
        real("lb", self.lb)
        real("ub", self.ub)
        if not np.all(np.asarray(self.lb) < self.ub):
            raise InvalidValueError("lb", self.lb, f"must be below ub, which is {self.ub}")
        real("end_factor", self.end_factor, at_least=0, at_most=1)

    def factor(self, s: Any, xp: Any) -> Any:
        v = progress(s, self.decay_steps, xp)
        fallen = xp.tanh(self.lb * (1 - v) + self.ub * v)
        return self.end_factor + (1 - self.end_factor) * 0.5 * (1 - fallen)


@dataclass(frozen=True, eq=False)
class InverseSqrt(Factor):
    """sqrt(timescale / (s + timescale)), s counted from the end of warmup.

    Equal to Hugging Face's `get_inverse_sqrt_schedule` with the timescale at its default, the length of warmup.

    Args:
        timescale: updates, >= 1; at s = 3 * timescale the rate has halved.
    """

    timescale: int

    def __post_init__(self) -> None:
        whole("timescale", self.timescale, at_least=1)

    def factor(self, s: Any, xp: Any) -> Any:
        return xp.sqrt(self.timescale / (s + self.timescale))


@dataclass(frozen=True, eq=False)
class Noam(Factor):
    """sqrt(N) * min((s + 1) ** -0.5, (s + 1) * N ** -1.5), N = noam_steps.

    "Attention is all you need" (1706.03762), scaled to its peak: 1 at s = N - 1. It warms up by itself.

    Args:
        noam_steps: updates, >= 1.
    """

    noam_steps: int

    def __post_init__(self) -> None:
        whole("noam_steps", self.noam_steps, at_least=1)

    @property
    def rises_for(self) -> int:
        return self.noam_steps - 1

    def factor(self, s: Any, xp: Any) -> Any:
        count, n = s + 1, self.noam_steps
        return xp.minimum(xp.sqrt(n / count), count / n)
