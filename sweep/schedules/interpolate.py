"""Defines the schedule that interpolates between given knots."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Self

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor, divided_by_workers
from sweep.schedules.family import Floats, UpdatesFromZero, as_tuples, check_rising
from sweep.validation import OneOf, check_number


@dataclass(frozen=True)
class Interpolate(Factor, name="interpolate"):
    """Interpolates between knots (step, factor), and keeps the last factor after the last knot.

    Between two knots (x from 0 to 1) with the factors a and b, the factor is a + (b - a) * x (`linear`),
    a + (b - a) * (1 - cos(pi x)) / 2 (`cosine`), both as in optax's `piecewise_interpolate_schedule`, or the monotone
    cubic of Fritsch and Butland, which stays between a and b (`pchip`, as SciPy's `PchipInterpolator`).

    Args:
        knots: at least two pairs of a step and a factor >= 0; the steps increase, and the first is 0.
        kind: "linear", "cosine" or "pchip".
    """

    knots: tuple[tuple[UpdatesFromZero, float], ...]
    kind: Annotated[str, OneOf(("linear", "cosine", "pchip"))] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, "knots")
        for knot in self.knots:
            if not isinstance(knot, (list, tuple)) or len(knot) != 2:
                raise InvalidValueError("knots", knot, "must be a pair [step, factor]")
            check_number("knots", knot[1], at_least=0)
        object.__setattr__(self, "knots", tuple(tuple(knot) for knot in self.knots))
        check_rising("knots", [step for step, _ in self.knots])
        if len(self.knots) < 2 or self.knots[0][0] != 0:
            raise InvalidValueError(
                "knots", [list(knot) for knot in self.knots], "must be at least two, and the first must be at step 0"
            )

    def per_worker(self, workers: int) -> Self:
        return self._divided(
            workers, knots=tuple((divided_by_workers("knots", s, workers), factor) for s, factor in self.knots)
        )

    def factor(self, s: Floats) -> Floats:
        factor = np.zeros_like(s) + self.knots[-1][1]
        slopes = self._slopes() if self.kind == "pchip" else [0.0] * len(self.knots)
        pieces = list(zip(pairwise(self.knots), pairwise(slopes), strict=True))
        for ((begin, before), (end, after)), (leaving, arriving) in reversed(pieces):
            x = (s - begin) / (end - begin)
            if self.kind == "pchip":
                inside = _hermite(x, before, after, leaving * (end - begin), arriving * (end - begin))
            else:
                way = x if self.kind == "linear" else 0.5 * (1 - np.cos(math.pi * x))
                inside = before + (after - before) * way
            factor = np.where(s < end, inside, factor)
        return factor

    def _slopes(self) -> list[float]:
        """Return the slope at each knot.

        At an inner knot it is a weighted harmonic mean of the slopes of the two intervals, or 0 if their signs differ.
        """
        lengths = [end - begin for (begin, _), (end, _) in pairwise(self.knots)]
        rises = [after - before for (_, before), (_, after) in pairwise(self.knots)]
        slopes = [rise / length for rise, length in zip(rises, lengths, strict=True)]
        if len(slopes) == 1:
            return [slopes[0], slopes[0]]
        inner = []
        for i in range(len(slopes) - 1):
            (h, k), (a, b) = lengths[i : i + 2], slopes[i : i + 2]
            inner.append(3 * (h + k) / ((2 * k + h) / a + (k + 2 * h) / b) if a * b > 0 else 0.0)
        first = _end_slope(lengths[0], lengths[1], slopes[0], slopes[1])
        return [first, *inner, _end_slope(lengths[-1], lengths[-2], slopes[-1], slopes[-2])]


def _end_slope(h: float, k: float, a: float, b: float) -> float:
    """Return the slope at the first or last knot: that of a parabola through three knots, limited to stay monotone."""
    slope = ((2 * h + k) * a - h * b) / (h + k)
    if a * b < 0 and abs(slope) > abs(3 * a):
        slope = 3 * a
    return slope if slope * a > 0 else 0.0


def _hermite(x: Floats, before: float, after: float, leaving: float, arriving: float) -> Floats:
    """Return the cubic on 0 <= x <= 1 with these values and slopes at its ends."""
    rise = after - before
    return before + x * (leaving + x * (3 * rise - 2 * leaving - arriving + x * (leaving + arriving - 2 * rise)))
