"""Warmup-stable-decay."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, Updates, UpdatesFromZero
from sweep.validation import OneOf, Part, Positive, Whole


@dataclass(frozen=True)
class WarmupStableDecay(Factor, name="wsd"):
    """1 for stable_steps updates, then end_factor + (1 - end_factor) * h(u), u from 0 to 1 in decay_steps updates.

    h(u) is 1 - u (`linear`), (1 + cos(pi u)) / 2 (`cosine`), 1 - sqrt(u) (`sqrt`) or 0.5 ** (u * k) (`exponential`);
    beyond the decay it stays. With t = s - stable_steps >= 0, u = min(1, t / decay_steps) with `count_from` 0 (Hugging
    Face's `get_wsd_schedule`, whose warmup also starts at end_factor) and min(1, (t + 1) / (decay_steps + 1)) with 1
    (torchtitan).

    Args:
        stable_steps: updates at the base rate, counted from the end of warmup, >= 0.
        decay_steps: updates, >= 1.
        shape: "linear", "cosine", "sqrt" or "exponential".
        end_factor: 0 <= end_factor <= 1.
        k: half-lives of the exponential shape, > 0.
        count_from: 0 or 1.
    """

    stable_steps: UpdatesFromZero
    decay_steps: Updates
    shape: Annotated[str, OneOf(("linear", "cosine", "sqrt", "exponential"))] = "linear"
    end_factor: Part = 0.0
    k: Positive = 10.0
    count_from: Annotated[int, Whole(at_least=0, at_most=1)] = 0

    def __post_init__(self) -> None:
        if isinstance(self.stable_steps, int) and self.stable_steps < 0:
            rule = "must be >= 0: what decay_steps and warmup leave of the horizon, unless it is given"
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
