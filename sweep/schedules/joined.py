"""Defines the schedule that applies several schedules one after another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats, Updates, as_tuples, check_rising
from sweep.schedules.reaction import Reaction
from sweep.validation import check_number


@dataclass(frozen=True)
class Piece:
    """One of several joined schedules: a decay of `factor` times the base rate, factor >= 0."""

    decay: Decay
    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor, at_least=0)
        if isinstance(self.decay, Reaction):
            raise InvalidValueError(
                "name", self.decay.name, "depends on evaluations and cannot be a piece of a schedule"
            )


@dataclass(frozen=True)
class Joined(Decay, name="joined"):
    """Applies pieces[i] at the steps boundaries[i-1] <= s < boundaries[i]; each piece counts from its own start.

    It equals optax's `join_schedules` and torch's `SequentialLR`.

    Args:
        boundaries: steps, increasing, >= 1.
        pieces: schedules, one more than boundaries.
    """

    boundaries: tuple[Updates, ...]
    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        as_tuples(self, "boundaries", "pieces")
        check_rising("boundaries", self.boundaries, at_least=1)
        if len(self.pieces) != len(self.boundaries) + 1:
            rule = f"must have one entry less than pieces, which has {len(self.pieces)}"
            raise InvalidValueError("boundaries", list(self.boundaries), rule)

    def rate(self, s: Floats, lr: float) -> Floats:
        rate, begin = np.zeros_like(s), 0.0
        for piece, end in zip(self.pieces, (*self.boundaries, math.inf), strict=True):
            counted = np.clip(s - begin, 0, end - begin - 1)  # a piece may not be defined beyond its own steps
            rate = np.where(s >= begin, piece.decay.rate(counted, lr * piece.factor), rate)
            begin = end
        return rate

    @property
    def functions(self) -> Sequence[Component]:
        return [function for piece in self.pieces for function in piece.decay.functions]

    def check_rate(self, lr: float) -> None:
        for piece in self.pieces:
            try:
                piece.decay.check_rate(lr * piece.factor)
            except InvalidValueError as error:
                raise InvalidValueError("lr", lr, f"times a piece's factor {piece.factor} {error.rule}") from error
