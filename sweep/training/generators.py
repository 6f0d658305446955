"""Seed, save and restore the global random generators of torch, Python and NumPy, which user code may use."""

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
    """Restore the global generators of the CPU and of a device after a context. A user's program may use them."""
    before = RandomState.capture(device)
    try:
        yield
    finally:
        before.restore(device)


@dataclass
class RandomState:
    """Holds the states of the global generators of torch (for the CPU, and for a GPU), Python and NumPy.

    Args:
        kind: type of the device: "cpu", "cuda" or "mps". A training that resumes on a different type does not restore
            the generator of the device.
        python, numpy: None in checkpoints of earlier versions, which did not store them.
    """

    cpu: torch.Tensor
    device: torch.Tensor | None
    kind: str
    python: tuple[Any, ...] | None = None
    numpy: tuple[Any, ...] | None = None

    @classmethod
    def capture(cls, device: torch.device) -> "RandomState":
        """Return the current states."""
        own = None
        if device.type == "cuda":
            own = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            own = torch.mps.get_rng_state()
        name, key, *rest = np.random.get_state(legacy=True)
        return cls(torch.get_rng_state(), own, device.type, random.getstate(), (name, key.tolist(), *rest))  # type: ignore[union-attr]

    def restore(self, device: torch.device) -> None:
        """Set the generators to these states."""
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
