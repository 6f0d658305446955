"""Turns what a data set gives into NumPy arrays. It reads tensors too, but does not import torch for them."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from sweep.errors import InvalidValueError

NUMPY_HAS = ("torch.float16", "torch.float32", "torch.float64")
"""Floating types of tensors that NumPy has too."""

WHOLE = frozenset({"x", "y"})
REQUIRED = frozenset({"x_train", "y_train", "x_val", "y_val"})
TEST = frozenset({"x_test", "y_test"})


def as_arrays(given: Any) -> dict[str, np.ndarray]:
    """Return the arrays of the mapping, or of the pair (x, y), that a data set gave; other names are left out."""
    if isinstance(given, tuple | list) and len(given) == 2:
        given = {"x": given[0], "y": given[1]}
    if not hasattr(given, "items"):
        raise InvalidValueError(
            "dataset._target_", type(given).__name__, "must give a mapping of arrays, or a pair (x, y)"
        )
    arrays = {str(name): _array(str(name), value) for name, value in given.items() if name in WHOLE | REQUIRED | TEST}
    if arrays.keys() not in (WHOLE, REQUIRED, REQUIRED | TEST):
        rule = "must give x and y, or x_train, y_train, x_val, y_val and perhaps x_test, y_test"
        raise InvalidValueError("dataset", ", ".join(map(str, given)) or "nothing", rule)
    return arrays


def _array(name: str, given: Any) -> np.ndarray:
    """Return an array of what a data set gives: a NumPy array, a tensor, a DataFrame, or lists of such or of numbers.

    Python objects that are numbers become an array of numbers; floating types that NumPy does not have (bfloat16)
    become float32.

    Raises:
        InvalidValueError: names `dataset.name` if some values are missing, or the examples have different shapes.
    """
    key, kind = f"dataset.{name}", type(given).__name__
    if not (hasattr(given, "__array__") or hasattr(given, "__array_interface__") or isinstance(given, Sequence)):
        rule = "must be an array of numbers [examples, ...]"
        hint = "; .toarray() or .to_dense() makes one of it" if "sparse" in type(given).__module__ else ""
        raise InvalidValueError(key, kind, rule + hint)
    if isinstance(given, np.ma.MaskedArray) and (masked := int(np.sum(given.mask))):
        rule = "must have a value everywhere: fill them, or leave the examples out"
        raise InvalidValueError(key, f"{masked} masked values", rule)
    try:
        array = np.asarray(_without_tensors(given))
        if array.dtype == object and array.ndim:
            array = np.asarray(_without_tensors(array.tolist()))
    except (ValueError, TypeError, RuntimeError) as error:
        if "inhomogeneous" in str(error):
            raise InvalidValueError(key, _lengths(given), "all examples must have the same shape") from error
        raise InvalidValueError(key, kind, f"cannot be read as an array of numbers: {error}") from error
    if array.dtype == object:
        strange = [value for value in array.flat if not isinstance(value, (bool, int, float))]
        found = f"a value of type {type(strange[0]).__name__}" if strange else "an integer beyond 64 bits"
        raise InvalidValueError(key, found, "must hold numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            array = array.astype(np.float64)  # the padding of a longdouble is arbitrary, and would be in the digest
    return array


def _without_tensors(given: Any) -> Any:
    """Return what is given with arrays in place of its tensors."""
    if _is_tensor(given):
        tensor = given.detach().cpu()
        wide = tensor.is_floating_point() and str(tensor.dtype) not in NUMPY_HAS
        return (tensor.float() if wide else tensor).numpy()
    if isinstance(given, (list, tuple)) and any(
        isinstance(value, (list, tuple)) or _is_tensor(value) for value in given
    ):
        return [_without_tensors(value) for value in given]
    return given


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # which has not been imported where there are no tensors
    return torch is not None and isinstance(value, torch.Tensor)


def _lengths(given: Any) -> str:
    """Return the lengths that differ among nested sequences, at the first level at which they do."""
    level, found = [given], ["length"]
    while len(found) == 1 and found[0].startswith("length"):
        level = [inner for outer in level for inner in outer]
        found = list(dict.fromkeys(map(_length, level)))
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def _length(given: Any) -> str:
    try:
        return "a text" if isinstance(given, (str, bytes)) else f"length {len(given)}"
    except TypeError:  # also of an array without dimensions
        return "a single value"
