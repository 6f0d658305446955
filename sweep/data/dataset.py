"""From arrays to splits that training can use: checked, split, standardized, on a device."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from sweep.arrays import TEST, as_arrays
from sweep.config import DatasetConfig
from sweep.errors import InvalidValueError
from sweep.messages import Facts
from sweep.plurals import plural

SPLITS = ("train", "val", "test")

BLOCK = 2**21
"""Numbers that are converted at once: a data set in float64 takes eight times as much memory as one in bytes."""


@dataclass(frozen=True)
class Split:
    """Examples: inputs [n, *input_shape], targets [n] (int64 labels) or [n, n_outputs] (numbers)."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: slice) -> "Split":
        return Split(self.inputs[rows], self.targets[rows])

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the inputs of one example."""
        return tuple(self.inputs.shape[1:])


@dataclass(frozen=True, eq=False)
class StoredSplit:
    """Examples in the types in which they were loaded. Tensors are made of them when they are asked for.

    Args:
        x: [N, *input_shape], of this split and perhaps of others.
        y: [N] labels, or [N, n_outputs] numbers.
        rows: of the examples of this split; all of them if it is a slice.
        scaling: mean and deviation, each [*input_shape], with which the inputs are standardized.
        label: whether targets are labels.
    """

    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray | slice
    scaling: tuple[np.ndarray, np.ndarray] | None
    label: bool

    def __len__(self) -> int:
        return len(self.x[self.rows]) if isinstance(self.rows, slice) else len(self.rows)

    def __getitem__(self, rows: slice) -> Split:
        """Return some of the examples in float64."""
        return self._selected(rows).in_type(torch.float64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the inputs of one example."""
        return self.x.shape[1:]

    @property
    def inputs(self) -> torch.Tensor:
        """Return the inputs in float64."""
        return self.in_type(torch.float64).inputs

    @property
    def targets(self) -> torch.Tensor:
        """Return the targets, labels as int64 and numbers as float64."""
        labels = np.asarray(self.y[self.rows], dtype=np.int64 if self.label else np.float64)
        return torch.from_numpy(np.array(labels, order="C"))

    def in_type(self, dtype: torch.dtype) -> Split:
        """Return the examples with inputs, and targets that are numbers, of a floating type; each is computed in
        float64 and then rounded.
        """
        inputs = torch.empty((len(self), *self.shape), dtype=dtype)
        step = max(BLOCK // max(int(np.prod(self.shape)), 1), 1)
        for first in range(0, len(self), step):
            block = self._selected(slice(first, first + step))
            values = block.x[block.rows].astype(np.float64)
            if self.scaling is not None:
                mean, deviation = self.scaling
                values = (values - mean) / deviation
            inputs[first : first + step] = torch.from_numpy(values)
        targets = self.targets
        return Split(inputs, targets if self.label else targets.to(dtype))

    def _selected(self, rows: slice) -> "StoredSplit":
        if isinstance(self.rows, slice):
            return replace(self, x=self.x[self.rows][rows], y=self.y[self.rows][rows], rows=slice(None))
        return replace(self, rows=self.rows[rows])


Examples = Split | StoredSplit


@dataclass(frozen=True)
class Dataset:
    """A data set, ready for training.

    Args:
        train, val, test: its splits; test is empty where the arrays have none.
        n_outputs: classes of a classification, width of the target of a regression.
        classification: whether targets are labels.
        digest: of the arrays before splitting: other data, other digest.
    """

    train: Examples
    val: Examples
    test: Examples
    n_outputs: int
    classification: bool
    digest: str
    _placed: "dict[tuple[torch.device, torch.dtype], Dataset]" = field(
        init=False, default_factory=dict, compare=False, repr=False
    )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.train.shape

    @property
    def facts(self) -> Facts:
        """Return what others are told of it."""
        sizes = len(self.train), len(self.test)
        return Facts(*sizes, self.n_outputs, self.classification, self.input_shape, self.digest)

    def place(self, device: torch.device, dtype: torch.dtype) -> "Dataset":
        """Return the data set in a floating type, on the device if it takes less than half of the memory free there.

        The last one that was placed is kept: engines that follow one another share it.
        """
        if (device, dtype) not in self._placed:
            splits = [_in_type(split, dtype, self.classification) for split in (self.train, self.val, self.test)]
            size = sum(t.nbytes for split in splits for t in (split.inputs, split.targets))
            fits = device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] / 2
            if fits:
                splits = [Split(split.inputs.to(device), split.targets.to(device)) for split in splits]
            train, val, test = splits
            self._placed.clear()
            self._placed[device, dtype] = replace(self, train=train, val=val, test=test)
        return self._placed[device, dtype]

    def forget_placed(self) -> None:
        """Let go of the copy that `place` has kept."""
        self._placed.clear()


def _in_type(split: Examples, dtype: torch.dtype, labels: bool) -> Split:
    if isinstance(split, StoredSplit):
        return split.in_type(dtype)
    return Split(split.inputs.to(dtype), split.targets if labels else split.targets.to(dtype))


def load(config: DatasetConfig) -> Dataset:
    """Load, check, split and standardize a data set. The same configuration is loaded once.

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
    return dataset_of(as_arrays(key.config.component.build()), key.config)


def dataset_of(arrays: Mapping[str, np.ndarray], config: DatasetConfig) -> Dataset:
    """Check, split and standardize the arrays of a data set.

    Args:
        arrays: x and y, or x_train, y_train, x_val, y_val and perhaps x_test, y_test.

    Raises:
        InvalidValueError: names the key of `dataset` or the array that cannot be right.
    """
    arrays = _checked({name: np.array(array) for name, array in arrays.items()})  # the user's may be changed later
    digest = _digest(arrays)
    labels = arrays["y" if "y" in arrays else "y_train"].dtype.kind in "iu"
    if not labels:  # a target [n] becomes [n, 1]
        arrays |= {name: y.reshape(len(y), int(np.prod(y.shape[1:]))) for name, y in arrays.items() if name[0] == "y"}
    splits = _split(arrays, config, labels)
    if config.standardize:
        scaling = _scaling(splits["train"])
        splits = {name: replace(split, scaling=scaling) for name, split in splits.items()}
    n_outputs = _check_labels(splits, config) if labels else int(splits["train"].y.shape[1])
    return Dataset(**splits, n_outputs=n_outputs, classification=labels, digest=digest)


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
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
            raise InvalidValueError(f"dataset.{name}", f"NaN or infinity in example {row}", "must be finite numbers")
    for name, array in arrays.items():
        partner, first = "y" + name[1:], name[0] + ("" if "x" in arrays else "_train")
        if len(array) != len(arrays[partner]):
            rule = f"must be as many as {partner}, which has {len(arrays[partner])}"
            raise InvalidValueError(f"dataset.{name}", plural(len(array), "example"), rule)
        if array.shape[1:] != arrays[first].shape[1:]:
            rule = f"must have the shape of {first}, whose examples are {list(arrays[first].shape[1:])}"
            raise InvalidValueError(f"dataset.{name}", f"examples {list(array.shape[1:])}", rule)
        if name.startswith("y") and (array.dtype.kind == "f") != (arrays[first].dtype.kind == "f"):
            rule = f"must be labels or numbers as {first} is, which holds {arrays[first].dtype}"
            raise InvalidValueError(f"dataset.{name}", array.dtype, rule)
    return arrays


def _split(arrays: Mapping[str, np.ndarray], config: DatasetConfig, labels: bool) -> dict[str, StoredSplit]:
    """Return the splits: as given, or cut from one permutation of all examples."""
    if "x" not in arrays:
        nothing = {name: arrays[name.replace("test", "train")][:0] for name in TEST}
        arrays = nothing | dict(arrays)
        return {
            split: StoredSplit(arrays[f"x_{split}"], arrays[f"y_{split}"], slice(None), None, labels)
            for split in SPLITS
        }
    n = len(arrays["x"])
    order = np.random.default_rng(config.split_seed).permutation(n)
    n_val, n_test = round(n * config.val_fraction), round(n * config.test_fraction)
    if n_val == 0 or n - n_val - n_test <= 0:
        rule = f"leaves {n_val} of {n} examples to validate and {max(n - n_val - n_test, 0)} to train"
        raise InvalidValueError("dataset.val_fraction", config.val_fraction, rule)
    parts = np.split(order, [n - n_val - n_test, n - n_test])
    return {
        split: StoredSplit(arrays["x"], arrays["y"], part, None, labels)
        for split, part in zip(SPLITS, parts, strict=True)
    }


def _scaling(train: StoredSplit) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each feature over the training split, with which (x - mean) / deviation is 0 for a
    constant one.
    """
    flat = train.x.reshape(len(train.x), int(np.prod(train.shape)))
    mean, deviation = np.empty(flat.shape[1]), np.empty(flat.shape[1])
    step = max(BLOCK // max(len(train), 1), 2)  # the sum over a single column would be formed in another order
    for first in range(0, flat.shape[1], step):
        begin = max(min(first, flat.shape[1] - 2), 0)
        some = slice(begin, first + step)
        block = flat[train.rows, some].astype(np.float64)
        constant = (block == block[0]).all(axis=0)  # its deviation may be a rounding error instead of 0
        mean[some] = np.where(constant, block[0], block.mean(axis=0))
        deviation[some] = np.where(constant, 1.0, block.std(axis=0))
    shape = train.shape
    return mean.reshape(shape), deviation.reshape(shape)


def _check_labels(splits: Mapping[str, StoredSplit], config: DatasetConfig) -> int:
    """The number of classes; refuses labels that are not 0..C-1."""
    if splits["train"].y.ndim != 1:
        shape = (len(splits["train"]), *splits["train"].y.shape[1:])
        raise InvalidValueError("dataset.y", f"shape {shape}", "labels must be [examples]")
    labels = np.concatenate([split.y[split.rows] for split in splits.values()])
    n_classes = config.n_classes or int(labels.max()) + 1
    outside = labels[(labels < 0) | (labels >= n_classes)]
    if outside.size:
        last = f"{n_classes - 1}" if config.n_classes else "C-1"
        raise InvalidValueError("dataset.y", f"label {outside[0]}", f"labels must be 0..{last}")
    if config.n_classes is None and (len(np.unique(labels)) != n_classes or n_classes < 2):
        rule = "labels must be 0..C-1, each in use; dataset.n_classes allows classes without examples"
        raise InvalidValueError("dataset.y", f"labels {labels.min()}..{labels.max()}", rule)
    return n_classes


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a digest of names, shapes, types and contents, before standardizing."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]
