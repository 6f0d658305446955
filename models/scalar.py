"""A single weight."""

from math import isfinite

import torch
from torch import Tensor, nn


class Scalar(nn.Module):
    """The input times one weight w; with dataset=quadratic its loss is (w + 1)^2.

    Args:
        start: w before the first update.

    Raises:
        ValueError: names `start`.
    """

    def __init__(self, start: float = 5.0) -> None:
        super().__init__()
        if isinstance(start, bool) or not isinstance(start, (int, float)) or not isfinite(start):
            raise ValueError(f"start={start} must be a finite number")
        self.weight = nn.Parameter(torch.tensor(float(start)))

    def forward(self, x: Tensor) -> Tensor:
        """[n, *shape] -> [n, *shape]."""
        return x * self.weight
