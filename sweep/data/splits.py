"""The examples of one split of a data set.

They are tensors in memory, arrays that are converted when they are used, or examples that the user's code loads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.data.batch import inputs_of, leaves, mapped, rebuilt, size, target_name, target_of
from sweep.data.loading import Loader

BLOCK_NUMBERS = 2**21
"""Count of numbers that are converted at once, because float64 takes eight times as much memory as bytes."""


@dataclass(frozen=True)
class Split:
    """Examples as tensors on one device.

    Args:
        batch: all examples as one batch: inputs `x` [n, *input_shape] and targets `y`, which are int64 labels [n, ...]
            or floats [n, ...]; or tensors [n, ...] in a different structure.
    """

    batch: Any

    def __len__(self) -> int:
        return size(self.batch)

    def __getitem__(self, rows: slice) -> "Split":
        return Split(mapped(lambda tensor: tensor[rows], self.batch))

    @property
    def inputs(self) -> Any:
        """Return the batch without its target."""
        return inputs_of(self.batch)

    @property
    def targets(self) -> Any:
        """Return the target of all examples; None if there is none."""
        return target_of(self.batch)

    @property
    def example(self) -> Any:
        """Return a batch with 0 examples."""
        return mapped(lambda tensor: tensor[:0], self.batch)

    @property
    def device(self) -> torch.device:
        """Return the device that the tensors are on."""
        device: torch.device = leaves(self.batch)[0].device
        return device

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in leaves(self.batch))

    def take(self, rows: Tensor) -> Any:
        """Return the examples at indices of any shape: tensors [*rows.shape, ...]."""
        return mapped(lambda tensor: _chosen(tensor, rows), self.batch)

    def each(self, rows: Tensor) -> Iterator[Any]:
        """Yield `take(r)` for each r of rows [m, ...].

        Tensors with one number per example are gathered for all m at once.
        """
        columns = []
        for tensor in leaves(self.batch):
            small = tensor.numel() == len(tensor)
            columns.append(iter(_chosen(tensor, rows).unbind()) if small else map(partial(_chosen, tensor), rows))
        for column in zip(*columns, strict=True):
            yield rebuilt(self.batch, column)

    def to(self, device: torch.device) -> "Split":
        """Return the examples on a device."""
        return Split(mapped(lambda tensor: tensor.to(device), self.batch))

    def in_type(self, dtype: torch.dtype) -> "Split":
        """Return the examples with their floating tensors converted to a type."""
        return Split(in_precision(self.batch, dtype))


@dataclass(frozen=True, eq=False)
class StoredSplit:
    """Examples as arrays in their original types, which are converted to tensors when they are used.

    Numbers of x are made floating point, unless they are integers of more than eight bits. Targets that are integers
    become int64. Every other array keeps its type, except that integers of more than eight bits become int64 and that
    floating-point numbers are rounded to `dtype`.

    Args:
        arrays: name -> array [N, ...], or a structure of arrays, which may include examples of other splits.
        rows: indices of the examples of this split, or a slice.
        scaling: mean and deviation with which x is standardized, both [*input_shape], or [C, 1, 1] for channels.
        dtype: type of tensors of floats.
        tokens: whether x contains tokens, which stay integers whatever their type is.
    """

    arrays: Mapping[str, Any]
    rows: np.ndarray | slice
    scaling: tuple[np.ndarray, np.ndarray] | None = None
    dtype: torch.dtype = torch.float64
    tokens: bool = False

    device = torch.device("cpu")

    def __len__(self) -> int:
        return size(self.arrays) if isinstance(self.rows, slice) else len(self.rows)

    def __getitem__(self, rows: slice) -> Split:
        return self._selected(rows).tensors()

    def __getstate__(self) -> dict[str, Any]:
        """Convert the arrays to tensors, which torch sends to other processes in shared memory."""
        chosen = mapped(lambda array: torch.from_numpy(np.ascontiguousarray(array[self.rows])), self.arrays)
        return {**vars(self), "arrays": chosen, "rows": slice(None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["arrays"] = mapped(lambda tensor: tensor.numpy(), state["arrays"])
        vars(self).update(state)

    @property
    def batch(self) -> Any:
        """Return all examples."""
        return self.tensors().batch

    @property
    def inputs(self) -> Any:
        """Return the inputs of all examples."""
        return inputs_of(self.batch)

    @property
    def targets(self) -> Any:
        """Return the target of all examples; None if there is none."""
        name = target_name(list(self.arrays))
        return None if name is None else self._converted(name, self.arrays[name], self.rows)

    @property
    def example(self) -> Any:
        """Return a batch with 0 examples."""
        return self[:0].batch

    @property
    def nbytes(self) -> int:
        """Return the size of all examples as tensors, in bytes."""
        return len(self) * self[:1].nbytes

    def take(self, rows: Tensor) -> Any:
        """Return the examples at indices of any shape: tensors [*rows.shape, ...]."""
        flat = rows.reshape(-1).numpy()
        chosen = flat if isinstance(self.rows, slice) else self.rows[flat]
        batch = {name: self._converted(name, arrays, chosen) for name, arrays in self.arrays.items()}
        return mapped(lambda tensor: tensor.reshape(*rows.shape, *tensor.shape[1:]), batch)

    def each(self, rows: Tensor) -> Iterator[Any]:
        """Yield `take(r)` for each r of rows [m, ...]."""
        return map(self.take, rows)

    def in_type(self, dtype: torch.dtype) -> "StoredSplit":
        """Return the examples with tensors of floats of a type."""
        return replace(self, dtype=dtype)

    def tensors(self) -> Split:
        """Return all examples as tensors. Floats are computed in float64 and then rounded."""
        return Split({name: self._converted(name, arrays, self.rows) for name, arrays in self.arrays.items()})

    def _converted(self, name: str, arrays: Any, rows: np.ndarray | slice) -> Any:
        """Return the tensors of some examples."""
        return mapped(lambda array: self._tensor(name, array, rows), arrays)

    def _tensor(self, name: str, array: np.ndarray, rows: np.ndarray | slice) -> Tensor:
        dtype = self._type(name, array)
        if isinstance(rows, slice):
            array, rows = array[rows], np.arange(len(array[rows]))
        scaling = self.scaling if name == "x" else None
        values = torch.empty((len(rows), *array.shape[1:]), dtype=dtype)
        step = max(BLOCK_NUMBERS // max(int(np.prod(array.shape[1:])), 1), 1)
        for first in range(0, len(rows), step):
            block = array[rows[first : first + step]]
            if dtype.is_floating_point:
                block = block.astype(np.float64)
            if scaling is not None:
                mean, deviation = scaling
                block = (block - mean) / deviation
            values[first : first + step] = torch.from_numpy(_readable(block))
        return values

    def _type(self, name: str, array: np.ndarray) -> torch.dtype:
        kind, small = array.dtype.kind, array.dtype.itemsize == 1
        if name == "x" and self.tokens:
            return torch.int64
        if kind == "f" or (name == "x" and (self.scaling is not None or small)):
            return self.dtype
        if kind == "b" and name != target_name(list(self.arrays)):
            return torch.bool
        if array.dtype == np.uint8 and name != target_name(list(self.arrays)):
            return torch.uint8
        return torch.int64

    def _selected(self, rows: slice) -> "StoredSplit":
        if isinstance(self.rows, slice):
            arrays = mapped(lambda array: array[self.rows][rows], self.arrays)
            return replace(self, arrays=arrays, rows=slice(None))
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True, eq=False)
class LoadedSplit:
    """Examples that the user's data set loads individually when they are used.

    Args:
        loader: loads the batches.
        dtype: type of tensors of floats.
    """

    loader: Loader
    dtype: torch.dtype = torch.float64

    device = torch.device("cpu")
    nbytes = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, rows: slice) -> Split:
        return Split(self._typed(self.loader.examples(range(*rows.indices(len(self))))))

    @property
    def batch(self) -> Any:
        """Return all examples."""
        return self[:].batch

    @property
    def inputs(self) -> Any:
        """Return the inputs of all examples."""
        return inputs_of(self.batch)

    @property
    def targets(self) -> Any:
        """Return the target of all examples; None if there is none."""
        return target_of(self.batch)

    @property
    def example(self) -> Any:
        """Return a batch with 0 examples."""
        return mapped(lambda tensor: tensor[:0], self[:1].batch)

    def in_type(self, dtype: torch.dtype) -> "LoadedSplit":
        """Return the examples with tensors of floats of a type."""
        return replace(self, dtype=dtype)

    def batches(self, seed: int, batch_size: int, drop_last: bool, begin: int, end: int) -> Iterator[Any]:
        """Yield the batches of the updates begin..end-1 of a training with this seed."""
        return map(self._typed, self.loader.batches(seed, batch_size, drop_last, begin, end))

    def in_order(self, at_once: int) -> Iterator[Any]:
        """Yield all examples in order, in batches of at most `at_once`."""
        return map(self._typed, self.loader.in_order(at_once))

    def _typed(self, batch: Any) -> Any:
        return in_precision(batch, self.dtype)


def in_precision(batch: Any, dtype: torch.dtype) -> Any:
    """Convert the floating tensors of a batch to a type, and a target of integers to int64."""
    target = target_of(batch)
    of_target = {id(tensor) for tensor in leaves(target)} if target is not None else set()

    def typed(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return tensor.to(dtype)
        unsigned = tensor.dtype in (torch.uint16, torch.uint32, torch.uint64)  # layers do not support them
        return tensor.long() if unsigned or id(tensor) in of_target else tensor

    return mapped(typed, batch)


def _chosen(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return tensor[rows], [*rows.shape, ...]. On a CPU, index_select is several times as fast as indexing."""
    if rows.ndim == 1:
        return tensor.index_select(0, rows)
    return tensor.index_select(0, rows.reshape(-1)).reshape(*rows.shape, *tensor.shape[1:])


def _readable(block: np.ndarray) -> np.ndarray:
    """Return an array in a type that torch supports: convert big-endian numbers and unsigned integers."""
    if block.dtype.kind in "iu" and block.dtype.itemsize > 1:
        return block.astype(np.int64)
    return np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("="))
