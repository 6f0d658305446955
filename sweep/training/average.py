"""Weights that are evaluated beside, or in place of, those that are trained."""

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
    """average = d * average + (1 - d) * weights, after update `step`, with d = min(decay, (1 + step) / (10 + step)).

    TensorFlow's `ExponentialMovingAverage` with num_updates = step: the first updates, which say little about where the
    weights will be, are forgotten soon. Buffers (the statistics of BatchNorm) are not averaged.
    """
    torch._foreach_lerp_(list(average.values()), list(_averaged(model).values()), 1 - float(average_decay(decay, step)))


def average_decay(decay: float, step: Any) -> Any:
    """d of update `step`, a number or an array of them."""
    return np.minimum(decay, (1 + step) / (10 + step))


@contextmanager
def averaged_weights(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """Within, the model has the average for weights; after, its own again."""
    with _kept(model):
        _copy(average.values(), model)
        yield


@contextmanager
def evaluated_weights(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Within, the model has the weights that the optimizer wants evaluated; after, those that it trains.

    These are kept and put back, because computing the ones from the others and back again rounds.
    """
    if not isinstance(optimizer, TwoWeights):
        yield
        return
    with _kept(model):
        optimizer.eval()
        try:
            yield
        finally:
            optimizer.train()


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """After, the weights are what they were before, to the bit."""
    before = [parameter.detach().clone() for parameter in _averaged(model).values()]
    try:
        yield
    finally:
        _copy(before, model)


@torch.no_grad()
def _copy(weights: Iterable[Tensor], model: nn.Module) -> None:
    torch._foreach_copy_(list(_averaged(model).values()), list(weights))


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that have a mean: integers and booleans, which are never trained, have none."""
    return {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
