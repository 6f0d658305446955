"""Loads Fashion-MNIST of the package dataset-fashion-mnist: 60,000 images of 28 x 28 bytes, and 10,000 to test."""

import numpy as np
import torch

from benchmarks.plain import Data
from sweep.data.sources import fashion_mnist

VAL = 10_000
"""Number of images in the validation split, which are the last of the 60,000."""


def arrays() -> dict[str, np.ndarray]:
    """Return the splits: x uint8 [n, 1, 28, 28], y uint8 [n]."""
    found = fashion_mnist()
    train = {f"{name}_train": found[f"{name}_train"][:-VAL] for name in "xy"}
    return found | train | {f"{name}_val": found[f"{name}_train"][-VAL:] for name in "xy"}


def data() -> Data:
    """Return the data of a plain loop: float32 images, each pixel with mean 0 and standard deviation 1."""
    found = arrays()
    x = found["x_train"].astype(np.float32)
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation == 0] = 1

    def pictures(name: str) -> torch.Tensor:
        return torch.from_numpy((found[name].astype(np.float32) - mean) / deviation)

    def labels(name: str) -> torch.Tensor:
        return torch.from_numpy(found[name].astype(np.int64))

    return Data(pictures("x_train"), labels("y_train"), pictures("x_val"), labels("y_val"))
