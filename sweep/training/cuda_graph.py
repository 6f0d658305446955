"""Replay an update as a CUDA graph. This code has never run on a GPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sweep.data.batch import leaves, mapped


class CudaGraph:
    """Captures an update once and replays it, with one launch instead of one launch per kernel.

    Args:
        update: changes tensors in place, the same ones in each call.
        inputs: tensors, batches or None, with the shapes and types of later calls. The update runs with them a few
            times before it is captured, as torch requires, which overwrites the tensors that it changes.
    """

    def __init__(self, update: Callable[..., None], inputs: Sequence[Any]) -> None:
        self.inputs = [mapped(lambda given: None if given is None else given.clone(), each) for each in inputs]
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                update(*self.inputs)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            update(*self.inputs)

    def __call__(self, *inputs: Any) -> None:
        for own, given in zip(leaves(self.inputs), leaves(inputs), strict=True):
            if own is not None and given is not None:
                own.copy_(given, non_blocking=True)
        self.graph.replay()
