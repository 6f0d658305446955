"""Reduce the rate when a metric no longer improves."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats
from sweep.schedules.reaction import Memory, Reaction
from sweep.validation import NotNegative, OneOf, Real, Text, Whole, whole

METRIC = Text(r"val_[A-Za-z]\w*", "must be val_loss, val_accuracy or another metric of the task, val_<name>")


@dataclass(frozen=True)
class Plateau(Decay, Reaction, name="plateau"):
    """Multiplies the rate by `factor` when the watched metric has not improved for `patience` evaluations.

    torch's `ReduceLROnPlateau` and optax's `reduce_on_plateau`. An evaluation improves on the best so far if it is
    below best * (1 - threshold), or below best - threshold with threshold_mode "abs"; for a metric that is to be large,
    such as val_accuracy, if it is above best * (1 + threshold) or best + threshold. Evaluations during warmup do not
    count.

    Args:
        factor: 0 < factor < 1.
        patience: evaluations, >= 0 (>= 1 with `cut: optax`).
        threshold: smallest improvement that counts, >= 0.
        cooldown: evaluations after a cut that are not counted, >= 0.
        min_lr: a rate, >= 0; no cut goes below it.
        cut: "torch" at the evaluation patience + 1 without improvement, "optax" at the evaluation patience.
        metric: "val_loss", "val_accuracy" or another metric of the task, "val_<name>".
        eps: a cut by no more than this is not made, >= 0 (torch's; optax has none).
        threshold_mode: "rel": threshold is relative to the best value; "abs": it is a difference of the metric.
        direction: "minimize" or "maximize"; None for what the metric is for.
    """

    factor: Annotated[float, Real(above=0, below=1)] = 0.1
    patience: Annotated[int, Whole(at_least=0)] = 10
    threshold: NotNegative = 1e-4
    cooldown: Annotated[int, Whole(at_least=0)] = 0
    min_lr: NotNegative = 0.0
    cut: Annotated[str, OneOf(("torch", "optax"))] = "torch"
    metric: Annotated[str, METRIC] = "val_loss"
    eps: NotNegative = 1e-8
    threshold_mode: Annotated[str, OneOf(("rel", "abs"))] = "rel"
    direction: Annotated[str, OneOf(("minimize", "maximize"))] | None = None

    name = "plateau"
    condition = "metric"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cut == "optax":
            whole("patience", self.patience, at_least=1)

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
        """Evaluations before the first cut can be made: the one that sets the best, and those without improvement."""
        return 1 + self.patience + (1 if self.cut == "torch" else 0)

    def memory(self) -> Memory:
        """(best so far, evaluations without improvement, evaluations of cooldown left)."""
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
        """The base rate: no cut yet."""
        return lr + np.zeros_like(s)

    def after(self, cuts: tuple[int, ...]) -> Decay:
        """The decay with cuts at these steps, counted as the decay counts."""
        return _Cuts(self.factor, self.min_lr, self.eps, cuts)


@dataclass(frozen=True)
class _Cuts(Decay):
    """The rate is multiplied by `factor` at each of the steps `cuts`, as far as min_lr and eps allow."""

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
