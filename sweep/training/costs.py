"""Count what an evaluation of a model costs: the memory that it needs, and its operations."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sweep.data.batch import leaves, size

EVALUATION_BYTES = 2**25
"""Memory that an evaluation may take, even if a training step takes less: small compared with that of the process."""


class Costs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count what torch's operations cost within a `with` block.

    Attributes:
        live: bytes of the tensors that they have allocated and that were not freed.
        peak: largest value of `live` so far.
        operations: floating-point operations of matrix products, convolutions and attention; a multiplication and the
            addition after it are two. Recurrent layers are not counted.
        calls: number of tensors that they have allocated, which is about the number of kernels.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.operations: int = 0
        self.calls: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: otherwise torch imports its compiler, which takes a second, at the first operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.operations += int(count(*args, **(kwargs or {}), out_val=result))
        known = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:  # neither a view of an argument nor the argument itself
                known.add(storage._cdata)
                self.calls += 1
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return result

    def _change(self, n_bytes: int) -> None:
        self.live += n_bytes
        self.peak = max(self.peak, self.live)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


@torch.no_grad()
def operations_of(evaluate: Callable[[Any], object], batch: Any) -> tuple[float, int]:
    """Return the floating-point operations that an evaluation of one example takes, and the number of its calls.

    Args:
        evaluate: evaluates a model on a batch.
        batch: a few examples.
    """
    counted = Costs()
    with counted:
        evaluate(batch)
    return counted.operations / size(batch), counted.calls


@torch.no_grad()
def examples_within(evaluate: Callable[[Any], object], batch: Any) -> int:
    """Return how many examples an evaluation can take at once in EVALUATION_BYTES; 0 if those of the batch need more.

    The number is a power of two times the examples of the batch, so that it does not change where the memory that the
    model needs depends a little on its weights.

    Args:
        evaluate: evaluates a model on a batch and returns what it keeps.
        batch: a few examples. Memory is taken to be proportional to their number.
    """
    counted = Costs()
    with counted:
        kept = evaluate(batch)
    del kept
    needed = counted.peak + sum(tensor.nbytes for tensor in leaves(batch))
    times = EVALUATION_BYTES // max(needed, 1)
    return size(batch) << (times.bit_length() - 1) if times else 0
