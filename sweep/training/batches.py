"""The order of the training examples."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sweep.config import steps_per_epoch
from sweep.data import DrawnWindows, Examples, LoadedSplit
from sweep.data.batch import mapped, size
from sweep.data.loading import permutation
from sweep.training.augmentation import Augmentation, draws


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; on its way to a GPU through pinned memory, so that the host does not wait."""
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def placed(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on the device."""
    return mapped(partial(moved, device=device), batch)


def rows_of_epoch(split: Examples, seed: int, epoch: int) -> Tensor:
    """Return the rows of the training examples in an epoch: int64 [n_train], on the CPU.

    They are a permutation, and with `dataset.windows=drawn` drawn with replacement.
    """
    return split.order(seed, epoch) if isinstance(split, DrawnWindows) else permutation(len(split), seed, epoch)


class Batches:
    """Batch s of a training: a slice of the rows that (seed, epoch of s) gives.

    Args:
        split: the training examples.
        batch_size: examples of a batch.
        seed: of the trial.
        device: where the batches are wanted.
        drop_last: leave out the last batch of an epoch where it has fewer than batch_size examples.
        augmentation: what is done to each batch as a whole; None if nothing is.
    """

    def __init__(
        self,
        split: Examples,
        batch_size: int,
        seed: int,
        device: torch.device,
        drop_last: bool = False,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.split, self.batch_size, self.seed, self.device, self.drop_last = split, batch_size, seed, device, drop_last
        self.augmentation = augmentation
        self.per_epoch = steps_per_epoch(len(split), batch_size, drop_last)

    def order(self, epoch: int) -> Tensor:
        """int64 [n_train]: the rows of an epoch, the same on every device."""
        return moved(rows_of_epoch(self.split, self.seed, epoch), self.split.device)

    def examples(self, step: int) -> int:
        """Return the number of examples in the batch of update `step`."""
        return min(self.batch_size, len(self.split) - step % self.per_epoch * self.batch_size)

    def numbers(self, step: int, rows: int) -> Tensor:
        """Return what the augmentation draws for update `step`: float32 [rows, n_draws], on the device."""
        assert self.augmentation is not None
        return moved(torch.from_numpy(draws(self.seed, step, rows, self.augmentation.n_draws)), self.device)

    def range(self, begin: int, end: int) -> Iterator[Any]:
        """Yield the batches of the updates begin..end-1, augmented."""
        if self.augmentation is None:
            yield from self.plain(begin, end)
            return
        for step, batch in enumerate(self.plain(begin, end), begin):
            if isinstance(self.split, LoadedSplit):  # which gives it again after a pause; a function may write into it
                batch = mapped(torch.clone, batch)
            yield self.augmentation(batch, self.numbers(step, size(batch)))

    def plain(self, begin: int, end: int) -> Iterator[Any]:
        """Yield the batches of the updates begin..end-1 as they are in the data set."""
        if isinstance(self.split, LoadedSplit):
            for batch in self.split.batches(self.seed, self.batch_size, self.drop_last, begin, end):
                yield placed(batch, self.device)
            return
        step = begin
        while step < end:
            epoch, first = divmod(step, self.per_epoch)
            order = self.order(epoch)
            for index in range(first, min(self.per_epoch, first + end - step)):
                chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
                yield placed(self.split.take(chosen), self.device)
                step += 1


def in_order(split: Examples, size: int, device: torch.device) -> Iterator[Any]:
    """Yield the batches of a split on the device, in order, at most `size` examples at a time.

    They are copies, as the batches of `Batches` are: a model may write into what it receives.
    """
    if isinstance(split, LoadedSplit):
        for batch in split.in_order(size):
            yield placed(batch, device)
        return
    for first in range(0, len(split), size):
        yield mapped(lambda tensor: tensor.to(device, copy=True), split[first : first + size].batch)
