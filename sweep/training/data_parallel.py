"""Train one trial at a time in several processes, each of which computes a part of every batch.

Of n workers, worker r computes the r-th part of every batch (`tensor_split`: the sizes differ by at most one example).
Losses and gradients are weighted with the part's share of the examples, so that their sum over the workers is that of
the batch. The workers compute this sum once per update. Then all workers make the same update and stay bit-identical.
One update is one step, whatever the number of workers.

Worker 0 is the engine: it computes the rates, evaluates, and returns the states. The other workers execute its
messages, and exit when it exits or is killed. Buffers (the statistics of BatchNorm) are those of worker 0 on all
workers, as in torch's `DistributedDataParallel`.
"""

import io
import os
import queue
import threading
from collections import ChainMap
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from functools import reduce
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor

from sweep import forking
from sweep.core import Failure, Trial
from sweep.data import Dataset
from sweep.data.batch import divided, size
from sweep.output import protect
from sweep.tracebacks import summary, user_traceback
from sweep.training.device import CPU, DTYPES, out_of_memory
from sweep.training.dropout import update_key
from sweep.training.generators import RandomState, seed_generators
from sweep.training.groups import Rates
from sweep.training.model import silenced
from sweep.training.serial import SerialEngine, Slot
from sweep.training.state import TrainState

UPDATE_TIMEOUT_SECONDS = 300.0
"""Seconds within which each running worker must compute its part of an update. A dead worker is noticed at once."""

FAILURE_REPORT_SECONDS = 5.0
"""Seconds to wait for the error message of another worker after a failed all-reduce."""


class WorkerLostError(RuntimeError):
    """A worker was killed or does not respond."""


class WorkerFailedError(RuntimeError):
    """The trial raised an error in a worker other than worker 0.

    Args:
        failure: describes the error.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def backend(device: torch.device) -> str:
    """Return the name of the library that the workers of a device communicate with: nccl or gloo."""
    return "nccl" if device.type == "cuda" else "gloo"


def device_of(first: torch.device, rank: int) -> torch.device:
    """Return the device of a worker: the CPU, or the GPU whose index is `rank` after that of the first."""
    return torch.device("cuda", (first.index or 0) + rank) if first.type == "cuda" else first


def process_group(folder: str, rank: int, workers: int, device: torch.device) -> Any:
    """Join the process group of the workers, and return it when all workers have joined.

    The workers find each other through a file. Their connections stay on this machine: 127.0.0.1, or the loopback
    interface. The default group of torch is not set, because user code may set it.
    """
    store = dist.FileStore(str(Path(folder) / "rendezvous"), workers)  # type: ignore[attr-defined]
    if device.type == "cuda":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        nccl = dist.ProcessGroupNCCL.Options()
        nccl._timeout = timedelta(seconds=UPDATE_TIMEOUT_SECONDS)
        return dist.ProcessGroupNCCL(store, rank, workers, nccl)
    gloo = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch declares these Options for all backends
    gloo._timeout = timedelta(seconds=UPDATE_TIMEOUT_SECONDS)
    gloo._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    return dist.ProcessGroupGloo(store, rank, workers, gloo)


class ShardEngine(SerialEngine):
    """Trains one worker's part of every batch, synchronously with the other workers.

    On a GPU the host waits once per update, to learn whether to pause.

    Args:
        rank: index of this worker, counted from 0.
        workers: number of workers.
        folder: contains the file through which the workers find each other.
    """

    def __init__(
        self, data: Dataset, device: torch.device, precision: str, rank: int, workers: int, folder: str
    ) -> None:
        super().__init__(data, device, precision)
        self.rank, self.workers, self._paused = rank, workers, False
        self._group = process_group(folder, rank, workers, device)
        self._sum(torch.zeros(1, device=device))  # returns when all workers have joined

    def start(self, trial: Trial) -> None:
        self._slot = None  # workers other than 0 do not learn that a trial has ended
        with silenced() if self.rank else nullcontext():  # worker 0 shows what the model prints
            super().start(trial)

    def _pausing(self) -> bool:
        return self._paused

    def _gradient(self, state: TrainState, batch: Any, accumulate: int, seed: int, step: int) -> Tensor:
        """Return the mean loss over the whole batch, and store its gradient in the parameters, equally on all workers.

        The workers sum one vector: gradients, buffers (zeros on workers other than 0), loss, mistakes, weights of the
        loss if it has weights, whether worker 0 pauses after this update, and which parameters have a gradient.
        """
        mistakes, seen = state.mistakes, state.seen
        if mistakes is not None:
            state.mistakes = torch.zeros_like(mistakes)
        loss, weight = self._shard(state, batch, accumulate, seed, step)
        parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
        dtype = reduce(torch.promote_types, (p.dtype.to_real() for p in parameters), self.dtype)
        buffers = [buffer for buffer in state.model.buffers() if buffer.layout == torch.strided]
        parts = [_numbers(torch.zeros_like(p) if p.grad is None else p.grad, dtype) for p in parameters]
        sent = [_numbers(buffer, dtype) for buffer in buffers]
        parts += sent if self.rank == 0 else [torch.zeros_like(part) for part in sent]
        pausing = self.rank == 0 and self.pause()
        flags = [float(flag) for flag in (pausing, *(p.grad is not None for p in parameters))]
        counted = torch.zeros_like(loss) if state.mistakes is None else state.mistakes
        weights = torch.zeros_like(loss) if weight is None else weight.to(self.dtype)
        has_weights = torch.full_like(loss, weight is not None)
        of_batch = torch.stack([loss, counted.to(self.dtype), weights, has_weights])
        parts += [of_batch, torch.tensor(flags, device=self.device)]
        whole = torch.cat([part.reshape(-1).to(dtype) for part in parts])
        self._sum(whole)
        *summed, of_loss, flagged = torch.split(whole, [part.numel() for part in parts])
        self._paused, *has_gradient = (flag > 0 for flag in flagged.tolist())
        weighted = bool(of_loss[3] > 0)  # then the sums must be divided by the sum of the weights
        for parameter, gradient, has in zip(parameters, summed, has_gradient, strict=False):
            parameter.grad = _from_numbers(gradient / of_loss[2] if weighted else gradient, parameter) if has else None
        for buffer, values in zip(buffers, summed[len(parameters) :], strict=True):
            buffer.copy_(_from_numbers(values, buffer))
        if mistakes is not None:
            state.mistakes, state.seen = mistakes + of_loss[1].round().to(mistakes.dtype), seen + size(batch)
        return (of_loss[0] / of_loss[2] if weighted else of_loss[0]).to(self.dtype)

    def _shard(
        self, state: TrainState, batch: Any, accumulate: int, seed: int, step: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return this worker's share of the loss of a batch, and its weight; add its gradient to the parameters.

        The global generators are seeded with (seed, step, worker) for the model, and restored afterwards. So they stay
        the same on all workers for an optimizer that uses them.
        """
        parts = divided(batch, self.workers)
        part = parts[self.rank]
        if not size(part):  # the last batch of an epoch may have fewer examples than there are workers
            return torch.zeros((), device=self.device, dtype=self.dtype), None
        first_row = sum(map(size, parts[: self.rank]))
        before = RandomState.capture(self.device)
        seed_generators(update_key(seed, step) * self.workers + self.rank)
        try:
            return self.backward(state, part, accumulate, seed, step, first_row, size(batch))
        finally:
            before.restore(self.device)

    def _sum(self, whole: Tensor) -> None:
        """Sum a vector over all workers, in place.

        Raises:
            WorkerLostError: if a worker has exited or does not respond.
        """
        try:
            self._group.allreduce([whole]).wait()
        except RuntimeError as error:
            raise WorkerLostError(f"the all-reduce of the workers failed: {str(error).splitlines()[0]}") from error

    def train(self, begin: int, end: int, rates: Rates) -> None:
        """Make the updates begin..end-1 of the trial, or fewer if worker 0 pauses, with the rates of worker 0."""
        assert self._slot is not None
        slot = self._slot
        for name, planned in slot.rates[0].items():
            planned[begin:end] = rates[name]
        slot.state.random.restore(self.device)
        self._train(slot, begin, end)
        slot.state.random = RandomState.capture(self.device)
        slot.rows()


class DataParallelEngine(ShardEngine):
    """The engine in worker 0, which controls the other workers.

    Args:
        others: connections to the processes of the other workers, in the order of their ranks (`run_worker`).

    Raises:
        WorkerLostError: by every method that trains, if another worker has exited or does not respond.
        WorkerFailedError: if the trial raised an error in another worker.
        MemoryError: if another worker ran out of memory.
    """

    def __init__(self, data: Dataset, device: torch.device, precision: str, others: Sequence[Connection]) -> None:
        self._others = others
        Finalize(self, _close, args=(others,), exitpriority=1)  # the workers exit with the engine
        shared = data.place(CPU, DTYPES[precision])  # workers on the CPU share its memory
        with TemporaryDirectory(prefix="sweep-") as folder:
            self._send("join", shared, device, precision, 1 + len(others), folder)
            for pipe in others:
                pipe.poll(None)
                self._receive(pipe)  # the worker is about to join
            super().__init__(shared, device, precision, 0, 1 + len(others), folder)

    def start(self, trial: Trial) -> None:
        super().start(trial)
        self._send("start", trial)

    def _train(self, slot: Slot, begin: int, end: int) -> float:
        self._send("train", begin, end, {name: planned[begin:end] for name, planned in slot.rates[0].items()})
        try:
            return super()._train(slot, begin, end)
        except WorkerLostError:
            self._find_reason()
            raise

    def _send(self, *message: Any) -> None:
        """Send a message to all other workers: the name of a method of ShardEngine and its arguments."""
        for pipe in self._others:
            content = _pickled(message)  # once per worker: a file descriptor of a tensor can be received only once
            try:
                pipe.send_bytes(content)
            except OSError as error:
                self._find_reason()
                raise WorkerLostError(str(error)) from error

    def _find_reason(self) -> None:
        """Raise the error that another worker reports, if one does within FAILURE_REPORT_SECONDS."""
        wait(self._others, FAILURE_REPORT_SECONDS)
        for pipe in self._others:
            if pipe.poll(0):
                self._receive(pipe)

    def _receive(self, pipe: Connection) -> None:
        """Receive a message of a worker: that it is ready, or its error, which is raised."""
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError("a data-parallel worker has ended") from error
        if kind == "memory":
            raise MemoryError(content)
        if kind == "error":
            raise WorkerFailedError(content)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles tensors in shared memory, as `multiprocessing` does, and other objects as `cloudpickle` does.

    `cloudpickle` pickles data sets and collate functions of a notebook or script by value.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        cloudpickle.Pickler.dispatch_table, ForkingPickler(io.BytesIO()).dispatch_table
    )


def _pickled(message: Any) -> memoryview:
    """Return the bytes that `Connection.recv` decodes into the message."""
    file = io.BytesIO()
    _Pickler(file).dump(message)
    return file.getbuffer()


def _numbers(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor as a vector of a floating type without rounding: its values, or its bytes if they do not fit."""
    tensor = (tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()).resolve_conj()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not _represents(dtype, tensor.dtype):
        tensor = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tensor.reshape(-1).to(dtype)


def _from_numbers(numbers: Tensor, like: Tensor) -> Tensor:
    """Return the tensor that `_numbers` has converted to a vector. It has the shape and type of `like`."""
    real = like.dtype.to_real()
    values = numbers.to(real) if _represents(numbers.dtype, real) else numbers.to(torch.uint8).view(real)
    if like.is_complex():
        values = torch.view_as_complex(values.reshape(-1, 2).clone())  # the storage offset must be even
    return values.reshape(like.shape)


def _represents(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Return whether a floating type represents every number of another type exactly."""
    return other.is_floating_point and torch.promote_types(dtype, other) == dtype


def _close(pipes: Sequence[Connection]) -> None:
    for pipe in pipes:
        pipe.close()


def run_worker(pipe: Connection, rank: int) -> None:
    """Execute the messages of worker 0 until it exits. This is the main function of the process of another worker."""
    protect()
    forking.set_up_process()
    inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    threading.Thread(target=_read_messages, args=(pipe, inbox), daemon=True).start()
    try:
        _, data, first, precision, workers, folder = _readable(inbox.get())
        device = device_of(first, rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        pipe.send(("ready", ""))
        engine = ShardEngine(data, device, precision, rank, workers, folder)
        while True:
            method, *arguments = _readable(inbox.get())
            getattr(engine, method)(*arguments)
    except WorkerLostError:
        pass  # worker 0 notices it itself
    except BaseException as error:
        failure = Failure(summary(error), user_traceback(error))
        with suppress(OSError):
            pipe.send(("memory", failure.reason) if out_of_memory(error) else ("error", failure))


def _readable(message: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a message; raise the error if it could not be unpickled."""
    if message[0] == "unreadable":
        raise message[1]
    return message


def _read_messages(pipe: Connection, inbox: "queue.SimpleQueue[tuple[Any, ...]]") -> None:
    """Put the messages of worker 0 into the inbox. End this process when worker 0 has ended."""
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)
    except BaseException as error:  # the message cannot be unpickled
        inbox.put(("unreadable", error))
