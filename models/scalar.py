"""A model with a single weight."""

from math import isfinite

import torch
from torch import Tensor, nn


class Scalar(nn.Module):
    """Multiplies the input by one weight w. With dataset=quadratic the loss is (w + 1)^2.

    Args:
        start: value of w before the first update.

    Raises:
        ValueError: names `start`.
    """

    def __init__(self, start: float = 5.0) -> None:
        super().__init__()
        if isinstance(start, bool) or not isinstance(start, (int, float)) or not isfinite(start):
            raise ValueError(f"start={start} must be a finite number")
        self.weight = nn.Parameter(torch.tensor(float(start)))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [n, *shape] to [n, *shape]."""
        return x * self.weight
