"""Produce the batches of a training and of evaluations, in an order that depends on the seed and the epoch only."""

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
    """Return the tensor on the device. Copies to a GPU use pinned memory, so that the host does not wait for them."""
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

    They are a permutation; with `dataset.windows=drawn` they are drawn with replacement.
    """
    return split.order(seed, epoch) if isinstance(split, DrawnWindows) else permutation(len(split), seed, epoch)


class Batches:
    """Yields the batches of a training. Batch s is a slice of the rows that seed and epoch determine.

    Args:
        split: the training examples.
        batch_size: number of examples of a batch.
        seed: seed of the trial.
        device: the device on which the batches are returned.
        drop_last: whether to leave out the last batch of an epoch if it has fewer than batch_size examples.
        augmentation: applied to each whole batch; None for no augmentation.
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
        """Return the rows of an epoch, int64 [n_train]. They are the same on every device."""
        return moved(rows_of_epoch(self.split, self.seed, epoch), self.split.device)

    def examples(self, step: int) -> int:
        """Return the number of examples in the batch of update `step`."""
        return min(self.batch_size, len(self.split) - step % self.per_epoch * self.batch_size)

    def numbers(self, step: int, rows: int) -> Tensor:
        """Return the random numbers of the augmentation in update `step`: float32 [rows, n_draws], on the device."""
        assert self.augmentation is not None
        return moved(torch.from_numpy(draws(self.seed, step, rows, self.augmentation.n_draws)), self.device)

    def range(self, begin: int, end: int) -> Iterator[Any]:
        """Yield the batches of the updates begin..end-1, augmented."""
        if self.augmentation is None:
            yield from self.plain(begin, end)
            return
        for step, batch in enumerate(self.plain(begin, end), begin):
            if isinstance(self.split, LoadedSplit):  # it returns the same batch again after a pause: protect it
                batch = mapped(torch.clone, batch)
            yield self.augmentation(batch, self.numbers(step, size(batch)))

    def plain(self, begin: int, end: int) -> Iterator[Any]:
        """Yield the batches of the updates begin..end-1 without augmentation."""
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
    """Yield the examples of a split on the device, in order, in batches of at most `size`.

    The batches are copies, because a model may write into its input.
    """
    if isinstance(split, LoadedSplit):
        for batch in split.in_order(size):
            yield placed(batch, device)
        return
    for first in range(0, len(split), size):
        yield mapped(lambda tensor: tensor.to(device, copy=True), split[first : first + size].batch)
