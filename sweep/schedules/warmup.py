"""Defines the warmups, which replace the decay during the first updates.

The factor on the base rate is f0 + (1 - f0) * shape(s / W) at the steps s < W, W = `steps`, f0 = `start_factor`. Each
warmup has its own shape.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from sweep.errors import InvalidValueError
from sweep.schedules.family import Floats, UpdatesFromZero
from sweep.validation import Fraction, OneOf, Positive, check_keys

Counting = Annotated[str, OneOf(("prefix", "overlap"))]

REGISTERED_WARMUPS: dict[str, type["Warmup"]] = {}
"""Maps the names in conf/warmup to the warmups, each of which registers itself."""


@dataclass(frozen=True)
class Warmup(ABC):
    """A warmup of `steps` updates.

    Args:
        steps: W, updates, >= 0; 0 for no warmup.
        start_factor: f0, the factor at step 0, 0 <= f0 <= 1.
        counting: "prefix" if the decay counts from step W (optax, Hugging Face), "overlap" if it counts from step 0 and
            warmup replaces its first W values (BERT's create_optimizer).
        inclusive: whether the warmup also determines the rate at s = W.
    """

    steps: UpdatesFromZero
    start_factor: Fraction = 0.0
    counting: Counting = "prefix"
    inclusive: bool = False

    def __init_subclass__(cls, name: str | None = None, **options: Any) -> None:
        """Register a warmup under its name in conf/warmup; one without a name cannot be chosen."""
        super().__init_subclass__(**options)
        if name is not None:
            REGISTERED_WARMUPS[name] = cls

    def __post_init__(self) -> None:
        check_keys(self)

    @abstractmethod
    def shape(self, x: Floats) -> Floats:
        """Return the shape at x = s / W, 0 <= x <= 1: from 0 at x = 0 to 1 at x = 1, except for a constant warmup."""

    def replaces(self, s: Floats) -> NDArray[np.bool_]:
        """Return a mask of the steps s at which the warmup determines the rate."""
        return (s < self.steps) | ((s == self.steps) & (self.steps > 0)) if self.inclusive else s < self.steps

    def factor(self, s: Floats) -> Floats:
        """Return the factor at the steps s (float64, any shape); from s = W on it is constant."""
        steps = np.maximum(self.steps, np.ones_like(s))  # avoids 0 / 0; no step uses the result
        x = np.minimum(s / steps, np.ones_like(s))
        return self.start_factor + (1 - self.start_factor) * self.shape(x)


@dataclass(frozen=True)
class ConstantWarmup(Warmup, name="constant"):
    """Keeps the factor start_factor; at s = W (W + 1 if inclusive) it becomes 1."""

    def shape(self, x: Floats) -> Floats:
        return np.zeros_like(x)


@dataclass(frozen=True)
class LinearWarmup(Warmup, name="linear"):
    """Rises linearly, with the shape x: the gradual warmup of Goyal et al. (1706.02677)."""

    def shape(self, x: Floats) -> Floats:
        return x


@dataclass(frozen=True)
class PolynomialWarmup(Warmup, name="polynomial"):
    """Rises with the shape x ** power.

    Args:
        power: exponent, > 0; above 1 the factor rises late, below 1 early.
    """

    power: Positive = 2.0

    def shape(self, x: Floats) -> Floats:
        return x**self.power


@dataclass(frozen=True)
class CosineWarmup(Warmup, name="cosine"):
    """Rises with the shape (1 - cos(pi x)) / 2, whose slope is 0 at both ends."""

    def shape(self, x: Floats) -> Floats:
        return 0.5 * (1 - np.cos(math.pi * x))


@dataclass(frozen=True)
class ExponentialWarmup(Warmup, name="exponential"):
    """Rises with the shape (1 - exp(-k x)) / (1 - exp(-k)), fast at first and then slowly.

    Args:
        k: number of time constants in the warmup, > 0.
    """

    k: Positive = 5.0

    def shape(self, x: Floats) -> Floats:
        return np.expm1(-self.k * x) / np.expm1(-self.k)


@dataclass(frozen=True)
class SqrtWarmup(Warmup, name="sqrt"):
    """Rises with the shape 1 - sqrt(1 - x), slowly at first and then fast."""

    def shape(self, x: Floats) -> Floats:
        return 1 - np.sqrt(1 - x)


@dataclass(frozen=True)
class NoWarmup(LinearWarmup, name="none"):
    """A warmup of no updates."""

    steps: UpdatesFromZero = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps != 0:
            raise InvalidValueError("steps", self.steps, "must be 0 with warmup=none")
