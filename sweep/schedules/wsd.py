"""Defines the warmup-stable-decay schedule."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, Updates, UpdatesFromZero
from sweep.validation import Fraction, Integer, OneOf, Positive


@dataclass(frozen=True)
class WarmupStableDecay(Factor, name="wsd"):
    """The factor is 1 for stable_steps updates, then end_factor + (1 - end_factor) * h(u).

    h(u) is 1 - u (`linear`), (1 + cos(pi u)) / 2 (`cosine`), 1 - sqrt(u) (`sqrt`) or 0.5 ** (u * k) (`exponential`).
    With t = s - stable_steps, u is min(1, t / decay_steps) if `count_from` is 0 (Hugging Face's `get_wsd_schedule`,
    whose warmup also starts at end_factor), and min(1, (t + 1) / (decay_steps + 1)) if it is 1 (torchtitan).

    Args:
        stable_steps: updates at the base rate, counted from the end of warmup, >= 0.
        decay_steps: updates of the decay, >= 1.
        shape: "linear", "cosine", "sqrt" or "exponential".
        end_factor: factor after the decay, 0 <= end_factor <= 1.
        k: number of half-lives of the exponential shape, > 0.
        count_from: 0 or 1, as above.
    """

    stable_steps: UpdatesFromZero
    decay_steps: Updates
    shape: Annotated[str, OneOf(("linear", "cosine", "sqrt", "exponential"))] = "linear"
    end_factor: Fraction = 0.0
    k: Positive = 10.0
    count_from: Annotated[int, Integer(at_least=0, at_most=1)] = 0

    def __post_init__(self) -> None:
        if isinstance(self.stable_steps, int) and self.stable_steps < 0:
            rule = "must be >= 0; the default is the horizon minus warmup.steps and decay_steps"
            raise InvalidValueError("stable_steps", self.stable_steps, rule)
        super().__post_init__()

    def factor(self, s: Floats) -> Floats:
        decayed = np.maximum(s - self.stable_steps, np.zeros_like(s)) + self.count_from
        u = np.minimum(decayed / (self.decay_steps + self.count_from), np.ones_like(s))
        return np.where(s < self.stable_steps, 1.0, self.end_factor + (1 - self.end_factor) * self._shape(u))

    def _shape(self, u: Floats) -> Floats:
        if self.shape == "linear":
            return 1 - u
        if self.shape == "cosine":
            return 0.5 * (1 + np.cos(math.pi * u))
        if self.shape == "sqrt":
            return 1 - np.sqrt(u)
        return np.exp(-math.log(2) * u * self.k)
