"""What a person asks of a curve before training."""

from dataclasses import dataclass

import numpy as np

from sweep.schedules.family import Floats

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


def key_figures(curve: Floats, half_life: float | None = None) -> KeyFigures:
    """Return the key figures of a curve.

    Args:
        curve: float64 [T], the rates of the updates 0..T-1.
        half_life: `Schedule.constant_half_life`, updates; None where there is no closed form and it is counted.
    """
    peak = float(curve.max())
    alive = np.flatnonzero(curve >= STALLED * peak)
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
    """Return the updates from the first use of the peak to the first step after it at or below half of it."""
    halved = np.flatnonzero(curve[curve.argmax() :] <= curve.max() / 2 * (1 + 1e-12))
    return float(halved[0]) if halved.size else None
