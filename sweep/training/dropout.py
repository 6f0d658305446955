"""Dropout whose masks depend on the trial's seed, the update, the layer and the position only.

With a sequential random generator, the masks of a trial would depend on its slot, on the other trials and on
interruptions. Here the random number of each position is a hash, which is the same in every engine and on every device.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

DROPS_CHANNELS: dict[type[nn.Module], bool] = {
    nn.Dropout: False,
    nn.Dropout1d: True,
    nn.Dropout2d: True,
    nn.Dropout3d: True,
}
"""torch module that is replaced -> whether it drops whole channels."""

MASK_32_BITS = 2**32 - 1
FIRST_MULTIPLIER, SECOND_MULTIPLIER = 0x21F0AAAD, 0x735A2D97  # below 2^31: no product with 32 bits exceeds an int64


Number = TypeVar("Number", int, Tensor, np.ndarray)


def hashed(x: Number) -> Number:
    """Return a bijective hash of 32-bit numbers: of an integer, or of an int64 tensor or array.

    Source: https://github.com/skeeto/hash-prospector, [16 21f0aaad 15 735a2d97 15].
    """
    x = ((x ^ (x >> 16)) * FIRST_MULTIPLIER) & MASK_32_BITS
    x = ((x ^ (x >> 15)) * SECOND_MULTIPLIER) & MASK_32_BITS
    mixed: Number = x ^ (x >> 15)
    return mixed


class SeededDropout(nn.Module):
    """Drops values with probability p in training mode and scales the others by 1 / (1 - p), as torch's modules do.

    Args:
        p: probability, 0 <= p <= 1.
        channels: whether to drop whole channels, with one random number per example and channel.
        layer: index of this module among the dropout modules of its model.
    """

    key: Tensor

    def __init__(self, p: float, channels: bool, layer: int) -> None:
        super().__init__()
        self.p, self.channels, self.layer = p, channels, layer
        self.first_row = 0
        self.uses = 0
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [examples, ...] with the dropped values set to 0 and the others scaled."""
        if not self.training or self.p == 0:
            return x
        drawn = x.shape[:2] + (1,) * (x.ndim - 2) if self.channels else x.shape
        numbers = torch.arange(drawn.numel(), device=x.device).reshape(drawn)
        first = self.first_row * (drawn.numel() // max(len(x), 1))
        salt = hashed(self.layer * 65_537 + self.uses)  # a module used twice draws twice
        self.uses += 1
        keep = hashed((numbers + (first + salt) + self.key) & MASK_32_BITS) >= round(self.p * 2**32)
        return torch.where(keep, x * (1 / (1 - self.p) if self.p < 1 else 0.0), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def seed_dropouts(model: nn.Module) -> list[SeededDropout]:
    """Replace torch's dropout modules in a model, and return the new modules in their order."""
    found: list[SeededDropout] = []
    replaced: dict[nn.Module, SeededDropout] = {}
    for parent in list(model.modules()):
        for name, module in list(parent._modules.items()):  # named_children omits further names of a module
            if module is not None and type(module) in DROPS_CHANNELS:
                if module not in replaced:
                    replaced[module] = SeededDropout(float(module.p), DROPS_CHANNELS[type(module)], len(found))  # type: ignore[arg-type]
                    replaced[module].train(module.training)
                    found.append(replaced[module])
                setattr(parent, name, replaced[module])
    return found


def set_draws(dropouts: Sequence[SeededDropout], key: int, first_row: int = 0) -> None:
    """Set the key of the random numbers of the next forward pass.

    Args:
        key: the key of the update (`update_key`).
        first_row: row of the batch at which the micro-batch begins.
    """
    for dropout in dropouts:
        dropout.key.fill_(key)
        dropout.first_row, dropout.uses = first_row, 0


def update_key(seed: int, step: int) -> int:
    """Return the 32-bit key that determines the masks of update `step` of a training with this seed."""
    return int(update_keys(seed, step, step + 1)[0])


def update_keys(seed: int, begin: int, end: int) -> np.ndarray:
    """Return the keys of the updates begin..end-1: int64 [end - begin]."""
    own = int(np.random.SeedSequence([seed, 0xD40]).generate_state(1, np.uint32)[0])
    keys: np.ndarray = hashed(hashed(np.arange(begin + 1, end + 1, dtype=np.int64)) ^ own)
    return keys
