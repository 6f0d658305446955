"""Defines the tasks that a user adds to a training script."""

from typing import ClassVar

from torch.nn import functional

import sweep
from tests.ports.scripts import dice_loss


class AutoEncoding(sweep.Task):
    """The loss of the variational autoencoder for each example, with one of its terms as a metric."""

    directions: ClassVar = {"kl": "minimize"}

    def loss(self, model, batch):
        recon, mu, logvar = model(batch["x"])
        return functional.binary_cross_entropy(recon, batch["x"].flatten(1), reduction="none").sum(1) + kl(mu, logvar)

    def metrics(self, model, batch):
        return {"kl": kl(*model(batch["x"])[1:])}


def kl(mu, logvar):
    """Return the divergence of each example from the standard normal distribution."""
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)


class Segmenting:
    """The mean of cross entropy and soft Dice over a batch."""

    def loss(self, model, batch):
        logits = model(batch["x"])
        return functional.cross_entropy(logits, batch["y"]) + dice_loss(logits, batch["y"])


class Weighted:
    """A regression whose examples are weighted by the size of their targets."""

    directions: ClassVar = {"error": "minimize"}

    def __init__(self, power=1.0):
        self.power = power

    def loss(self, model, batch):
        target = batch["y"].reshape(-1, 1)
        return (model(batch["x"]) - target).abs().pow(self.power).squeeze(1), 0.1 + target.abs().squeeze(1)

    def metrics(self, model, batch):
        return {"error": (model(batch["x"]).squeeze(1) - batch["y"].reshape(-1)).abs()}
