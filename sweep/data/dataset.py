"""From arrays to splits that training can use: checked, split, standardized, on a device."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from sweep.config import DatasetConfig
from sweep.errors import InvalidValueError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Examples: inputs [n, *input_shape], targets [n] (int64 labels) or [n, n_outputs] (numbers)."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Dataset:
    """A data set, ready for training.

    Args:
        train, val, test: its splits; test is empty where the arrays have none.
        n_outputs: classes of a classification, width of the target of a regression.
        classification: whether targets are labels.
        digest: of the arrays before splitting: other data, other digest.
    """

    train: Split
    val: Split
    test: Split
    n_outputs: int
    classification: bool
    digest: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train.inputs.shape[1:])

    def place(self, device: torch.device, dtype: torch.dtype) -> "Dataset":
        """The data set in a floating type, on the device if it takes less than half of the memory free there."""

        def moved(split: Split) -> Split:
            targets = split.targets if self.classification else split.targets.to(dtype)
            return Split(split.inputs.to(dtype), targets)

        splits = [moved(split) for split in (self.train, self.val, self.test)]
        size = sum(t.nbytes for split in splits for t in (split.inputs, split.targets))
        fits = device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] / 2
        if fits:
            splits = [Split(split.inputs.to(device), split.targets.to(device)) for split in splits]
        train, val, test = splits
        return replace(self, train=train, val=val, test=test)


def load(config: DatasetConfig) -> Dataset:
    """Load, check, split and standardize a data set, on the CPU in float64. The same configuration is loaded once.

    Raises:
        InvalidValueError: names the key of `dataset` or the array that cannot be right.
    """
    return _load(_Hashable(config))


class _Hashable:
    """A configuration as a cache key: compared by what it says."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config, self.text = config, repr(config)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self.text == other.text


@lru_cache(maxsize=4)
def _load(key: _Hashable) -> Dataset:
    config = key.config
    arrays = _checked(_as_arrays(config.component.build()))
    digest = _digest(arrays)
    classification = arrays["y" if "y" in arrays else "y_train"].dtype.kind in "iu"
    splits = _split(arrays, config)
    if config.standardize:
        splits = _standardized(splits)
    n_outputs = _check_labels(splits, config) if classification else _width(splits)
    tensors = {
        name: Split(
            torch.from_numpy(np.array(x, dtype=np.float64)),
            torch.from_numpy(np.array(y, dtype=np.int64 if classification else np.float64)),
        )
        for name, (x, y) in splits.items()
    }
    return Dataset(**tensors, n_outputs=n_outputs, classification=classification, digest=digest)


WHOLE = frozenset({"x", "y"})
REQUIRED = frozenset({"x_train", "y_train", "x_val", "y_val"})
TEST = frozenset({"x_test", "y_test"})


def _as_arrays(given: Any) -> dict[str, np.ndarray]:
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
    if isinstance(given, torch.Tensor):
        tensor = given.detach().cpu()
        wide = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
        return (tensor.float() if wide else tensor).numpy()
    if isinstance(given, (list, tuple)) and any(isinstance(value, (torch.Tensor, list, tuple)) for value in given):
        return [_without_tensors(value) for value in given]
    return given


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


def _checked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All numeric and finite, of equal length per pair, of equal shape across splits; booleans as integers."""
    for name, array in arrays.items():
        if array.dtype.kind == "b":
            array = arrays[name] = array.astype(np.int64)
        if array.dtype.kind not in "iuf":
            raise InvalidValueError(f"dataset.{name}", array.dtype, "must hold numbers")
        if array.ndim == 0 or len(array) == 0:
            raise InvalidValueError(f"dataset.{name}", f"shape {array.shape}", "must hold at least one example")
        if array.ndim == 1 and name.startswith("x"):
            raise InvalidValueError(f"dataset.{name}", f"shape {array.shape}", "must be [examples, features...]")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise InvalidValueError(f"dataset.{name}", f"NaN or infinity in example {row}", "must be finite numbers")
    for name, array in arrays.items():
        partner, first = "y" + name[1:], name[0] + ("" if "x" in arrays else "_train")
        if len(array) != len(arrays[partner]):
            rule = f"must be as many as {partner}, which has {len(arrays[partner])}"
            raise InvalidValueError(f"dataset.{name}", f"{len(array)} examples", rule)
        if array.shape[1:] != arrays[first].shape[1:]:
            rule = f"must have the shape of {first}, whose examples are {list(arrays[first].shape[1:])}"
            raise InvalidValueError(f"dataset.{name}", f"examples {list(array.shape[1:])}", rule)
        if name.startswith("y") and (array.dtype.kind == "f") != (arrays[first].dtype.kind == "f"):
            rule = f"must be labels or numbers as {first} is, which holds {arrays[first].dtype}"
            raise InvalidValueError(f"dataset.{name}", array.dtype, rule)
    return arrays


def _split(arrays: dict[str, np.ndarray], config: DatasetConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(x, y) of each split: as given, or cut from one permutation of all examples."""
    if "x" not in arrays:
        nothing = {name: arrays[name.replace("test", "train")][:0] for name in TEST}
        arrays = nothing | arrays
        return {split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in SPLITS}
    n = len(arrays["x"])
    order = np.random.default_rng(config.split_seed).permutation(n)
    n_val, n_test = round(n * config.val_fraction), round(n * config.test_fraction)
    if n_val == 0 or n - n_val - n_test <= 0:
        rule = f"leaves {n_val} of {n} examples to validate and {max(n - n_val - n_test, 0)} to train"
        raise InvalidValueError("dataset.val_fraction", config.val_fraction, rule)
    parts = np.split(order, [n - n_val - n_test, n - n_test])
    return {split: (arrays["x"][part], arrays["y"][part]) for split, part in zip(SPLITS, parts, strict=True)}


def _standardized(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(x - mean) / deviation per feature, both over the training split; a constant feature becomes 0 there."""
    train = splits["train"][0].astype(np.float64)
    constant = (train == train[0]).all(axis=0)  # its deviation may be a rounding error instead of 0
    mean = np.where(constant, train[0], train.mean(axis=0))
    scale = np.where(constant, 1.0, train.std(axis=0))
    return {name: ((x - mean) / scale, y) for name, (x, y) in splits.items()}


def _check_labels(splits: dict[str, tuple[np.ndarray, np.ndarray]], config: DatasetConfig) -> int:
    """The number of classes; refuses labels that are not 0..C-1."""
    if splits["train"][1].ndim != 1:
        raise InvalidValueError("dataset.y", f"shape {splits['train'][1].shape}", "labels must be [examples]")
    labels = np.concatenate([y for _, y in splits.values()])
    n_classes = config.n_classes or int(labels.max()) + 1
    outside = labels[(labels < 0) | (labels >= n_classes)]
    if outside.size:
        last = f"{n_classes - 1}" if config.n_classes else "C-1"
        raise InvalidValueError("dataset.y", f"label {outside[0]}", f"labels must be 0..{last}")
    if config.n_classes is None and (len(np.unique(labels)) != n_classes or n_classes < 2):
        rule = "labels must be 0..C-1, each in use; dataset.n_classes allows classes without examples"
        raise InvalidValueError("dataset.y", f"labels {labels.min()}..{labels.max()}", rule)
    return n_classes


def _width(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> int:
    """The width of a regression's target; a target [n] becomes [n, 1]."""
    for name, (x, y) in splits.items():
        splits[name] = (x, y.reshape(len(y), int(np.prod(y.shape[1:]))))
    return int(splits["train"][1].shape[1])


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Of names, shapes, types and contents, before standardizing."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
