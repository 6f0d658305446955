"""Count the memory and the floating-point operations that an evaluation of a model needs."""

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
"""Bytes that an evaluation may use even if a training step uses less. The process itself uses far more."""


class Costs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory and the operations of torch's calls within a `with` block.

    Attributes:
        live: bytes of the tensors that were allocated and not freed yet.
        peak: largest value of `live` so far.
        operations: floating-point operations of matrix products, convolutions and attention. A multiplication and the
            addition after it count as two. Recurrent layers are not counted.
        calls: number of allocated tensors, which is about the number of kernels.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.operations: int = 0
        self.calls: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, because otherwise the first operation imports torch's compiler, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.operations += int(count(*args, **(kwargs or {}), out_val=result))
        known = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:  # neither an argument nor a view of one
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
    """Return the floating-point operations per example of an evaluation, and its number of torch calls.

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
    """Return how many examples can be evaluated at once in EVALUATION_BYTES; 0 if the examples of the batch need more.

    The number is a power of two times the size of the batch. So it stays the same if the memory depends a little on the
    weights of the model.

    Args:
        evaluate: evaluates a model on a batch and returns its results.
        batch: a few examples. Memory is assumed to be proportional to their number.
    """
    counted = Costs()
    with counted:
        kept = evaluate(batch)
    del kept
    needed = counted.peak + sum(tensor.nbytes for tensor in leaves(batch))
    times = EVALUATION_BYTES // max(needed, 1)
    return size(batch) << (times.bit_length() - 1) if times else 0
