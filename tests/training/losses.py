"""Losses and metrics of a user's, for the tests of tasks."""

import torch
from torch.nn import functional


def values(outputs, targets, power=2.0):
    """One value for each example."""
    return ((outputs - targets).abs() ** power).mean(dim=1)


def mean(outputs, targets):
    """One number for a batch."""
    return functional.mse_loss(outputs, targets)


def weighted(outputs, targets):
    """Values and weights: examples with a large target count more."""
    weights = 1 + targets.abs().flatten()
    return (outputs - targets).square().mean(dim=1), weights


def per_output(outputs, targets):
    """A value and a weight for each example and class, of which the last class does not count."""
    weights = torch.ones_like(outputs)
    weights[:, -1] = 0
    is_target = targets.unsqueeze(1) == torch.arange(outputs.shape[1])  # one_hot cannot be stacked
    return functional.softplus(torch.where(is_target, -outputs, outputs)), weights


def far(outputs, targets):
    """Return 1 for each example whose output is far from its target, else 0."""
    return ((outputs - targets).abs() > 0.5).to(outputs.dtype).flatten()


def of_large_targets(outputs, targets):
    """Values and weights: only examples with a target above 1 count."""
    return (outputs - targets).square().mean(dim=1), (targets > 1).to(outputs.dtype).flatten()


def weighted_by_outputs(outputs, targets):
    """Values and weights: examples that are hard count more."""
    values = functional.cross_entropy(outputs, targets, reduction="none")
    return values, 1 - torch.exp(-values)


def worst(outputs, targets):
    """The largest error of a batch: no mean over examples."""
    return (outputs - targets).abs().max()


class WithParameter(torch.nn.MSELoss):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))


class Counting(torch.nn.MSELoss):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs, targets):
        self.calls += 1
        return super().forward(outputs, targets)


def two_losses(outputs, targets):
    return outputs, targets, 1


def broken(outputs, targets):
    raise RuntimeError("no such loss")


class MacroRecall:
    """The mean over the classes of the part of their examples that is recognised: no mean over examples."""

    def __init__(self, classes=10):
        self.classes = classes
        self.reset()

    def reset(self):
        self.right, self.seen = torch.zeros(self.classes), torch.zeros(self.classes)

    def update(self, outputs, targets):
        right = outputs.argmax(dim=1) == targets
        self.right += torch.bincount(targets[right], minlength=self.classes)
        self.seen += torch.bincount(targets, minlength=self.classes)

    def compute(self):
        return (self.right / self.seen).mean()
