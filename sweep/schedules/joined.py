"""Schedules one after another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats, Updates, as_tuples, check_rising
from sweep.schedules.reaction import Reaction
from sweep.validation import real


@dataclass(frozen=True)
class Piece:
    """A part of joined schedules: a decay on `factor` times the base rate, factor >= 0."""

    decay: Decay
    factor: float = 1.0

    def __post_init__(self) -> None:
        real("factor", self.factor, at_least=0)
        if isinstance(self.decay, Reaction):
            raise InvalidValueError("name", self.decay.name, "waits for evaluations, and can be no piece of a schedule")


@dataclass(frozen=True)
class Joined(Decay, name="joined"):
    """pieces[i] from s = boundaries[i-1] on, counting from its own start.

    optax's `join_schedules`, torch's `SequentialLR`: at s = boundary the next piece begins, at its step 0.

    Args:
        boundaries: updates, rising, >= 1.
        pieces: one more than boundaries.
    """

    boundaries: tuple[Updates, ...]
    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        as_tuples(self, "boundaries", "pieces")
        check_rising("boundaries", self.boundaries, at_least=1)
        if len(self.pieces) != len(self.boundaries) + 1:
            rule = f"must be one fewer than the pieces, which are {len(self.pieces)}"
            raise InvalidValueError("boundaries", list(self.boundaries), rule)

    def rate(self, s: Floats, lr: float) -> Floats:
        rate, begin = np.zeros_like(s), 0.0
        for piece, end in zip(self.pieces, (*self.boundaries, math.inf), strict=True):
            counted = np.clip(s - begin, 0, end - begin - 1)  # a piece need not be defined beyond its own steps
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
