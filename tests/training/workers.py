"""Share data-parallel workers among the tests of a module."""

import copy
import weakref

import torch

from sweep.core import Engine
from sweep.data import Dataset
from sweep.pool import begin_workers
from sweep.training.data_parallel import DataParallelEngine


class SharedWorkers:
    """Provides data-parallel engines over shared processes, because starting processes for each test takes too long.

    Each test gets a copy of an engine that has not started a trial, over the same processes. When the test no
    longer refers to the copy, the next engine can use its processes.
    """

    def __init__(self) -> None:
        self._unused: dict[tuple[object, ...], tuple[Dataset, list[DataParallelEngine]]] = {}

    def engine(self, data: Dataset, device: torch.device, precision: str, workers: int = 2) -> Engine:
        """Return an engine without trials."""
        key = (id(data), device, precision, workers)  # the data set is kept beside it, so that the id stays its own
        _, unused = self._unused.setdefault(key, (data, []))
        if unused:
            original = unused.pop()
        else:
            others = begin_workers(workers)
            original = DataParallelEngine(data, device, precision, [other.pipe for other in others])
        engine = copy.copy(original)
        weakref.finalize(engine, unused.append, original).atexit = False
        return engine

    def end(self) -> None:
        """End the processes that no test uses."""
        self._unused.clear()


SHARED_WORKERS = SharedWorkers()
