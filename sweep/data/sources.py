"""The data sets that ship, as plain arrays.

A data set is a function that gives a mapping of arrays: x and y, or x_train, y_train, x_val, y_val and perhaps
x_test, y_test. The first axis counts examples; y holds integer labels (classification) or numbers (regression).
"""

import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from os.path import expanduser
from pathlib import Path

import numpy as np

from sweep.errors import InvalidValueError

Arrays = Mapping[str, np.ndarray]


def digits() -> Arrays:
    """Handwritten digits (scikit-learn, from UCI): x float32 [1797, 1, 8, 8] between 0 and 1, y 0..9."""
    table = np.loadtxt(_of_sklearn("digits.csv.gz"), delimiter=",")
    return {"x": (table[:, None, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32), "y": table[:, 64].astype(int)}


def breast_cancer() -> Arrays:
    """Wisconsin diagnostic breast cancer (scikit-learn, from UCI): x float64 [569, 30], y 0 or 1."""
    table = np.loadtxt(_of_sklearn("breast_cancer.csv"), delimiter=",", skiprows=1)
    return {"x": table[:, :30], "y": table[:, 30].astype(int)}


def _of_sklearn(name: str) -> Path:
    """Return a file of data that scikit-learn ships. Importing its loaders would take two seconds."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("scikit-learn, which ships this data set, is not installed", name="sklearn")
    return Path(found.origin).parent / "datasets" / "data" / name


def quadratic() -> Arrays:
    """Inputs 1, targets -1, 64 examples a split, float64: the loss of a model w * x is (w + 1)^2 in every batch."""
    inputs, targets = np.ones((64, 1)), -np.ones((64, 1))
    splits = ("train", "val", "test")
    return {f"x_{split}": inputs for split in splits} | {f"y_{split}": targets for split in splits}


def arrays(path: str) -> Arrays:
    """The arrays of an .npz file. Pickled objects in it are refused, not loaded.

    Args:
        path: of the file; `~` at its beginning is the home directory.

    Raises:
        InvalidValueError: names `path` where the file cannot be read.
    """
    file = Path(expanduser(path))
    if file.exists() and not zipfile.is_zipfile(file):
        raise InvalidValueError("path", path, "is no .npz file")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InvalidValueError("path", path, "there is no such file") from None
    except Exception as error:  # NumPy and zipfile raise a dozen types for a damaged or pickled archive
        raise InvalidValueError("path", path, f"cannot be read as an .npz file: {error}") from error
