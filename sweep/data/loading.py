"""Load batches of a map-style data set: an object with `__len__` and `__getitem__`, such as a torch Dataset.

The order of the examples depends on (seed, epoch) only. The numbers that `__getitem__` draws from the generators of
torch, NumPy and Python depend on (seed, epoch, index) only, whichever process loads the example.
"""

import random
import signal
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sweep.config import steps_per_epoch
from sweep.data.batch import TARGETS
from sweep.errors import InvalidValueError

LABEL_PADDING = -100
"""The value that pads targets of different lengths. The cross entropy of torch ignores this label by default."""

EVALUATION_SEED = 2**63 - 1
"""The seed of random numbers in evaluations. It is the same in every evaluation of every training."""


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the examples in an epoch of a training with this seed: int64 [n], on the CPU."""
    return torch.randperm(n, generator=generator_of(seed, epoch))


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """Return the random generator, on the CPU, of an epoch of a training with this seed."""
    return torch.Generator().manual_seed(_mixed(seed, epoch))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0])


_loaders: "weakref.WeakSet[Loader]" = weakref.WeakSet()


def close_loaders() -> None:
    """End the worker processes of all data sets."""
    for loader in list(_loaders):
        loader.close()


class Loader:
    """Loads batches of a map-style data set, in this process or in worker processes.

    Args:
        source: the data set. source[i] is a tensor, an array, a number, or a tuple or mapping of these.
        rows: indices of the examples that are used, int64 [n]; None for all.
        collate: takes a list of examples and returns a batch.
        num_workers: number of processes that load examples; 0 to load them in this process.
    """

    def __init__(
        self, source: Any, rows: np.ndarray | None, collate: Callable[[list[Any]], Any], num_workers: int
    ) -> None:
        self.source, self.rows, self.collate, self.num_workers = source, rows, collate, num_workers
        self._ahead: tuple[tuple[int, int, bool, int], Iterator[Any]] | None = None
        """(Seed, batch size, drop_last, next update), and the iterator over the batches that workers load ahead."""
        self._unused: tuple[int, Any] | None = None
        """The update and the batch that was loaded last and not used, because the training paused before it."""
        self._evaluating: dict[int, DataLoader[Any]] = {}
        _loaders.add(self)

    def close(self) -> None:
        """End the worker processes."""
        self._ahead = self._unused = None
        self._evaluating.clear()

    def __len__(self) -> int:
        return len(self.source) if self.rows is None else len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_ahead": None, "_unused": None, "_evaluating": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _loaders.add(self)

    def examples(self, rows: Sequence[int]) -> Any:
        """Return a batch of some examples for an evaluation."""
        with generators_restored():
            return self._collated(self._seeded(), [(EVALUATION_SEED, 0, index) for index in rows])

    def batches(self, seed: int, batch_size: int, drop_last: bool, begin: int, end: int) -> Iterator[Any]:
        """Yield the batches of the updates begin..end-1. Workers load further ones ahead."""
        keys, unused, self._unused = (seed, batch_size, drop_last), self._unused, None
        follows = unused is not None and unused[0] == begin  # then the workers have loaded that batch already
        if self._ahead is None or self._ahead[0] != (*keys, begin + follows):
            self._ahead, follows = None, False  # dropping the iterator ends its workers
            order = self._order(seed, batch_size, drop_last, begin)
            self._ahead = (*keys, begin), self._loaded(order, persistent=False)
        for step in range(begin, end):
            if follows and unused is not None:
                batch, follows = unused[1], False
            else:
                loaded = self._ahead[1]
                with generators_restored():
                    batch = next(loaded)
                self._ahead = (*keys, step + 1), loaded
            self._unused = step, batch
            yield batch
            self._unused = None  # the caller asks for the next batch, so it has used this one

    def in_order(self, at_once: int) -> Iterator[Any]:
        """Yield all examples in order, in batches of at most `at_once`."""
        parts = [range(first, min(first + at_once, len(self))) for first in range(0, len(self), at_once)]
        order = [[(EVALUATION_SEED, 0, index) for index in part] for part in parts]
        loaded = self._loaded(order, persistent=True, key=at_once)
        for _ in order:
            with generators_restored():
                batch = next(loaded)
            yield batch

    def _loaded(self, order: Any, persistent: bool, key: int = 0) -> Iterator[Any]:
        """Return an iterator over the batches whose examples have these (seed, epoch, index).

        Args:
            order: yields a list of (seed, epoch, index) for each batch.
            persistent: whether to keep the worker processes for the next iterator.
            key: identifies persistent workers.
        """
        seeded = self._seeded()
        if not self.num_workers:
            return (self._collated(seeded, keys) for keys in order)
        if persistent and key in self._evaluating:
            return iter(self._evaluating[key])
        loader: DataLoader[Any] = DataLoader(
            seeded,
            batch_sampler=order,
            num_workers=self.num_workers,
            collate_fn=self.collate,
            worker_init_fn=_restore_sigterm,
            multiprocessing_context="fork" if sys.platform == "linux" else None,  # forked workers end with this process
            persistent_workers=persistent,
            generator=torch.Generator(),  # otherwise it uses the generator of the training
        )
        if persistent:
            self._evaluating[key] = loader
        return iter(loader)

    def _seeded(self) -> "_Seeded":
        return _Seeded(self.source, self.rows)

    def _collated(self, seeded: "_Seeded", keys: Sequence[tuple[int, int, int]]) -> Any:
        return self.collate([seeded[key] for key in keys])

    def _order(self, seed: int, batch_size: int, drop_last: bool, begin: int) -> Iterator[list[tuple[int, int, int]]]:
        """Yield the (seed, epoch, index) of the examples of each update from `begin` on."""
        per_epoch, step = steps_per_epoch(len(self), batch_size, drop_last), begin
        while True:
            epoch, first = divmod(step, per_epoch)
            order = permutation(len(self), seed, epoch).tolist()
            for index in range(first, per_epoch):
                chosen = order[index * batch_size : (index + 1) * batch_size]
                yield [(seed, epoch, row) for row in chosen]
            step += per_epoch - first


def _restore_sigterm(worker: int) -> None:
    """Let SIGTERM end a worker. A DataLoader sends it to its workers, which inherit that the trainer ignores it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Seeded(Dataset[Any]):
    """Seeds the global generators with (seed, epoch, index) before it loads an example."""

    def __init__(self, source: Any, rows: np.ndarray | None) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        seed, epoch, index = key
        mixed = _mixed(seed, epoch, index)
        torch.default_generator.manual_seed(mixed)  # not those of GPUs, which the training uses
        random.seed(mixed)
        np.random.seed(mixed % 2**32)
        return self.source[index if self.rows is None else int(self.rows[index])]


@contextmanager
def generators_restored() -> Iterator[None]:
    """Restore the global generators of torch (for the CPU), NumPy and Python after a context."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def collated(examples: list[Any]) -> Any:
    """Collate a list of examples into a batch. This is the default collate function.

    Tensors, arrays, numbers and lists of numbers are stacked along a new first axis. If their shapes differ, they are
    padded at the end of each axis: integer targets with -100, other values with 0. The target is `labels`, `label` or
    `y` of a mapping, or the last entry of a tuple. Tuples and mappings keep their structure. Texts and lists of texts
    in a mapping are omitted.

    Raises:
        InvalidValueError: names dataset.collate if the examples cannot be collated.
    """
    return _collated(examples, "")


def _has_fields(example: Any) -> bool:
    """Return whether an example is a list of fields, like a tuple, and not a list of numbers."""
    return isinstance(example, list) and any(isinstance(value, Tensor | np.ndarray | Mapping) for value in example)


def _is_text(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_text, value))
    return isinstance(value, str | bytes)


def collated_with_labels(examples: list[Any]) -> Any:
    """Collate as `collated` does, and rename the column `label` to `labels`, as the collators of Hugging Face do."""
    renamed = [{"labels" if name == "label" else name: value for name, value in one.items()} for one in examples]
    return collated(renamed)


def _collated(examples: list[Any], name: str) -> Any:
    first = examples[0]
    if isinstance(first, Mapping):
        names = [key for key in first if not any(_is_text(example[key]) for example in examples)]
        return {key: _collated([example[key] for example in examples], str(key)) for key in names}
    if isinstance(first, tuple) or _has_fields(first):
        columns = [list(column) for column in zip(*examples, strict=True)]
        last = len(columns) - 1
        return tuple(_collated(c, "y" if place == last > 0 else name) for place, c in enumerate(columns))
    try:
        arrays = [np.asarray(value) if isinstance(value, list | float) else value for value in examples]
        tensors = [torch.as_tensor(array) for array in arrays]
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f"{type(first).__name__}" + (f" at {name}" if name else "")
        rule = f"is needed: the data set returns {kind}, which cannot be converted to a tensor"
        raise InvalidValueError("dataset.collate", None, rule) from error
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    tensors = [tensor.to(dtype) for tensor in tensors]
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) == 1:
        return torch.stack(tensors)
    if len({len(shape) for shape in shapes}) > 1:
        rule = f"is needed: examples{f' of {name}' if name else ''} have different numbers of axes"
        raise InvalidValueError("dataset.collate", None, rule)
    longest = [max(lengths) for lengths in zip(*shapes, strict=True)]
    label = name in TARGETS and not tensors[0].is_floating_point()
    padded = tensors[0].new_full((len(tensors), *longest), LABEL_PADDING if label else 0)
    for place, tensor in zip(padded, tensors, strict=True):
        place[tuple(slice(length) for length in tensor.shape)] = tensor
    return padded
