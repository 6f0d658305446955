"""Warmups: what the first updates use instead of the decay.

The factor on the base rate is f0 + (1 - f0) * shape(s / W) for the steps s < W, W = `steps`,
f0 = `start_factor`; each warmup is its shape.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from sweep.errors import InvalidValueError
from sweep.schedules.family import Floats, UpdatesFromZero
from sweep.validation import OneOf, Part, Positive, check_keys

Counting = Annotated[str, OneOf(("prefix", "overlap"))]

FAMILIES: dict[str, type["Warmup"]] = {}
"""The warmups by their names in conf/warmup: each registers itself."""


@dataclass(frozen=True)
class Warmup(ABC):
    """A warmup of `steps` updates.

    Args:
        steps: W, updates, >= 0; 0 is no warmup.
        start_factor: f0, the factor at step 0, 0 <= f0 <= 1.
        counting: "prefix": the decay counts from step W (optax, Hugging Face). "overlap": the decay counts
            from step 0 and warmup replaces its first W values (BERT's create_optimizer).
        inclusive: whether the warmup formula holds at s = W too.
    """

    steps: UpdatesFromZero
    start_factor: Part = 0.0
    counting: Counting = "prefix"
    inclusive: bool = False

    def __init_subclass__(cls, name: str | None = None, **options: Any) -> None:
        """Register a warmup under its name in conf/warmup; one without a name cannot be chosen."""
        super().__init_subclass__(**options)
        if name is not None:
            FAMILIES[name] = cls

    def __post_init__(self) -> None:
        check_keys(self)

    @abstractmethod
    def shape(self, x: Floats) -> Floats:
        """How far the factor has risen at x = s / W, 0 <= x <= 1: 0 at the start, 1 when done."""

    def replaces(self, s: Floats) -> NDArray[np.bool_]:
        """Which of the steps s use the warmup's factor."""
        return (s < self.steps) | ((s == self.steps) & (self.steps > 0)) if self.inclusive else s < self.steps

    def factor(self, s: Floats) -> Floats:
        """The factor on the base rate at the steps s (float64, any shape); it stays at its end from s = W on."""
        steps = np.maximum(self.steps, np.ones_like(s))  # no step uses a warmup of none
        x = np.minimum(s / steps, np.ones_like(s))
        return self.start_factor + (1 - self.start_factor) * self.shape(x)


@dataclass(frozen=True)
class ConstantWarmup(Warmup, name="constant"):
    """Holds start_factor and jumps to 1 at s = W (at W + 1 if inclusive)."""

    def shape(self, x: Floats) -> Floats:
        return np.zeros_like(x)


@dataclass(frozen=True)
class LinearWarmup(Warmup, name="linear"):
    """Rises in equal steps, shape x: gradual warmup (Goyal et al., 1706.02677)."""

    def shape(self, x: Floats) -> Floats:
        return x


@dataclass(frozen=True)
class PolynomialWarmup(Warmup, name="polynomial"):
    """Shape x ** power.

    Args:
        power: > 0; above 1 it rises late, below 1 early.
    """

    power: Positive = 2.0

    def shape(self, x: Floats) -> Floats:
        return x**self.power


@dataclass(frozen=True)
class CosineWarmup(Warmup, name="cosine"):
    """Shape (1 - cos(pi x)) / 2: leaves and arrives level."""

    def shape(self, x: Floats) -> Floats:
        return 0.5 * (1 - np.cos(math.pi * x))


@dataclass(frozen=True)
class ExponentialWarmup(Warmup, name="exponential"):
    """Shape (1 - exp(-k x)) / (1 - exp(-k)): rises fast, arrives slowly.

    Args:
        k: time constants in the warmup, > 0.
    """

    k: Positive = 5.0

    def shape(self, x: Floats) -> Floats:
        return np.expm1(-self.k * x) / np.expm1(-self.k)


@dataclass(frozen=True)
class SqrtWarmup(Warmup, name="sqrt"):
    """Shape 1 - sqrt(1 - x): rises ever faster."""

    def shape(self, x: Floats) -> Floats:
        return 1 - np.sqrt(1 - x)


@dataclass(frozen=True)
class NoWarmup(LinearWarmup, name="none"):
    """No warmup: no steps."""

    steps: UpdatesFromZero = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps != 0:
            raise InvalidValueError("steps", self.steps, "there are none without a warmup")
