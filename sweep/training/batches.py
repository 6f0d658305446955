"""The order of the training examples."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sweep.config import steps_per_epoch
from sweep.data import Examples


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; on its way to a GPU through pinned memory, so that the host does not wait."""
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def chosen_rows(tensor: Tensor, order: Tensor) -> Tensor:
    """tensor[order], [*order.shape, ...]: several times as fast as by index on a CPU."""
    return tensor.index_select(0, order.reshape(-1)).reshape(*order.shape, *tensor.shape[1:])


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """int64 [n], on the CPU: the order of an epoch of a training with that seed."""
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed))


class Batches:
    """Batch s of a training: a slice of the permutation that (seed, epoch of s) gives.

    Args:
        split: the training examples.
        batch_size: examples of a batch.
        seed: of the trial.
        device: where the batches are wanted.
        drop_last: leave out the last batch of an epoch where it has fewer than batch_size examples.
    """

    def __init__(
        self, split: Examples, batch_size: int, seed: int, device: torch.device, drop_last: bool = False
    ) -> None:
        self.split, self.batch_size, self.seed, self.device = split, batch_size, seed, device
        self.per_epoch = steps_per_epoch(len(split), batch_size, drop_last)

    def order(self, epoch: int) -> Tensor:
        """int64 [n_train]: the permutation of an epoch, the same on every device."""
        return moved(permutation(len(self.split), self.seed, epoch), self.split.inputs.device)

    def range(self, begin: int, end: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The (inputs, targets) of the updates begin..end-1."""
        step = begin
        while step < end:
            epoch, first = divmod(step, self.per_epoch)
            order = self.order(epoch)
            for index in range(first, min(self.per_epoch, first + end - step)):
                chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
                yield self._take(chosen)
                step += 1

    def _take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = self.split.inputs.index_select(0, chosen), self.split.targets.index_select(0, chosen)
        return moved(inputs, self.device), moved(targets, self.device)


def in_order(split: Examples, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the (inputs, targets) of a split on the device, in order, at most `size` examples at a time.

    They are copies, as the batches of `Batches` are: a model may write into what it receives.
    """
    for first in range(0, len(split), size):
        inputs, targets = split.inputs[first : first + size], split.targets[first : first + size]
        yield inputs.to(device, copy=True), targets.to(device)
