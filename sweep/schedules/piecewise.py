"""Decays that jump at given updates: TensorFlow's piecewise constant, torch's multistep."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, UpdatesFromZero, as_tuples, check_rising
from sweep.validation import OneOf, PositivePart, real


@dataclass(frozen=True)
class Piecewise(Factor, name="piecewise"):
    """values[i] between boundaries[i-1] and boundaries[i].

    A boundary belongs to the piece before it with `side="right"` (TensorFlow's `piecewise_constant`: the
    value changes at boundary + 1) and to the piece after it with `side="left"` (optax: changes at it).

    Args:
        boundaries: updates, rising, >= 0.
        values: factors >= 0, one more than boundaries.
        side: "right" or "left".
    """

    boundaries: tuple[UpdatesFromZero, ...]
    values: tuple[float, ...]
    side: Annotated[str, OneOf(("right", "left"))] = "right"

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, "boundaries", "values")
        check_rising("boundaries", self.boundaries)
        for value in self.values:
            real("values", value, at_least=0)
        if len(self.values) != len(self.boundaries) + 1:
            rule = f"must have one more entry than boundaries, which has {len(self.boundaries)}"
            raise InvalidValueError("values", list(self.values), rule)

    def factor(self, s: Floats) -> Floats:
        factor = np.zeros_like(s) + self.values[0]
        for boundary, value in zip(self.boundaries, self.values[1:], strict=True):
            factor = np.where(s > boundary if self.side == "right" else s >= boundary, value, factor)
        return factor


@dataclass(frozen=True)
class Multistep(Factor, name="multistep"):
    """gamma ** (number of milestones <= s): torch's `MultiStepLR`.

    Args:
        milestones: updates, >= 0, none below the one before it.
        gamma: 0 < gamma <= 1.
    """

    milestones: tuple[UpdatesFromZero, ...]
    gamma: PositivePart = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, "milestones")
        check_rising("milestones", self.milestones, equal_allowed=True)

    def factor(self, s: Floats) -> Floats:
        passed = sum((np.where(s >= milestone, 1.0, 0.0) for milestone in self.milestones), np.zeros_like(s))
        return self.gamma**passed
