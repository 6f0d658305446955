"""Dropout whose masks are a function of the trial's seed, the update, the layer and the place: of nothing else.

A generator that is drawn from in turn would give a trial other masks in another slot, beside other neighbours, or after
an interruption. Here each place has a number of its own, hashed: the same in every engine and on every device.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

KINDS: dict[type[nn.Module], bool] = {nn.Dropout: False, nn.Dropout1d: True, nn.Dropout2d: True, nn.Dropout3d: True}
"""torch's modules that are replaced, and whether they drop whole channels."""

BITS = 2**32 - 1
FIRST, SECOND = 0x21F0AAAD, 0x735A2D97  # below 2^31: no product with 32 bits exceeds an int64


Number = TypeVar("Number", int, Tensor, np.ndarray)


def hashed(x: Number) -> Number:
    """A bijective mixing of 32 bits, of a number or of int64 tensors and arrays of them.

    https://github.com/skeeto/hash-prospector, [16 21f0aaad 15 735a2d97 15].
    """
    x = ((x ^ (x >> 16)) * FIRST) & BITS
    x = ((x ^ (x >> 15)) * SECOND) & BITS
    mixed: Number = x ^ (x >> 15)
    return mixed


class SeededDropout(nn.Module):
    """Drops with probability p while training, and scales the rest by 1 / (1 - p), as torch's modules do.

    Args:
        p: probability, 0 <= p <= 1.
        channels: whether whole channels are dropped: one draw for each example and channel.
        layer: number of this module in its model.
    """

    key: Tensor

    def __init__(self, p: float, channels: bool, layer: int) -> None:
        super().__init__()
        self.p, self.channels, self.layer = p, channels, layer
        self.first_row = 0
        self.uses = 0
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x, [examples, ...], with what is dropped set to 0."""
        if not self.training or self.p == 0:
            return x
        drawn = x.shape[:2] + (1,) * (x.ndim - 2) if self.channels else x.shape
        numbers = torch.arange(drawn.numel(), device=x.device).reshape(drawn)
        first = self.first_row * (drawn.numel() // max(len(x), 1))
        salt = hashed(self.layer * 65_537 + self.uses)  # a module used twice draws twice
        self.uses += 1
        keep = hashed((numbers + (first + salt) + self.key) & BITS) >= round(self.p * 2**32)
        return torch.where(keep, x * (1 / (1 - self.p) if self.p < 1 else 0.0), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def seed_dropouts(model: nn.Module) -> list[SeededDropout]:
    """Replace torch's dropout modules within a model; those that it has now, in their order."""
    found: list[SeededDropout] = []
    replaced: dict[nn.Module, SeededDropout] = {}
    for parent in list(model.modules()):
        for name, module in list(parent._modules.items()):  # named_children gives a module once, whatever its names
            if module is not None and type(module) in KINDS:
                if module not in replaced:
                    replaced[module] = SeededDropout(float(module.p), KINDS[type(module)], len(found))  # type: ignore[arg-type]
                    replaced[module].train(module.training)
                    found.append(replaced[module])
                setattr(parent, name, replaced[module])
    return found


def set_draws(dropouts: Sequence[SeededDropout], key: int, first_row: int = 0) -> None:
    """Say what the next pass through the model draws.

    Args:
        key: of the update.
        first_row: where the micro-batch begins in the batch.
    """
    for dropout in dropouts:
        dropout.key.fill_(key)
        dropout.first_row, dropout.uses = first_row, 0


def update_key(seed: int, step: int) -> int:
    """What the masks of update `step` of a training with that seed begin from: 32 bits."""
    return int(update_keys(seed, step, step + 1)[0])


def update_keys(seed: int, begin: int, end: int) -> np.ndarray:
    """The keys of the updates begin..end-1: int64 [end - begin]."""
    own = int(np.random.SeedSequence([seed, 0xD40]).generate_state(1, np.uint32)[0])
    keys: np.ndarray = hashed(hashed(np.arange(begin + 1, end + 1, dtype=np.int64)) ^ own)
    return keys
