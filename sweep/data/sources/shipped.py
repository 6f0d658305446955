"""The data sets that ship."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np


def digits() -> dict[str, np.ndarray]:
    """Handwritten digits (scikit-learn, from UCI): x float32 [1797, 1, 8, 8] between 0 and 1, y 0..9."""
    table = np.loadtxt(_of_sklearn("digits.csv.gz"), delimiter=",")
    return {"x": (table[:, None, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32), "y": table[:, 64].astype(int)}


def breast_cancer() -> dict[str, np.ndarray]:
    """Wisconsin diagnostic breast cancer (scikit-learn, from UCI): x float64 [569, 30], y 0 or 1."""
    table = np.loadtxt(_of_sklearn("breast_cancer.csv"), delimiter=",", skiprows=1)
    return {"x": table[:, :30], "y": table[:, 30].astype(int)}


def _of_sklearn(name: str) -> Path:
    """Return a file of data that scikit-learn ships. Importing its loaders would take two seconds."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("scikit-learn, which ships this data set, is not installed", name="sklearn")
    return Path(found.origin).parent / "datasets" / "data" / name


def quadratic() -> dict[str, np.ndarray]:
    """Inputs 1, targets -1, 64 examples a split, float64: the loss of a model w * x is (w + 1)^2 in every batch."""
    inputs, targets = np.ones((64, 1)), -np.ones((64, 1))
    splits = ("train", "val", "test")
    return {f"x_{split}": inputs for split in splits} | {f"y_{split}": targets for split in splits}
