"""Evaluate other weights than the trained ones: moving averages, and the weights of schedule-free optimizers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sweep.training.optimizers import Optimizer, TwoWeights


def initial_average(model: nn.Module) -> dict[str, Tensor]:
    """Return the average before update 0: the initial weights, by the names of the parameters."""
    return {name: weights.detach().clone() for name, weights in _averaged(model).items()}


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Set average = d * average + (1 - d) * weights after update `step`, with d = min(decay, (1 + step) / (10 + step)).

    This is TensorFlow's `ExponentialMovingAverage` with num_updates = step, in which the weights of the first updates
    soon lose their influence. Buffers (the statistics of BatchNorm) are not averaged.
    """
    torch._foreach_lerp_(list(average.values()), list(_averaged(model).values()), 1 - float(average_decay(decay, step)))


def average_decay(decay: float, step: Any) -> Any:
    """Return d of update `step`, which is a number or an array of numbers."""
    return np.minimum(decay, (1 + step) / (10 + step))


@contextmanager
def averaged_weights(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """Give the model the averaged weights within a context, and restore its own weights afterwards."""
    with _weights_restored(model):
        _copy(average.values(), model)
        yield


@contextmanager
def evaluated_weights(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Give the model the weights to evaluate within a context, and restore the trained weights afterwards.

    The trained weights are copied and restored, because converting them to the others and back would round.
    """
    if not isinstance(optimizer, TwoWeights):
        yield
        return
    with _weights_restored(model):
        optimizer.eval()
        try:
            yield
        finally:
            optimizer.train()


@contextmanager
def _weights_restored(model: nn.Module) -> Iterator[None]:
    """Restore the weights of a model bit for bit after a context."""
    before = [parameter.detach().clone() for parameter in _averaged(model).values()]
    try:
        yield
    finally:
        _copy(before, model)


@torch.no_grad()
def _copy(weights: Iterable[Tensor], model: nn.Module) -> None:
    torch._foreach_copy_(list(_averaged(model).values()), list(weights))


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that can be averaged, which excludes integers and booleans, by their names."""
    return {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
