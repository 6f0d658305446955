"""Decays by pieces: constant, piecewise, multistep, interpolated, and schedules joined at boundaries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from sweep.schedules.decay import Decay, Factor, shared
from sweep.schedules.family import Family
from sweep.schedules.reactions import Reaction
from sweep.validation import InvalidValueError, one_of, real, whole


@dataclass(frozen=True, eq=False)
class Constant(Factor):
    """Factor 1 at every step."""

    def factor(self, s: Any, xp: Any) -> Any:
        return xp.ones_like(s)


@dataclass(frozen=True, eq=False)
class Piecewise(Factor):
    """values[i] between boundaries[i-1] and boundaries[i].

    A boundary belongs to the piece before it with `side="right"` (TensorFlow's `piecewise_constant`: the
    value changes at boundary + 1) and to the piece after it with `side="left"` (optax: changes at it).

    Args:
        boundaries: updates, rising, >= 0.
        values: factors >= 0, one more than boundaries.
        side: "right" or "left".
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]
    side: str = "right"

    def __post_init__(self) -> None:
        _tuples(self, "boundaries", "values")
        _rising("boundaries", self.boundaries)
        for value in self.values:
            real("values", value, at_least=0)
        if len(self.values) != len(self.boundaries) + 1:
            rule = f"must have one more entry than boundaries, which has {len(self.boundaries)}"
            raise InvalidValueError("values", list(self.values), rule)
        one_of("side", self.side, ("right", "left"))

    def factor(self, s: Any, xp: Any) -> Any:
        factor = xp.zeros_like(s) + self.values[0]
        for boundary, value in zip(self.boundaries, self.values[1:], strict=True):
            factor = xp.where(s > boundary if self.side == "right" else s >= boundary, value, factor)
        return factor


@dataclass(frozen=True, eq=False)
class Multistep(Factor):
    """gamma ** (number of milestones <= s): torch's `MultiStepLR`.

    Args:
        milestones: updates, >= 0, none below the one before it.
        gamma: 0 < gamma <= 1.
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _tuples(self, "milestones")
        _rising("milestones", self.milestones, equal_allowed=True)
        real("gamma", self.gamma, above=0, at_most=1)

    def factor(self, s: Any, xp: Any) -> Any:
        passed = sum((xp.where(s >= milestone, 1.0, 0.0) for milestone in self.milestones), xp.zeros_like(s))
        return self.gamma**passed


@dataclass(frozen=True, eq=False)
class Interpolate(Factor):
    """Through the knots (step, factor), and at the last factor beyond the last knot.

    Between two knots, with x from 0 to 1: `linear` a straight line, `cosine` (1 - cos(pi x)) / 2 of the way
    (optax's `piecewise_interpolate_schedule`); `pchip` the monotone cubic of Fritsch and Butland (SciPy's
    `PchipInterpolator`), which never leaves the range of its two knots.

    Args:
        knots: pairs of an update (rising, the first 0) and a factor >= 0; at least two.
        kind: "linear", "cosine" or "pchip".
    """

    knots: tuple[tuple[int, float], ...]
    kind: str = "linear"

    def __post_init__(self) -> None:
        _tuples(self, "knots")
        for knot in self.knots:
            if not isinstance(knot, (list, tuple)) or len(knot) != 2:
                raise InvalidValueError("knots", knot, "must be a pair [step, factor]")
            real("knots", knot[1], at_least=0)
        object.__setattr__(self, "knots", tuple(tuple(knot) for knot in self.knots))
        _rising("knots", [step for step, _ in self.knots])
        if len(self.knots) < 2 or not np.all(np.asarray(self.knots[0][0]) == 0):
            raise InvalidValueError("knots", [list(knot) for knot in self.knots], "must be two or more, the first at 0")
        one_of("kind", self.kind, ("linear", "cosine", "pchip"))

    def per_worker(self, workers: int) -> Self:
        return self._divided(workers, knots=tuple((shared("knots", s, workers), factor) for s, factor in self.knots))

    def factor(self, s: Any, xp: Any) -> Any:
        factor = xp.zeros_like(s) + self.knots[-1][1]
        slopes = self._slopes(xp) if self.kind == "pchip" else [None] * len(self.knots)
        pieces = list(zip(pairwise(self.knots), pairwise(slopes), strict=True))
        for ((begin, before), (end, after)), (leaving, arriving) in reversed(pieces):
            x = (s - begin) / (end - begin)
            if self.kind == "pchip":
                inside = _hermite(x, before, after, leaving * (end - begin), arriving * (end - begin))
            else:
                way = x if self.kind == "linear" else 0.5 * (1 - xp.cos(math.pi * x))
                inside = before + (after - before) * way
            factor = xp.where(s < end, inside, factor)
        return factor

    def _slopes(self, xp: Any) -> list[Any]:
        """The slope at each knot: a weighted harmonic mean of its neighbours' where they agree in sign, else 0."""
        lengths = [end - begin for (begin, _), (end, _) in pairwise(self.knots)]
        rises = [after - before for (_, before), (_, after) in pairwise(self.knots)]
        slopes = [rise / length for rise, length in zip(rises, lengths, strict=True)]
        if len(slopes) == 1:
            return [slopes[0], slopes[0]]
        inner = []
        for i in range(len(slopes) - 1):
            (h, k), (a, b) = lengths[i : i + 2], slopes[i : i + 2]
            agree = a * b > 0
            a, b = xp.where(agree, a, 1.0), xp.where(agree, b, 1.0)
            inner.append(xp.where(agree, 3 * (h + k) / ((2 * k + h) / a + (k + 2 * h) / b), 0.0))
        first = _end_slope(lengths[0], lengths[1], slopes[0], slopes[1], xp)
        return [first, *inner, _end_slope(lengths[-1], lengths[-2], slopes[-1], slopes[-2], xp)]


def _end_slope(h: Any, k: Any, a: Any, b: Any, xp: Any) -> Any:
    """The slope at an end of a PCHIP: of the parabola through three knots, limited to keep the curve monotone."""
    slope = ((2 * h + k) * a - h * b) / (h + k)
    slope = xp.where((a * b < 0) & (xp.abs(slope) > xp.abs(3 * a)), 3 * a, slope)
    return xp.where(slope * a > 0, slope, 0.0)


def _hermite(x: Any, before: Any, after: Any, leaving: Any, arriving: Any) -> Any:
    """The cubic on 0 <= x <= 1 with these values and slopes at its ends."""
    rise = after - before
    return before + x * (leaving + x * (3 * rise - 2 * leaving - arriving + x * (leaving + arriving - 2 * rise)))


@dataclass(frozen=True, eq=False)
class Piece(Family):
    """A part of joined schedules: a decay on `factor` times the base rate, factor >= 0."""

    decay: Decay
    factor: float = 1.0

    def __post_init__(self) -> None:
        real("factor", self.factor, at_least=0)
        if isinstance(self.decay, Reaction):
            raise InvalidValueError("name", self.decay.name, "waits for evaluations, and can be no piece of a schedule")


@dataclass(frozen=True, eq=False)
class Joined(Decay):
    """pieces[i] from s = boundaries[i-1] on, counting from its own start.

    optax's `join_schedules`, torch's `SequentialLR`: at s = boundary the next piece begins, at its step 0.

    Args:
        boundaries: updates, rising, >= 1.
        pieces: one more than boundaries.
    """

    boundaries: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        _tuples(self, "boundaries", "pieces")
        _rising("boundaries", self.boundaries, at_least=1)
        if len(self.pieces) != len(self.boundaries) + 1:
            rule = f"must be one fewer than the pieces, which are {len(self.pieces)}"
            raise InvalidValueError("boundaries", list(self.boundaries), rule)

    def rate(self, s: Any, lr: Any, xp: Any) -> Any:
        first, *later = self.pieces
        rate = first.decay.rate(s, lr * first.factor, xp)
        for boundary, piece in zip(self.boundaries, later, strict=True):
            counted = xp.maximum(s - boundary, xp.zeros_like(s))
            rate = xp.where(s >= boundary, piece.decay.rate(counted, lr * piece.factor, xp), rate)
        return rate

    def check_rate(self, lr: float) -> None:
        for piece in self.pieces:
            try:
                piece.decay.check_rate(lr * piece.factor)
            except InvalidValueError as error:
                raise InvalidValueError("lr", lr, f"times a piece's factor {piece.factor} {error.rule}") from error


def _tuples(family: Any, *keys: str) -> None:
    """Make tuples of the lists under these keys."""
    for key in keys:
        if not isinstance(getattr(family, key), (list, tuple)):
            raise InvalidValueError(key, getattr(family, key), "must be a list")
        object.__setattr__(family, key, tuple(getattr(family, key)))


def _rising(key: str, steps: Sequence[int], at_least: int = 0, equal_allowed: bool = False) -> None:
    for step in steps:
        whole(key, step, at_least=at_least)
    for before, after in pairwise(steps):
        if not np.all(np.asarray(before) <= after if equal_allowed else np.asarray(before) < after):
            rule = "must not fall" if equal_allowed else "must rise"
            raise InvalidValueError(key, list(steps), f"{rule} from one to the next")
