"""Define user's losses and metrics for the tests of tasks."""

import torch
from torch.nn import functional


def values(outputs, targets, power=2.0):
    """Return one value for each example."""
    return ((outputs - targets).abs() ** power).mean(dim=1)


def mean(outputs, targets):
    """Return one number for a batch."""
    return functional.mse_loss(outputs, targets)


def weighted(outputs, targets):
    """Return values and weights. Examples with a large target have larger weights."""
    weights = 1 + targets.abs().flatten()
    return (outputs - targets).square().mean(dim=1), weights


def per_output(outputs, targets):
    """Return a value and a weight for each example and class. The weights of the last class are 0."""
    weights = torch.ones_like(outputs)
    weights[:, -1] = 0
    is_target = targets.unsqueeze(1) == torch.arange(outputs.shape[1])  # one_hot cannot be stacked
    return functional.softplus(torch.where(is_target, -outputs, outputs)), weights


def far(outputs, targets):
    """Return 1 for each example whose output is far from its target, else 0."""
    return ((outputs - targets).abs() > 0.5).to(outputs.dtype).flatten()


def of_large_targets(outputs, targets):
    """Return values and weights. Only examples with a target above 1 have a weight."""
    return (outputs - targets).square().mean(dim=1), (targets > 1).to(outputs.dtype).flatten()


def weighted_by_outputs(outputs, targets):
    """Return values and weights. Examples with a large error have larger weights."""
    values = functional.cross_entropy(outputs, targets, reduction="none")
    return values, 1 - torch.exp(-values)


def worst(outputs, targets):
    """Return the largest error of a batch, which is not a mean over examples."""
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
    """Computes the mean recall of the classes, which is not a mean over examples."""

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
