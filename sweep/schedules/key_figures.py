"""Computes the key figures of a curve: peak, end, half-life, and the step from which on it is too small."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.family import Floats

STALLED_FACTOR = 2.0**-24
"""A rate below this fraction of the peak is stalled: float32 rounds its updates away."""


@dataclass(frozen=True)
class KeyFigures:
    """The key figures of a curve, known before training.

    Args:
        peak, peak_step: the largest rate, and the first step that has it.
        end: the rate of the last update.
        half_life: updates, from a closed form or counted from peak_step to the first step at or below half of the peak;
            None if there is no such step.
        stalled_at: the first step from which on the curve stays below 2**-24 of its peak; None if there is none.
        horizon: T, updates.
    """

    peak: float
    peak_step: int
    end: float
    half_life: float | None
    stalled_at: int | None
    horizon: int

    @property
    def wasted(self) -> bool:
        """Return whether the rate is stalled for more than 1 % of the horizon."""
        return self.stalled_at is not None and self.stalled_at < 0.99 * self.horizon


def key_figures(curve: Floats, half_life: float | None = None) -> KeyFigures:
    """Return the key figures of a curve.

    Args:
        curve: float64 [T], the rates of the updates 0..T-1.
        half_life: `Schedule.constant_half_life`, updates; None to count it, where there is no closed form.
    """
    peak = float(curve.max())
    alive = np.flatnonzero(curve >= STALLED_FACTOR * peak)
    stalled_at = int(alive[-1]) + 1
    return KeyFigures(
        peak=peak,
        peak_step=int(curve.argmax()),
        end=float(curve[-1]),
        half_life=half_life or _half_life(curve),
        stalled_at=stalled_at if stalled_at < len(curve) else None,
        horizon=len(curve),
    )


def _half_life(curve: Floats) -> float | None:
    """Return the number of updates from the first step at the peak to the first later step at or below half of it."""
    halved = np.flatnonzero(curve[curve.argmax() :] <= curve.max() / 2 * (1 + 1e-12))
    return float(halved[0]) if halved.size else None
