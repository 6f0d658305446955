"""From arrays to splits that training can use: checked, split, standardized, on a device."""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from sweep.config import DatasetConfig
from sweep.validation import InvalidValueError

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
        if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] / 2:
            splits = [Split(split.inputs.pin_memory(), split.targets.pin_memory()) for split in splits]
        else:
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
    given = config.component.build()
    arrays = _checked(_as_arrays(given), config)
    digest = _digest(arrays)
    classification = arrays["y" if "y" in arrays else "y_train"].dtype.kind in "iu"
    splits = _split(arrays, config)
    if config.standardize:
        splits = _standardized(splits)
    n_outputs = _check_labels(splits, config) if classification else _width(splits)
    kind = torch.int64 if classification else torch.float64
    tensors = {
        name: Split(torch.as_tensor(x, dtype=torch.float64), torch.as_tensor(y).to(kind))
        for name, (x, y) in splits.items()
    }
    return Dataset(**tensors, n_outputs=n_outputs, classification=classification, digest=digest)


def _as_arrays(given: Any) -> dict[str, np.ndarray]:
    """The mapping a data set gave, without what is not ours, as NumPy arrays."""
    names = {"x", "y"} | {f"{axis}_{split}" for axis in "xy" for split in SPLITS}
    if not hasattr(given, "items"):
        raise InvalidValueError("dataset._target_", type(given).__name__, "must give a mapping of arrays")
    arrays = {name: np.asarray(value) for name, value in given.items() if name in names}
    whole = {"x", "y"} <= arrays.keys()
    split = {"x_train", "y_train", "x_val", "y_val"} <= arrays.keys() and len(arrays) % 2 == 0
    if whole == split:
        rule = "must give x and y, or x_train, y_train, x_val, y_val and perhaps x_test, y_test"
        raise InvalidValueError("dataset", ", ".join(given) or "nothing", rule)
    return arrays


def _checked(arrays: dict[str, np.ndarray], config: DatasetConfig) -> dict[str, np.ndarray]:
    """Boolean labels as integers; everything numeric, finite, and of equal length per pair."""
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
    for name, x in arrays.items():
        partner = "y" + name[1:]
        if name.startswith("x") and len(x) != len(arrays[partner]):
            rule = f"must be as many as {partner}, which has {len(arrays[partner])}"
            raise InvalidValueError(f"dataset.{name}", f"{len(x)} examples", rule)
    return arrays


def _split(arrays: dict[str, np.ndarray], config: DatasetConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(x, y) of each split: as given, or cut from one permutation of all examples."""
    if "x" not in arrays:
        for name in ("x_test", "y_test"):
            arrays.setdefault(name, arrays[name.replace("test", "train")][:0])
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
    """(x - mean) / deviation per feature, both over the training split; a constant feature becomes 0."""
    train = splits["train"][0].astype(np.float64)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    return {name: ((x - mean) / scale, y) for name, (x, y) in splits.items()}


def _check_labels(splits: dict[str, tuple[np.ndarray, np.ndarray]], config: DatasetConfig) -> int:
    """The number of classes; refuses labels that are not 0..C-1."""
    labels = np.concatenate([y.reshape(-1) for _, y in splits.values()])
    if any(y.ndim != 1 for _, y in splits.values()):
        raise InvalidValueError("dataset.y", f"shape {splits['train'][1].shape}", "labels must be [examples]")
    n_classes = config.n_classes or int(labels.max()) + 1
    outside = labels[(labels < 0) | (labels >= n_classes)]
    if outside.size:
        last = f"{n_classes - 1}" if config.n_classes else "C-1"
        raise InvalidValueError("dataset.y", f"label {outside[0]}", f"labels must be 0..{last}")
    if config.n_classes is None:
        absent = np.setdiff1d(np.arange(min(n_classes, labels.size + 1)), labels)
        if absent.size or n_classes < 2:
            rule = "labels must be 0..C-1, each in use; dataset.n_classes allows classes without examples"
            raise InvalidValueError("dataset.y", f"labels {labels.min()}..{labels.max()}", rule)
    return n_classes


def _width(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> int:
    """The width of a regression's target; a target [n] becomes [n, 1]."""
    for name, (x, y) in splits.items():
        splits[name] = (x, y.reshape(len(y), -1))
    return int(splits["train"][1].shape[1])


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Of names, shapes, types and contents, before standardizing."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
