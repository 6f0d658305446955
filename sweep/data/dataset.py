"""Check, split and standardize the data of a source, and place them on a device."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from sweep.arrays import WHOLE, Ragged, Rows, Source, as_source
from sweep.config import DatasetConfig
from sweep.data.batch import leaves, mapped, target_name, target_of
from sweep.data.loading import LABEL_PADDING, Loader, collated, collated_with_labels
from sweep.data.splits import BLOCK_NUMBERS, LoadedSplit, Split, StoredSplit
from sweep.data.windows import DrawnWindows, divided_into_windows, tokens_of, vocabulary_size
from sweep.errors import InvalidValueError
from sweep.messages import Facts
from sweep.plurals import plural
from sweep.tracebacks import refusal

Examples = Split | StoredSplit | LoadedSplit | DrawnWindows

MAX_CONVERTED_BYTES = 2**28
"""Largest size of a data set, as tensors, that is converted at once. A larger one is converted batch by batch."""

DIGEST_EXAMPLES = 64
"""Number of examples that the digest covers if a data set loads its examples individually."""

MAX_LABEL_CLASSES = 20
"""Largest number of classes for which a target of floats may be labels."""


@dataclass(frozen=True)
class Dataset:
    """A data set that is ready for training.

    Args:
        train, val, test: the splits. test is empty if the data set has no test split.
        n_outputs: number of classes, or width of the target of a regression; 0 if it is not known.
        classification: whether targets are labels.
        digest: digest of the arrays before splitting.
        label_like: whether the targets are floats that look like labels: 0.0, 1.0, ..., C-1.0, with
            C <= MAX_LABEL_CLASSES.
    """

    train: Examples
    val: Examples
    test: Examples
    n_outputs: int
    classification: bool
    digest: str
    label_like: bool = False
    _placed: "dict[tuple[torch.device, torch.dtype], Dataset]" = field(
        init=False, default_factory=dict, compare=False, repr=False
    )

    @property
    def input_shape(self) -> Any:
        """Return the shape of the input of one example; a mapping or a tuple of shapes if it has several inputs."""
        return mapped(lambda tensor: tuple(tensor.shape[1:]), self.train[:1].inputs)

    @property
    def facts(self) -> Facts:
        """Return the facts about the data set for a process that has not loaded it."""
        example = mapped(lambda tensor: np.asarray(tensor), self.train.example)
        sizes = len(self.train), len(self.test)
        return Facts(
            *sizes, self.n_outputs, self.classification, self.input_shape, self.digest, example, self.label_like
        )

    @property
    def loads_examples(self) -> bool:
        """Return whether examples are loaded individually, by the user's code."""
        return isinstance(self.train, LoadedSplit)

    def place(self, device: torch.device, dtype: torch.dtype) -> "Dataset":
        """Return the data set in a floating type, on the device if it fits into half of the free memory there.

        The last result is cached, so that successive engines share it.
        """
        if (device, dtype) not in self._placed:
            splits = [split.in_type(dtype) for split in (self.train, self.val, self.test)]
            if sum(split.nbytes for split in splits if isinstance(split, StoredSplit)) <= MAX_CONVERTED_BYTES:
                splits = [split.tensors() if isinstance(split, StoredSplit) else split for split in splits]
            movable = [split for split in splits if isinstance(split, Split | DrawnWindows)]
            if len(movable) == len(splits):
                size = sum(split.nbytes for split in movable)
                if device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] / 2:
                    splits = [split.to(device) for split in movable]
            train, val, test = splits
            self._placed.clear()
            self._placed[device, dtype] = replace(self, train=train, val=val, test=test)
        return self._placed[device, dtype]

    def forget_placed(self) -> None:
        """Clear the cache of `place`."""
        self._placed.clear()


def load(config: DatasetConfig) -> Dataset:
    """Load, check, split and standardize a data set. The same configuration is loaded once.

    Raises:
        InvalidValueError: names the key of `dataset` or the array that is invalid.
    """
    return _load(_Hashable(config))


class _Hashable:
    """Makes a configuration usable as a cache key, which is compared by its text."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config, self.text = config, repr(config)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self.text == other.text


@lru_cache(maxsize=4)
def _load(key: _Hashable) -> Dataset:
    return dataset_of(as_source(key.config.component.build()), key.config)


def dataset_of(source: Source, config: DatasetConfig) -> Dataset:
    """Check, split and standardize the data of a source.

    Raises:
        InvalidValueError: names the key of `dataset` or the array that is invalid.
    """
    if config.block is not None:
        return _of_tokens(source, config, config.block)
    parts = source.parts
    stored = {split: part for split, part in parts.items() if isinstance(part, Mapping)}
    _check_arrays(stored)
    digest = _digest(stored, {split: part for split, part in parts.items() if split not in stored})
    if len(stored) < len(parts) or any(_is_ragged(part) for part in stored.values()):
        return _loaded(parts, source.collate, config, digest)
    splits = _stored_splits(stored, config)
    name = target_name(list(splits["train"].arrays))
    x = splits["train"].arrays.get("x")
    if config.standardize == "channels" and (x is None or x.ndim != 4):
        found = "there is no x" if x is None else f"x has shape {list(x.shape)}"
        raise InvalidValueError("dataset.standardize", "channels", f"is for images x [n, C, H, W]; {found}")
    if config.standardize and x is not None:
        scaling = (_channel_scaling if config.standardize == "channels" else _scaling)(splits["train"])
        splits = {split: replace(one, scaling=scaling) for split, one in splits.items()}
    target = None if name is None else splits["train"].arrays[name]
    if not isinstance(target, np.ndarray):
        n_outputs = config.n_classes or 0
        return Dataset(**splits, n_outputs=n_outputs, classification=False, digest=digest, label_like=False)
    labels = target.dtype.kind in "iub"
    n_outputs = _check_labels(splits, str(name), config) if labels else int(np.prod(target.shape[1:]))
    whole = not labels and _are_label_like(target)
    return Dataset(**splits, n_outputs=n_outputs, classification=labels, digest=digest, label_like=whole)


def _are_label_like(target: np.ndarray) -> bool:
    """Return whether a target [n] or [n, 1] contains exactly 0.0, 1.0, ..., C-1.0, with 2 <= C <= MAX_LABEL_CLASSES."""
    if target.size != len(target) or target.max() >= MAX_LABEL_CLASSES:
        return False
    values = np.unique(target)
    return len(values) > 1 and np.array_equal(values, np.arange(len(values)))


def _of_tokens(source: Source, config: DatasetConfig, block: int) -> Dataset:
    """Return a data set whose examples are windows of tokens.

    With dataset.windows=drawn the windows of the training split overlap. Those of other splits never do.
    """
    drawn, texts = config.windows == "drawn", {split: tokens_of(part, block) for split, part in source.parts.items()}
    if "val" not in texts and drawn and config.split_seed is not None:
        rule = "must be null with dataset.windows=drawn: a text with overlapping windows can only be split in order"
        raise InvalidValueError("dataset.split_seed", config.split_seed, rule)
    if config.split_seed is None and (found := _sizes({split: len(text) for split, text in texts.items()}, config)):
        part, of_each = found
        texts |= {split: text for split, text in _divided(texts.pop(part), of_each).items() if len(text)}
    windows = {split: divided_into_windows(tokens, block) for split, tokens in texts.items()}
    splits: dict[str, Examples] = {}
    for split, stored in _stored_splits(windows, config).items():
        splits[split] = replace(stored, tokens=True)
    if drawn:
        splits["train"] = DrawnWindows.of(texts["train"], block)
        digest = _digest({split: {"x": tokens} for split, tokens in texts.items()}, {})
    else:  # tokens after the last window are not used
        digest = _digest(windows, {})
        texts = {split: tokens[: windows[split]["y"].size + 1] for split, tokens in texts.items()}
    n_outputs = vocabulary_size(texts, config.n_classes or source.n_classes, config.ignore_index)
    return Dataset(**splits, n_outputs=n_outputs, classification=True, digest=digest, label_like=False)


def _columns(part: Mapping[str, Any], suffix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield the name, the name in messages, and the array of each column of a part, including nested columns."""

    def within(label: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping | tuple):
            for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
                yield from within(f"{label}.{key}", inner)
        else:
            yield label, value

    for name, value in part.items():
        for label, array in within(name, value):
            yield name, f"{label}{suffix}", array


def _check_arrays(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse arrays that are not numeric and finite, or whose lengths or shapes differ within or between splits."""
    first: dict[str, np.ndarray] = {}
    for split, part in parts.items():
        columns = list(_columns(part, "" if split == WHOLE else f"_{split}"))
        for name, label, array in columns:
            for one in array.arrays if isinstance(array, Ragged) else [array]:
                _check_numbers(name, label, one, ragged=isinstance(array, Ragged))
        partner = target_name(list(part)) or columns[0][0]
        others = [(label, array) for name, label, array in columns if name == partner]
        for name, label, array in columns:
            key = label.removesuffix(f"_{split}")
            other, of_other = others[0]
            if len(array) != len(of_other):
                rule = f"must have as many examples as {other}, which has {len(of_other)}"
                raise InvalidValueError(f"dataset.{label}", plural(len(array), "example"), rule)
            if isinstance(array, Ragged):
                continue
            known = first.setdefault(key, array)
            of_first = f"{key}_{next(iter(parts))}"
            if array.shape[1:] != known.shape[1:]:
                rule = f"must have the shape of {of_first}, whose examples are {list(known.shape[1:])}"
                raise InvalidValueError(f"dataset.{label}", f"examples {list(array.shape[1:])}", rule)
            if name == partner and (array.dtype.kind == "f") != (known.dtype.kind == "f"):
                rule = f"must be labels or numbers as {of_first} is, which holds {known.dtype}"
                raise InvalidValueError(f"dataset.{label}", array.dtype, rule)
        if parts.keys() != {WHOLE} and part.keys() != parts["train"].keys():
            rule = f"must have the arrays of the training split: {', '.join(parts['train'])}"
            raise InvalidValueError(f"dataset.{split}", ", ".join(part), rule)


def _check_numbers(name: str, label: str, array: np.ndarray, ragged: bool) -> None:
    """Refuse an array, or one example of a ragged array, that does not contain finite numbers."""
    if array.dtype.kind not in "iufb":
        raise InvalidValueError(f"dataset.{label}", array.dtype, "must hold numbers")
    if not ragged and (array.ndim == 0 or len(array) == 0):
        raise InvalidValueError(f"dataset.{label}", f"shape {array.shape}", "must hold at least one example")
    if not ragged and array.ndim == 1 and name == "x":
        tokens = "; dataset.block divides tokens into examples" if array.dtype.kind in "iu" else ""
        raise InvalidValueError(f"dataset.{label}", f"shape {array.shape}", f"must be [examples, features...]{tokens}")
    if array.dtype.kind != "f":
        return
    step = max(BLOCK_NUMBERS // max(int(np.prod(array.shape[1:])), 1), 1)
    for begin in range(0, len(array), step):
        finite = np.isfinite(array[begin : begin + step])
        if not finite.all():
            row = begin + int(np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))[0])
            raise InvalidValueError(f"dataset.{label}", f"NaN or infinity in example {row}", "must be finite numbers")


def _is_ragged(part: Mapping[str, Any]) -> bool:
    return any(isinstance(array, Ragged) for _, _, array in _columns(part))


def _sizes(sizes: Mapping[str, int], config: DatasetConfig) -> tuple[str, dict[str, int]] | None:
    """Return the part that has to be divided into splits, and the number of examples of each of these splits.

    WHOLE is divided into all splits. If there is no val, train is divided into train and val. Return None if no part
    has to be divided.

    Args:
        sizes: part -> number of its examples.

    Raises:
        InvalidValueError: names dataset.val_fraction if it leaves no examples to train or to validate.
    """
    if "val" in sizes:
        return None
    part = WHOLE if WHOLE in sizes else "train"
    n = sizes[part]
    n_val, n_test = round(n * config.val_fraction), round(n * config.test_fraction) if part == WHOLE else 0
    if n_val == 0 or n - n_val - n_test <= 0:
        rule = f"leaves {n_val} of {n} examples for validation and {max(n - n_val - n_test, 0)} for training"
        raise InvalidValueError("dataset.val_fraction", config.val_fraction, rule)
    of_each = {"train": n - n_val - n_test, "val": n_val, "test": n_test}
    return part, of_each if part == WHOLE else {split: of_each[split] for split in ("train", "val")}


def _divided(values: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Divide values [n], in order, into parts of the given sizes, whose sum is n."""
    parts = np.split(values, np.cumsum(list(sizes.values()))[:-1])
    return dict(zip(sizes, parts, strict=True))


def _cut(sizes: Mapping[str, int], config: DatasetConfig) -> dict[str, tuple[str, np.ndarray | None]]:
    """Return the part that contains each split, and the rows of the split in it; None stands for all rows.

    A part is divided after a random permutation; without a split_seed it is divided in order.

    Args:
        sizes: part -> number of its examples.

    Raises:
        InvalidValueError: names dataset.val_fraction if it leaves no examples to train or to validate.
    """
    cut: dict[str, tuple[str, np.ndarray | None]] = {"test": ("train", np.empty(0, dtype=np.int64))}
    cut |= {split: (split, None) for split in sizes if split != WHOLE}
    if found := _sizes(sizes, config):
        part, of_each = found
        n, seed = sizes[part], config.split_seed
        order = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
        cut |= {split: (part, rows) for split, rows in _divided(order, of_each).items()}
    return cut


def _stored_splits(parts: Mapping[str, Mapping[str, Any]], config: DatasetConfig) -> dict[str, StoredSplit]:
    """Return the splits, of which some may be cut from one part."""
    cut = _cut({part: len(leaves(arrays)[0]) for part, arrays in parts.items()}, config)
    return {
        split: StoredSplit(parts[part], slice(None) if rows is None else rows) for split, (part, rows) in cut.items()
    }


def _loaded(
    parts: Mapping[str, Any], collate: Callable[[list[Any]], Any] | None, config: DatasetConfig, digest: str
) -> Dataset:
    """Return a data set whose examples are loaded individually."""
    if config.standardize == "channels":
        rule = "is for images in an array [n, C, H, W], not for examples that are loaded individually"
        raise InvalidValueError("dataset.standardize", "channels", rule)
    if config.standardize and any(isinstance(part, Mapping) and "x" in part for part in parts.values()):
        rule = "is not possible: the examples of x have different lengths; dataset.standardize=false pads them with 0"
        raise InvalidValueError("dataset.standardize", True, rule)
    sources = {split: Rows(part) if isinstance(part, Mapping) else part for split, part in parts.items()}
    for part, source in sources.items():
        if not len(source):
            key = "dataset" if part == WHOLE else f"dataset.{part}"
            raise InvalidValueError(key, "0 examples", "must hold at least one example")
    cut = _cut({part: len(source) for part, source in sources.items()}, config)
    train = sources[cut["train"][0]]
    if config.collate is not None:
        collate = config.collate.function()
    collate = collate or (collated_with_labels if _names_label(train) else collated)
    splits = {
        split: LoadedSplit(Loader(sources[part], rows, collate, config.num_workers))
        for split, (part, rows) in cut.items()
    }
    try:
        target = target_of(splits["train"][:1].batch)
    except InvalidValueError:
        raise
    except Exception as error:  # raised by the code of the data set or of its collate function
        rule = f"cannot be collated into a batch: {refusal(error)}"
        raise InvalidValueError("dataset", "the first example", rule) from error
    labels = isinstance(target, torch.Tensor) and not target.is_floating_point()
    n_outputs = config.n_classes or _classes_of(train, sources.values(), config) if labels else 0
    if isinstance(target, torch.Tensor) and not labels:
        n_outputs = int(np.prod(target.shape[1:]))
    return Dataset(**splits, n_outputs=n_outputs, classification=labels, digest=digest, label_like=False)


def _names_label(source: Any) -> bool:
    """Return whether a data set is of Hugging Face and its target is named `label`."""
    features = getattr(source, "features", None)
    return isinstance(features, Mapping) and "label" in features and "labels" not in features


def _classes_of(source: Any, sources: Collection[Any], config: DatasetConfig) -> int:
    """Return the number of classes of map-style data sets; 0 if it cannot be determined.

    Args:
        source: the training split.
        sources: all splits.

    Raises:
        InvalidValueError: names the labels if one is negative, other than LABEL_PADDING and `ignore_index`.
    """
    if isinstance(source, Rows):
        name = str(target_name(list(source.columns)))
        columns = [part.columns[name] for part in sources]
        arrays = [array for column in columns for array in (column.arrays if isinstance(column, Ragged) else [column])]
        labels = np.unique(np.concatenate([array.reshape(-1) for array in arrays]))
        labels = labels[(labels != config.ignore_index) & (labels != LABEL_PADDING)]
        if labels.size and labels.min() < 0:
            raise InvalidValueError(f"dataset.{name}", f"label {labels.min()}", "labels must be 0..C-1")
        return int(labels.max()) + 1 if labels.size else 0
    if hasattr(source, "classes"):  # a data set of torchvision
        return len(source.classes)
    features = getattr(source, "features", None)  # a data set of Hugging Face
    if isinstance(features, Mapping):
        label = features.get("labels", features.get("label"))
        one = getattr(label, "feature", label)  # a list of labels has the feature of its elements
        return int(getattr(one, "num_classes", 0) or 0)
    return 0


def _scaling(train: StoredSplit) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of each feature over the training split.

    The deviation of a constant feature is 1, so that (x - mean) / deviation is 0.
    """
    x = train.arrays["x"]
    flat = x.reshape(len(x), int(np.prod(x.shape[1:])))
    mean, deviation = np.empty(flat.shape[1]), np.empty(flat.shape[1])
    step = max(BLOCK_NUMBERS // max(len(train), 1), 2)  # NumPy would sum a single column in a different order
    for first in range(0, flat.shape[1], step):
        begin = max(min(first, flat.shape[1] - 2), 0)
        some = slice(begin, first + step)
        block = flat[train.rows, some].astype(np.float64)
        constant = (block == block[0]).all(axis=0)  # its deviation may be a rounding error instead of 0
        mean[some] = np.where(constant, block[0], block.mean(axis=0))
        deviation[some] = np.where(constant, 1.0, block.std(axis=0))
    return mean.reshape(x.shape[1:]), deviation.reshape(x.shape[1:])


def _channel_scaling(train: StoredSplit) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of each channel of images over the training split, both [C, 1, 1].

    The deviation of a constant channel is 1, so that (x - mean) / deviation is 0.
    """
    x, rows = train.arrays["x"], train.rows
    rows = np.arange(len(x))[rows] if isinstance(rows, slice) else rows
    _, channels, height, width = x.shape
    step = max(BLOCK_NUMBERS // (channels * height * width), 1)
    blocks = [rows[first : first + step] for first in range(0, len(rows), step)]
    count = len(rows) * height * width
    # sum differences from one pixel, so that the sums of a constant channel are exactly 0
    first_pixel = x[rows[0], :, :1, :1].astype(np.float64)
    sums = sum((x[block] - first_pixel).sum(axis=(0, 2, 3), keepdims=True)[0] for block in blocks)
    mean = first_pixel + sums / count
    squares = sum(np.square(x[block] - mean).sum(axis=(0, 2, 3), keepdims=True)[0] for block in blocks)
    deviation = np.sqrt(squares / count)
    return mean, np.where(deviation == 0, 1.0, deviation)


def _check_labels(splits: Mapping[str, StoredSplit], name: str, config: DatasetConfig) -> int:
    """Return the number of classes; refuse labels that are not 0..C-1."""
    columns = [(split.arrays[name], split.rows) for split in splits.values()]
    blocks = [labels for column in columns for labels in _label_blocks(*column, config.ignore_index)]
    if not blocks:
        raise InvalidValueError(f"dataset.{name}", f"label {config.ignore_index}", "is the only label and is ignored")
    low, high = min(low for low, _, _ in blocks), max(high for _, high, _ in blocks)
    n_classes = config.n_classes or high + 1
    if low < 0 or high >= n_classes:
        last = f"{n_classes - 1}" if config.n_classes else "C-1"
        raise InvalidValueError(f"dataset.{name}", f"label {low if low < 0 else high}", f"labels must be 0..{last}")
    one_each = splits["train"].arrays[name].ndim == 1
    if (
        config.n_classes is None
        and one_each
        and (len(set().union(*(d for *_, d in blocks))) != n_classes or n_classes < 2)
    ):
        rule = "labels must be 0..C-1 without gaps; dataset.n_classes allows classes without examples"
        raise InvalidValueError(f"dataset.{name}", f"labels {low}..{high}", rule)
    return n_classes


def _label_blocks(
    labels: np.ndarray, rows: np.ndarray | slice, ignored: int | None
) -> Iterator[tuple[int, int, set[int]]]:
    """Yield the smallest and the largest label of each block of examples; for labels [n] also the distinct labels."""
    if isinstance(rows, slice):
        labels, rows = labels[rows], np.arange(len(labels[rows]))
    step = max(BLOCK_NUMBERS // max(int(np.prod(labels.shape[1:])), 1), 1)
    for first in range(0, len(rows), step):
        block = labels[rows[first : first + step]]
        block = block if ignored is None else block[block != ignored]
        if block.size:
            yield int(block.min()), int(block.max()), set(np.unique(block).tolist()) if labels.ndim == 1 else set()


def _digest(stored: Mapping[str, Mapping[str, Any]], loaded: Mapping[str, Any]) -> str:
    """Return a digest of names, shapes, types and contents, before standardizing.

    For a data set that loads its examples individually, it covers their number and DIGEST_EXAMPLES of them.
    """
    digest = hashlib.sha256()
    columns = {
        label: (name, array)
        for split, part in stored.items()
        for name, label, array in _columns(part, "" if split == WHOLE else f"_{split}")
    }
    for label in sorted(columns):
        name, column = columns[label]
        for array in column.arrays if isinstance(column, Ragged) else [column]:
            known = array.astype(np.int64) if array.dtype.kind == "b" and name in ("x", "y") else array
            digest.update(f"{label} {known.dtype.str} {known.shape};".encode())
            step = max(BLOCK_NUMBERS // max(int(np.prod(known.shape[1:])), 1), 1)
            for first in range(0, len(known), step):
                block = np.ascontiguousarray(known[first : first + step])
                digest.update(block.reshape(-1).view(np.uint8).data)
    for split, source in sorted(loaded.items()):
        digest.update(f"{split} {len(source)};".encode())
        loader = Loader(source, None, list, 0)
        for index in np.unique(np.linspace(0, len(source) - 1, min(DIGEST_EXAMPLES, len(source))).astype(int)):
            digest.update(_text(loader.examples([int(index)])).encode())
    return digest.hexdigest()[:16]


def _text(value: Any) -> str:
    """Return a text that identifies the content of an example, for the digest."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().float().numpy() if value.dtype == torch.bfloat16 else value.detach().cpu().numpy()
    if isinstance(value, np.generic):
        return repr(value)
    if hasattr(value, "__array_interface__"):  # a PIL image
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    return repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
