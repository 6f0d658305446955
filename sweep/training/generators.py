"""The random generators that a model of the user's may draw from: torch's, Python's and NumPy's global ones."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sweep.training.device import CPU


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def generators_kept(device: torch.device = CPU) -> Iterator[None]:
    """Restore the global generators of the CPU and of a device afterwards: a user's program may draw from them."""
    before = RandomState.capture(device)
    try:
        yield
    finally:
        before.restore(device)


@dataclass
class RandomState:
    """States of torch's default generators (of the CPU, and of the device where it has one), Python's and NumPy's.

    Args:
        kind: of the device, "cpu", "cuda" or "mps". A training that is resumed on another kind does not restore the
            generator of the device.
        python, numpy: None in checkpoints of earlier versions, which did not keep them.
    """

    cpu: torch.Tensor
    device: torch.Tensor | None
    kind: str
    python: tuple[Any, ...] | None = None
    numpy: tuple[Any, ...] | None = None

    @classmethod
    def capture(cls, device: torch.device) -> "RandomState":
        own = None
        if device.type == "cuda":
            own = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            own = torch.mps.get_rng_state()
        name, key, *rest = np.random.get_state(legacy=True)
        return cls(torch.get_rng_state(), own, device.type, random.getstate(), (name, key.tolist(), *rest))  # type: ignore[union-attr]

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.python is not None:
            random.setstate(self.python)
        if self.numpy is not None:
            np.random.set_state(self.numpy)
        if self.device is None or device.type != self.kind:
            return
        if device.type == "cuda":
            torch.cuda.set_rng_state(self.device, device)
        else:
            torch.mps.set_rng_state(self.device)
