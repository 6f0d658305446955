"""Reads what the function of a data set returns: arrays, or data sets that load examples one at a time.

Tensors are read without importing torch.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sweep.errors import InvalidValueError

NUMPY_FLOATS = ("torch.float16", "torch.float32", "torch.float64")
"""Floating types of tensors that NumPy also has."""

SPLITS = ("train", "val", "test")
WHOLE = "all"
"""Name of the only part of a data set that is not divided into splits."""

NEVER_LEFT_OUT = ("x", "y", "labels", "label")
"""Names whose arrays are refused if they are not valid. Others beside x are left out."""

COPIED_BYTES = 2**26
"""Size up to which an array is copied, because the user's code may change its own."""


@dataclass(frozen=True)
class Source:
    """The examples that a data set returned, by split.

    Args:
        parts: WHOLE -> examples, or train and at least one of val and test -> examples. Examples are a mapping of names
            to arrays [n, ...], to nested mappings or tuples of arrays, or to `Ragged`; or an object with `__len__` and
            `__getitem__`, which loads them one at a time.
        collate: makes a batch of a list of examples; None for the default function.
        n_classes: number of different tokens, if the parts are tokens; None if it is not known.
    """

    parts: Mapping[str, Any]
    collate: Callable[[list[Any]], Any] | None = None
    n_classes: int | None = None


class StoredArray:
    """A reference to an array in an .npy file. Unpickling it maps the file into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(np.load, mmap_mode="r", allow_pickle=False), (str(self.path),)


class Ragged:
    """Arrays of different lengths, one for each example."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.arrays[index]


class ArrayDataset:
    """A map-style data set of named arrays, some of them ragged. Example i is the mapping of their i-th entries."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        column = next(iter(self.columns.values()))
        while isinstance(column, Mapping | tuple):
            column = next(iter(column.values())) if isinstance(column, Mapping) else column[0]
        return len(column)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: _entry(column, index) for name, column in self.columns.items()}


def _entry(column: Any, index: int) -> Any:
    """Return entry `index` of each array of a column."""
    if isinstance(column, Mapping):
        return {name: _entry(inner, index) for name, inner in column.items()}
    return tuple(_entry(inner, index) for inner in column) if isinstance(column, tuple) else column[index]


def loads_examples(given: Any) -> bool:
    """Return whether an object is a map-style data set: it loads one example for each index."""
    known = isinstance(given, Mapping | list | tuple | str | bytes) or hasattr(given, "__array__") or _is_tensor(given)
    return not known and hasattr(given, "__len__") and hasattr(given, "__getitem__") and not hasattr(given, "dtypes")


def as_source(given: Any) -> Source:
    """Return the examples that the function of a data set returned.

    It returns a mapping of names to arrays; a pair (x, y); a map-style data set; a mapping from `train`, and `val` or
    `test` or both, to one of these; or a Source, which is returned unchanged. The names x_train, y_train, x_val, y_val,
    x_test, y_test mean the same as the mapping of splits. A mapping may also have `collate`, a function.

    Raises:
        InvalidValueError: names the part of the data set that cannot be read.
    """
    if isinstance(given, Source):
        return given
    if loads_examples(given) and not hasattr(given, "items"):
        return Source({WHOLE: given})
    if isinstance(given, tuple | list) and len(given) == 2:
        given = {"x": given[0], "y": given[1]}
    if not hasattr(given, "items"):
        rule = "must give a mapping of arrays, a pair (x, y), or a map-style data set"
        raise InvalidValueError("dataset._target_", type(given).__name__, rule)
    parts = dict(given.items())
    if not all(isinstance(name, str) for name in parts):
        raise _incomplete(map(repr, parts))
    collate = parts.pop("collate", None)
    if collate is not None and not callable(collate):
        raise InvalidValueError("dataset.collate", type(collate).__name__, "must be a function of a list of examples")
    if "validation" in parts and "val" not in parts:  # as Hugging Face calls it
        parts["val"] = parts.pop("validation")
    if parts.keys() & {"train", "val"} and parts.keys() <= set(SPLITS):
        if "train" not in parts or len(parts) == 1:
            raise InvalidValueError("dataset", ", ".join(parts), "must give train, and val or test or both")
        found = {split: _examples(parts[split], f"_{split}") for split in SPLITS if split in parts}
        return Source(found, collate)
    if any(f"{name}_{split}" in parts for name in "xy" for split in SPLITS):
        return Source(_of_suffixes(parts), collate)
    if parts.keys() <= {"y", "labels"}:
        raise _incomplete(parts)
    return Source({WHOLE: _examples(parts, "")}, collate)


def _of_suffixes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the splits of a mapping with x_train, y_train, ..., and possibly further names in each split."""
    splits: dict[str, dict[str, Any]] = {}
    second = "val" if {"x_val", "y_val"} & given.keys() else "test"
    for key, value in given.items():
        name, _, split = key.rpartition("_")
        further = f"{name}_train" in given and f"{name}_{second}" in given
        if split in SPLITS and (name in ("x", "y") or further):
            splits.setdefault(split, {})[name] = value
    splits = {split: dict(sorted(columns.items())) for split, columns in splits.items()}
    names = {tuple(columns) for columns in splits.values()}
    if {"x", "y"} & given.keys() or len(names) > 1 or ("y",) in names or not {"train", second} <= splits.keys():
        raise _incomplete(given)
    return {split: _examples(splits[split], f"_{split}") for split in SPLITS if split in splits}


def _incomplete(given: Iterable[str]) -> InvalidValueError:
    rule = "must give x and y, or x_train, y_train and x_val, y_val or x_test, y_test or both, or arrays of other names"
    return InvalidValueError("dataset", ", ".join(given) or "nothing", rule)


def _examples(given: Any, suffix: str) -> Any:
    """Return the examples of one split.

    Args:
        suffix: added to the names in messages: _train, ..., or empty.
    """
    if loads_examples(given):
        return given
    if isinstance(given, tuple | list) and len(given) == 2 and not np.isscalar(given[0]):
        given = {"x": given[0], "y": given[1]}
    if not hasattr(given, "items"):
        given = {"x": given}
    if not len(given):
        raise _incomplete(())
    examples = {}
    for name, value in given.items():
        try:
            examples[str(name)] = _nested(f"{name}{suffix}", value, name not in ("x", "y"))
        except InvalidValueError:
            if "x" not in given or name in NEVER_LEFT_OUT:
                raise
    if "x" in examples:  # others that are not arrays of examples are left out, such as feature names
        n = _length_of(examples["x"])
        examples = {name: value for name, value in examples.items() if name in NEVER_LEFT_OUT or _is_column(value, n)}
    return examples


def _nested(name: str, given: Any, inside: bool) -> Any:
    """Return an array, or a mapping or tuple of arrays, in the given structure."""
    if inside and isinstance(given, Mapping):
        return {str(key): _nested(f"{name}.{key}", value, True) for key, value in given.items()}
    if inside and isinstance(given, tuple):
        return tuple(_nested(f"{name}.{place}", value, True) for place, value in enumerate(given))
    return _array(name, given)


def _is_column(value: Any, n: int) -> bool:
    """Return whether a value beside x has a number, or an array of numbers, for each of n examples."""
    if isinstance(value, Mapping | tuple):
        return all(_is_column(inner, n) for inner in (value.values() if isinstance(value, Mapping) else value))
    if isinstance(value, Ragged):
        return len(value) == n
    return bool(value.ndim > 0 and len(value) == n and value.dtype.kind in "iufb")


def _length_of(column: Any) -> int:
    return len(column) if isinstance(column, Ragged) or column.ndim else -1


def _array(name: str, given: Any) -> np.ndarray | Ragged:
    """Return a NumPy array, a tensor, a DataFrame, or lists of these or of numbers, as an array.

    Python objects that are numbers become an array of numbers. Floating types that NumPy does not have, such as
    bfloat16, become float32.

    Raises:
        InvalidValueError: names `dataset.name` if some values are missing, or the examples have different shapes. If
            only their lengths differ, the result is `Ragged`.
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
            if (ragged := _ragged(given)) is not None:
                return ragged
            raise InvalidValueError(key, _lengths(given), "all examples must have the same shape") from error
        raise InvalidValueError(key, kind, f"cannot be read as an array of numbers: {error}") from error
    if array.dtype == object:
        strange = [value for value in array.flat if not isinstance(value, (bool, int, float))]
        found = f"a value of type {type(strange[0]).__name__}" if strange else "an integer beyond 64 bits"
        raise InvalidValueError(key, found, "must hold numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # infinite values are refused later
            array = array.astype(np.float64)  # the digest would include the padding of a longdouble
    return array.copy() if array.nbytes <= COPIED_BYTES else array


def _ragged(given: Any) -> Ragged | None:
    """Return sequences of different lengths as arrays of numbers; None if they differ in more than their lengths."""
    try:
        arrays = [np.asarray(_without_tensors(value)) for value in given]
    except (ValueError, TypeError, RuntimeError):
        return None
    if len({array.shape[1:] for array in arrays}) > 1 or not all(a.ndim and a.dtype.kind in "iuf" for a in arrays):
        return None
    return Ragged([array.astype(np.result_type(*{a.dtype for a in arrays})) for array in arrays])


def _without_tensors(given: Any) -> Any:
    """Return the given value with NumPy arrays in place of tensors."""
    if _is_tensor(given):
        tensor = given.detach().cpu()
        wide = tensor.is_floating_point() and str(tensor.dtype) not in NUMPY_FLOATS
        return (tensor.float() if wide else tensor).numpy()
    if isinstance(given, (list, tuple)) and any(
        isinstance(value, (list, tuple)) or _is_tensor(value) for value in given
    ):
        return [_without_tensors(value) for value in given]
    return given


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # without torch there are no tensors
    return torch is not None and isinstance(value, torch.Tensor)


def _lengths(given: Any) -> str:
    """Return the lengths of nested sequences at the first level at which they differ."""
    level, found = [given], ["length"]
    while len(found) == 1 and found[0].startswith("length"):
        level = [inner for outer in level for inner in outer]
        found = list(dict.fromkeys(map(_length, level)))
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def _length(given: Any) -> str:
    try:
        return "a text" if isinstance(given, (str, bytes)) else f"length {len(given)}"
    except TypeError:  # or an array without dimensions
        return "a single value"
