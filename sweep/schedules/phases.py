"""Decays in phases: warmup-stable-decay, one cycle, cycles."""

import math
from dataclasses import dataclass
from typing import Any

from sweep.schedules.decay import Factor
from sweep.validation import InvalidValueError, one_of, real, whole


@dataclass(frozen=True, eq=False)
class WarmupStableDecay(Factor):
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

    stable_steps: int
    decay_steps: int
    shape: str = "linear"
    end_factor: float = 0.0
    k: float = 10.0
    count_from: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.stable_steps, int) and self.stable_steps < 0:
            rule = "must be >= 0: what decay_steps and warmup leave of the horizon, unless it is given"
            raise InvalidValueError("stable_steps", self.stable_steps, rule)
        whole("stable_steps", self.stable_steps, at_least=0)
        whole("decay_steps", self.decay_steps, at_least=1)
        one_of("shape", self.shape, ("linear", "cosine", "sqrt", "exponential"))
        real("end_factor", self.end_factor, at_least=0, at_most=1)
        real("k", self.k, above=0)
        whole("count_from", self.count_from, at_least=0, at_most=1)

    def factor(self, s: Any, xp: Any) -> Any:
        decayed = xp.maximum(s - self.stable_steps, xp.zeros_like(s)) + self.count_from
        u = xp.minimum(decayed / (self.decay_steps + self.count_from), xp.ones_like(s))
        return xp.where(s < self.stable_steps, 1.0, self.end_factor + (1 - self.end_factor) * self._shape(u, xp))

    def _shape(self, u: Any, xp: Any) -> Any:
        if self.shape == "linear":
            return 1 - u
        if self.shape == "cosine":
            return 0.5 * (1 + xp.cos(math.pi * u))
        if self.shape == "sqrt":
            return 1 - xp.sqrt(u)
        return xp.exp(-math.log(2) * u * self.k)


@dataclass(frozen=True, eq=False)
class OneCycle(Factor):
    """Up from 1 / div_factor to 1, then down to 1 / (div_factor * final_div_factor), which it keeps.

    torch's `OneCycleLR` without its momentum cycle, total_steps being T: 1 is reached at s = pct_start * T - 1 (between
    two steps where that is no whole number) and the end at s = T - 1. It warms up by itself.

    Args:
        total_steps: T, updates, >= 1.
        pct_start: part of T that goes up, 0 <= pct_start < 1.
        div_factor: >= 1.
        final_div_factor: >= 1.
        anneal: "cosine" or "linear", both ways.
    """

    total_steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal: str = "cosine"

    def __post_init__(self) -> None:
        whole("total_steps", self.total_steps, at_least=1)
        real("pct_start", self.pct_start, at_least=0, below=1)
        real("div_factor", self.div_factor, at_least=1)
        real("final_div_factor", self.final_div_factor, at_least=1)
        one_of("anneal", self.anneal, ("cosine", "linear"))

    @property
    def rises_for(self) -> int:
        return max(math.ceil(self.pct_start * self.total_steps) - 1, 0)

    def factor(self, s: Any, xp: Any) -> Any:
        peak, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        start = 1 / self.div_factor
        up = self._between(start, 1.0, s / xp.where(peak > 0, peak, 1.0), xp)
        down = self._between(1.0, start / self.final_div_factor, xp.minimum((s - peak) / (end - peak), 1 + 0 * s), xp)
        return xp.where(s < peak, up, down)

    def _between(self, begin: Any, end: Any, x: Any, xp: Any) -> Any:
        way = x if self.anneal == "linear" else 0.5 * (1 - xp.cos(math.pi * x))
        return begin + (end - begin) * way


@dataclass(frozen=True, eq=False)
class Cyclic(Factor):
    """Straight up from base_factor to 1 in step_size_up updates, down in step_size_down, and again.

    torch's `CyclicLR` without its momentum cycle, max_lr being the base rate (1506.01186). The height above base_factor
    is whole (`triangular`), halves with every cycle (`triangular2`), or is multiplied by gamma ** s (`exp_range`).

    Args:
        base_factor: 0 <= base_factor <= 1.
        step_size_up, step_size_down: updates, >= 1.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: of exp_range, 0 < gamma <= 1.
    """

    base_factor: float
    step_size_up: int
    step_size_down: int
    mode: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        real("base_factor", self.base_factor, at_least=0, at_most=1)
        whole("step_size_up", self.step_size_up, at_least=1)
        whole("step_size_down", self.step_size_down, at_least=1)
        one_of("mode", self.mode, ("triangular", "triangular2", "exp_range"))
        real("gamma", self.gamma, above=0, at_most=1)

    @property
    def rises_for(self) -> int:
        return self.step_size_up

    def factor(self, s: Any, xp: Any) -> Any:
        length = self.step_size_up + self.step_size_down
        cycle = xp.floor(s / length)
        into = s - cycle * length
        height = xp.minimum(into / self.step_size_up, (length - into) / self.step_size_down)
        if self.mode == "triangular2":
            height = height * 0.5**cycle
        elif self.mode == "exp_range":
            height = height * self.gamma**s
        return self.base_factor + (1 - self.base_factor) * height
