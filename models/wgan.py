"""Wasserstein GAN (placeholder until the model is merged)."""

from collections.abc import Sequence
from math import prod

from torch import nn


class WGAN(nn.Module):
    def __init__(self, input_shape: Sequence[int], latent: int = 16) -> None:
        super().__init__()
        n = prod(input_shape)
        self.latent = latent
        self.generator = nn.Sequential(
            nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, n), nn.Sigmoid(), nn.Unflatten(1, tuple(input_shape))
        )
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(n, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))
