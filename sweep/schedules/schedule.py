"""A schedule: base rate, warmup and decay in one pure function of the global step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sweep.schedules.decay import Decay
from sweep.schedules.warmup import NoWarmup, Warmup
from sweep.validation import InvalidValueError, real

NO_WARMUP = NoWarmup()


@dataclass(frozen=True)
class Schedule:
    """The learning rate of update s: lr * warmup factor while warming up, lr * decay factor after.

    Args:
        lr: the base rate, > 0.
        decay: counted from the end of warmup or from step 0, as `warmup.counting` says.
        warmup: what the first updates use.
    """

    lr: float
    decay: Decay
    warmup: Warmup = NO_WARMUP

    def __post_init__(self) -> None:
        real("lr", self.lr, above=0)

    def __call__(self, step: Any) -> Any:
        """The rate at `step` >= 0: a float for an int, float64 of the same shape for a NumPy array or tensor."""
        if isinstance(step, (int, np.integer)):
            if step < 0:
                raise InvalidValueError("step", step, "must be >= 0")
            return float(self._rate(np.asarray(step, dtype=np.float64), np))
        xp = array_namespace(step)
        return self._rate(xp.astype(step, xp.float64), xp)

    def _rate(self, s: Any, xp: Any) -> Any:
        start = self.warmup.steps if self.warmup.counting == "prefix" else 0
        factor = self.decay.factor(xp.maximum(s - start, xp.zeros_like(s)), xp)
        if self.warmup.steps > 0:
            factor = xp.where(self.warmup.replaces(s), self.warmup.factor(s, xp), factor)
        return self.lr * factor

    def curve(self, steps: int) -> np.ndarray:
        """The rates of the updates 0..steps-1: float64, shape [steps]."""
        return np.asarray(self(np.arange(steps)))

    @property
    def half_life(self) -> float | None:
        """Updates in which the decay halves the rate, where that is the same everywhere; else None."""
        return self.decay.half_life


STALLED = 2.0**-24
"""Below this part of its peak a rate no longer changes a float32 weight of its own size."""


@dataclass(frozen=True)
class KeyFigures:
    """What a person asks of a curve before training.

    Args:
        peak, peak_step: the largest rate and the first step that uses it.
        end: the rate of the last update.
        half_life: updates; closed form where there is one, else counted from peak_step until the curve is at half
            of its peak; None where it never is.
        stalled_at: first step from which on the curve is below 2**-24 of its peak; None where it never is.
        horizon: updates.
    """

    peak: float
    peak_step: int
    end: float
    half_life: float | None
    stalled_at: int | None
    horizon: int

    @property
    def wasted(self) -> bool:
        """Whether more than a hundredth of the horizon is trained at a stalled rate."""
        return self.stalled_at is not None and self.stalled_at < 0.99 * self.horizon


def key_figures(schedule: Schedule, steps: int) -> KeyFigures:
    """The key figures of the updates 0..steps-1."""
    curve = schedule.curve(steps)
    peak = float(curve.max())
    alive = np.flatnonzero(curve >= STALLED * peak)
    stalled_at = int(alive[-1]) + 1
    return KeyFigures(
        peak=peak,
        peak_step=int(curve.argmax()),
        end=float(curve[-1]),
        half_life=schedule.half_life or _half_life(curve),
        stalled_at=stalled_at if stalled_at < steps else None,
        horizon=steps,
    )


def _half_life(curve: np.ndarray) -> float | None:
    """Updates from the first use of the peak to the first step after it at or below half of it."""
    halved = np.flatnonzero(curve[curve.argmax() :] <= curve.max() / 2 * (1 + 1e-12))
    return float(halved[0]) if halved.size else None
