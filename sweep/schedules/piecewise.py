"""Defines the decays that change at given steps: TensorFlow's piecewise constant and torch's multistep."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats, UpdatesFromZero, as_tuples, check_rising
from sweep.validation import OneOf, PositiveFraction, check_number


@dataclass(frozen=True)
class Piecewise(Factor, name="piecewise"):
    """The factor between boundaries[i-1] and boundaries[i] is values[i].

    With `side="right"` the value changes at s = boundary + 1 (TensorFlow's `piecewise_constant`), with `side="left"` at
    s = boundary (optax).

    Args:
        boundaries: steps, increasing, >= 0.
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
            check_number("values", value, at_least=0)
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
    """The factor is gamma ** (number of milestones <= s), as in torch's `MultiStepLR`.

    Args:
        milestones: steps, >= 0, not decreasing; equal ones count separately.
        gamma: factor of each milestone, 0 < gamma <= 1.
    """

    milestones: tuple[UpdatesFromZero, ...]
    gamma: PositiveFraction = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        as_tuples(self, "milestones")
        check_rising("milestones", self.milestones, equal_allowed=True)

    def factor(self, s: Floats) -> Floats:
        passed = sum((np.where(s >= milestone, 1.0, 0.0) for milestone in self.milestones), np.zeros_like(s))
        return self.gamma**passed
