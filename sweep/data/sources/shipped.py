"""Read the data sets that need no download: those of scikit-learn, and a quadratic function."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np


def digits() -> dict[str, np.ndarray]:
    """Return the handwritten digits of scikit-learn (from UCI): x float32 [1797, 1, 8, 8] between 0 and 1, y 0..9."""
    table = np.loadtxt(_of_sklearn("digits.csv.gz"), delimiter=",")
    return {"x": (table[:, None, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32), "y": table[:, 64].astype(int)}


def breast_cancer() -> dict[str, np.ndarray]:
    """Return the Wisconsin breast cancer data of scikit-learn (from UCI): x float64 [569, 30], y 0 or 1."""
    table = np.loadtxt(_of_sklearn("breast_cancer.csv"), delimiter=",", skiprows=1)
    return {"x": table[:, :30], "y": table[:, 30].astype(int)}


def _of_sklearn(name: str) -> Path:
    """Return the path of a data file of scikit-learn, whose loaders would take two seconds to import."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("scikit-learn, which contains this data set, is not installed", name="sklearn")
    return Path(found.origin).parent / "datasets" / "data" / name


def quadratic() -> dict[str, np.ndarray]:
    """Return inputs 1 and targets -1, float64, 64 examples per split. The loss of a model w * x is (w + 1)^2."""
    inputs, targets = np.ones((64, 1)), -np.ones((64, 1))
    splits = ("train", "val", "test")
    return {f"x_{split}": inputs for split in splits} | {f"y_{split}": targets for split in splits}
