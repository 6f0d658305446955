"""Fashion-MNIST of the Debian package dataset-fashion-mnist: 60,000 pictures of 28 x 28 bytes, and 10,000 to test."""

import gzip
from pathlib import Path

import numpy as np
import torch

from benchmarks.plain import Data

FOLDER = Path("/usr/share/datasets/fashion-mnist")
VAL = 10_000
"""The number of pictures in the validation split: the last ones of the 60,000."""


def arrays() -> dict[str, np.ndarray]:
    """Return the splits: x uint8 [n, 1, 28, 28], y uint8 [n]."""
    x, y = _read("train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28), _read("train-labels-idx1-ubyte", 8)
    tested = _read("t10k-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28), _read("t10k-labels-idx1-ubyte", 8)
    train, val = slice(-VAL), slice(-VAL, None)
    return {
        "x_train": x[train],
        "y_train": y[train],
        "x_val": x[val],
        "y_val": y[val],
        "x_test": tested[0],
        "y_test": tested[1],
    }


def _read(name: str, header: int) -> np.ndarray:
    file = FOLDER / f"{name}.gz"
    if not file.exists():
        raise FileNotFoundError(f"{file}: apt-get install dataset-fashion-mnist")
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)


def data() -> Data:
    """Return what a plain loop holds: pictures in single precision, each pixel with mean 0 and deviation 1."""
    found = arrays()
    x = found["x_train"].astype(np.float32)
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation == 0] = 1

    def pictures(name: str) -> torch.Tensor:
        return torch.from_numpy((found[name].astype(np.float32) - mean) / deviation)

    def labels(name: str) -> torch.Tensor:
        return torch.from_numpy(found[name].astype(np.int64))

    return Data(pictures("x_train"), labels("y_train"), pictures("x_val"), labels("y_val"))
