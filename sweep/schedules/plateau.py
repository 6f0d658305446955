"""Defines the schedule that reduces the rate when a metric no longer improves."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats
from sweep.schedules.reaction import Memory, Reaction
from sweep.validation import Integer, NonNegative, Number, OneOf, Text, check_integer

METRIC = Text(r"val_[A-Za-z]\w*", "must be val_loss, val_accuracy or another metric of the task, val_<name>")


@dataclass(frozen=True)
class Plateau(Decay, Reaction, name="plateau"):
    """Multiplies the rate by `factor` when the watched metric has not improved for `patience` evaluations.

    It equals torch's `ReduceLROnPlateau`, or optax's `reduce_on_plateau`. An evaluation improves on the best value if
    it is below best * (1 - threshold), or below best - threshold with threshold_mode "abs". For a metric that is
    maximized, such as val_accuracy, it must be above best * (1 + threshold) or best + threshold. Evaluations during
    warmup are ignored.

    Args:
        factor: factor of each cut, 0 < factor < 1.
        patience: evaluations, >= 0 (>= 1 with `cut: optax`).
        threshold: smallest improvement that counts, >= 0.
        cooldown: evaluations after a cut that do not count as evaluations without improvement, >= 0.
        min_lr: lower bound of the rate, >= 0.
        cut: "torch" cuts at evaluation number patience + 1 without improvement, "optax" at number patience.
        metric: "val_loss", "val_accuracy" or another metric of the task, "val_<name>".
        eps: a cut that lowers the rate by no more than this is skipped, >= 0 (as in torch; optax has no eps).
        threshold_mode: "rel" if threshold is relative to the best value, "abs" if it is a difference of the metric.
        direction: "minimize" or "maximize"; None for the direction that the metric declares.
    """

    factor: Annotated[float, Number(above=0, below=1)] = 0.1
    patience: Annotated[int, Integer(at_least=0)] = 10
    threshold: NonNegative = 1e-4
    cooldown: Annotated[int, Integer(at_least=0)] = 0
    min_lr: NonNegative = 0.0
    cut: Annotated[str, OneOf(("torch", "optax"))] = "torch"
    metric: Annotated[str, METRIC] = "val_loss"
    eps: NonNegative = 1e-8
    threshold_mode: Annotated[str, OneOf(("rel", "abs"))] = "rel"
    direction: Annotated[str, OneOf(("minimize", "maximize"))] | None = None

    name = "plateau"
    condition = "metric"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cut == "optax":
            check_integer("patience", self.patience, at_least=1)

    @property
    def watches(self) -> str:
        return self.metric

    @property
    def maximizes(self) -> bool:
        """Return whether a larger value of the metric is better."""
        if self.direction is None:
            return self.metric.removesuffix("_ema") == "val_accuracy"
        return self.direction == "maximize"

    @property
    def evaluations_needed(self) -> int:
        """Return the number of the first evaluation that can cause a cut, counted from 1."""
        return 1 + self.patience + (1 if self.cut == "torch" else 0)

    def memory(self) -> Memory:
        """Return (best value, evaluations without improvement, remaining evaluations of the cooldown)."""
        return (-math.inf if self.maximizes else math.inf, 0, 0)

    def react(self, memory: Memory, value: float) -> tuple[Memory, bool]:
        best, bad, cooldown = memory
        sign = 1 if self.maximizes else -1
        relative = self.threshold_mode == "rel"
        needed = best * (1 + sign * self.threshold) if relative else best + sign * self.threshold
        improves = math.isinf(best) or sign * value > sign * needed
        best, bad = (value, 0) if improves else (best, bad + 1)
        if cooldown > 0:
            return (best, 0, cooldown - 1), False
        if bad > self.patience - (1 if self.cut == "optax" else 0):
            return (best, 0, self.cooldown), True
        return (best, bad, 0), False

    def rate(self, s: Floats, lr: float) -> Floats:
        """Return the base rate: a plateau without events has no cuts."""
        return lr + np.zeros_like(s)

    def after(self, cuts: tuple[int, ...]) -> Decay:
        """Return the decay with cuts at these steps, counted from the start of the decay."""
        return _Cuts(self.factor, self.min_lr, self.eps, cuts)


@dataclass(frozen=True)
class _Cuts(Decay):
    """Multiplies the rate by `factor` at each of the steps `cuts`, within the limits of min_lr and eps."""

    factor: float
    min_lr: float
    eps: float
    cuts: tuple[int, ...]

    def rate(self, s: Floats, lr: float) -> Floats:
        rate = now = lr + np.zeros_like(s)
        for cut in self.cuts:
            lower = np.maximum(now * self.factor, self.min_lr + np.zeros_like(s))
            now = np.where(now - lower > self.eps, lower, now)
            rate = np.where(s >= cut, now, rate)
        return rate
