"""Warmups: what the first updates use instead of the decay.

The factor on the base rate is f0 + (1 - f0) * shape(s / W) for the steps s < W, W = `steps`,
f0 = `start_factor`; each warmup is its shape.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from sweep.validation import InvalidValueError, boolean, one_of, real, whole


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

    steps: int
    start_factor: float = 0.0
    counting: str = "prefix"
    inclusive: bool = False

    def __post_init__(self) -> None:
        whole("steps", self.steps, at_least=0)
        real("start_factor", self.start_factor, at_least=0, at_most=1)
        one_of("counting", self.counting, ("prefix", "overlap"))
        boolean("inclusive", self.inclusive)

    @abstractmethod
    def shape(self, x: Any, xp: Any) -> Any:
        """How far the factor has risen at x = s / W, 0 <= x <= 1: 0 at the start, 1 when done."""

    def replaces(self, s: Any) -> Any:
        """Which of the steps s use the warmup's factor."""
        return s <= self.steps if self.inclusive else s < self.steps

    def factor(self, s: Any, xp: Any) -> Any:
        """The factor on the base rate at the steps s (float64, any shape); it stays at its end from s = W on."""
        x = xp.minimum(s / self.steps, xp.ones_like(s))
        return self.start_factor + (1 - self.start_factor) * self.shape(x, xp)


@dataclass(frozen=True)
class ConstantWarmup(Warmup):
    """Holds start_factor and jumps to 1 at s = W (at W + 1 if inclusive)."""

    def shape(self, x: Any, xp: Any) -> Any:
        return xp.zeros_like(x)


@dataclass(frozen=True)
class LinearWarmup(Warmup):
    """Rises in equal steps: gradual warmup (Goyal et al., 1706.02677)."""

    def shape(self, x: Any, xp: Any) -> Any:
        return x


@dataclass(frozen=True)
class NoWarmup(LinearWarmup):
    """No warmup: no steps."""

    steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps != 0:
            raise InvalidValueError("steps", self.steps, "there are none without a warmup")


WARMUPS: dict[str, type[Warmup]] = {"none": NoWarmup, "constant": ConstantWarmup, "linear": LinearWarmup}
