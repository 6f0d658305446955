"""The data-parallel engine: one trial at a time, each batch shared out among processes.

Of n workers, worker r takes the r-th part of every batch (`tensor_split`: equal ones, to one example). Losses and
gradients are weighted with the part's share of the examples, so that their sum over the workers is that of the batch.
It is formed once for each update; then every worker makes the same update, and they stay equal to the bit. One update
is one step, however many took part.

Worker 0 is the engine: it has the schedule, evaluates, and gives the states. The others do as it says, and end when it
is gone, however that happens. What is no parameter (the statistics of BatchNorm) is worker 0's on all of them, as in
torch's `DistributedDataParallel`.
"""

import io
import os
import queue
import signal
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

TIMEOUT = 300.0
"""Seconds in which a worker that lives must have made its part of an update. One that has died is noticed at once."""

LAST_WORDS = 5.0
"""Seconds to wait for the reason where the workers could not add up."""


class WorkerLostError(RuntimeError):
    """A worker was killed, or does not answer."""


class WorkerFailedError(RuntimeError):
    """The trial raised an error in a worker other than the first.

    Args:
        failure: describes the error.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def backend(device: torch.device) -> str:
    """What the workers of a device add up with."""
    return "nccl" if device.type == "cuda" else "gloo"


def device_of(first: torch.device, rank: int) -> torch.device:
    """The device of a worker: the CPU, or the GPU that many after the first."""
    return torch.device("cuda", (first.index or 0) + rank) if first.type == "cuda" else first


def process_group(folder: str, rank: int, workers: int, device: torch.device) -> Any:
    """The worker's place among those that add up; waits for the others.

    They find each other through a file. Connections are of this machine, to itself: 127.0.0.1, or the loopback
    interface. No default group is set: there may be others in this process.
    """
    store = dist.FileStore(str(Path(folder) / "rendezvous"), workers)  # type: ignore[attr-defined]
    if device.type == "cuda":
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        nccl = dist.ProcessGroupNCCL.Options()
        nccl._timeout = timedelta(seconds=TIMEOUT)
        return dist.ProcessGroupNCCL(store, rank, workers, nccl)
    gloo = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # its Options are of all backends
    gloo._timeout = timedelta(seconds=TIMEOUT)
    gloo._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    return dist.ProcessGroupGloo(store, rank, workers, gloo)


class ShardEngine(SerialEngine):
    """Trains on its part of every batch, in step with the other workers.

    On a GPU the host waits once for each update, to learn whether to pause.

    Args:
        rank: of this worker, from 0.
        workers: how many there are.
        folder: where they find each other.
    """

    def __init__(
        self, data: Dataset, device: torch.device, precision: str, rank: int, workers: int, folder: str
    ) -> None:
        super().__init__(data, device, precision)
        self.rank, self.workers, self._paused = rank, workers, False
        self._group = process_group(folder, rank, workers, device)
        self._sum(torch.zeros(1, device=device))  # after which all of them have joined

    def start(self, trial: Trial) -> None:
        self._slot = None  # the others are not told that a trial has ended
        with silenced() if self.rank else nullcontext():  # worker 0 has shown what the model prints
            super().start(trial)

    def _pausing(self) -> bool:
        return self._paused

    def _gradient(self, state: TrainState, batch: Any, accumulate: int, seed: int, step: int) -> Tensor:
        """Return the mean loss over the whole batch; its gradient is the parameters', on every worker the same.

        One vector is summed: gradients, buffers (worker 0's, zeros of the others), loss, mistakes, the weights of the
        loss where it has some, whether worker 0 pauses after this update, and which parameters have a gradient at all.
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
        weighted = bool(of_loss[3] > 0)  # then the sums are to be divided by those of the weights
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
        """Return the share of this worker in the loss of a batch, and its weight; add the gradient to the parameters'.

        What a model draws by itself is drawn anew by (seed, step, worker), and leaves the generators as they were:
        those of all workers stay the same, for an optimizer that draws.
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
        """Add up the vectors of all workers, in place.

        Raises:
            WorkerLostError: if one of them is gone.
        """
        try:
            self._group.allreduce([whole]).wait()
        except RuntimeError as error:
            raise WorkerLostError(f"the workers could not add up: {str(error).splitlines()[0]}") from error

    def follow(self, begin: int, end: int, rates: Rates) -> None:
        """The updates begin..end-1 of the trial, or up to a pause, at these rates of worker 0."""
        assert self._slot is not None
        slot = self._slot
        for name, planned in slot.rates[0].items():
            planned[begin:end] = rates[name]
        slot.state.random.restore(self.device)
        self._train(slot, begin, end)
        slot.state.random = RandomState.capture(self.device)
        slot.rows.clear()  # worker 0 reports them


class DataParallelEngine(ShardEngine):
    """Worker 0.

    Args:
        others: to the processes of the workers from 1 on, which do as they are told (`work`).

    Raises:
        WorkerLostError: by all that trains, once one of them is gone.
        WorkerFailedError: if the trial raised an error in one of them.
        MemoryError: if one of them had too little.
    """

    def __init__(self, data: Dataset, device: torch.device, precision: str, others: Sequence[Connection]) -> None:
        self._others = others
        Finalize(self, _close, args=(others,), exitpriority=1)  # they end with this, whoever still refers to it
        shared = data.place(CPU, DTYPES[precision])  # is moved to shared memory: all workers on the CPU hold it once
        with TemporaryDirectory(prefix="sweep-") as folder:
            self._tell("join", shared, device, precision, 1 + len(others), folder)
            for pipe in others:
                pipe.poll(None)
                self._hear(pipe)  # that it is about to
            super().__init__(shared, device, precision, 0, 1 + len(others), folder)

    def start(self, trial: Trial) -> None:
        super().start(trial)
        self._tell("start", trial)

    def _train(self, slot: Slot, begin: int, end: int) -> float:
        self._tell("follow", begin, end, {name: planned[begin:end] for name, planned in slot.rates[0].items()})
        try:
            return super()._train(slot, begin, end)
        except WorkerLostError:
            self._find_reason()
            raise

    def _tell(self, *message: Any) -> None:
        """Say something to all the others."""
        for pipe in self._others:
            content = _pickled(message)  # of each its own: a tensor's file descriptor can be received once
            try:
                pipe.send_bytes(content)
            except OSError as error:
                self._find_reason()
                raise WorkerLostError(str(error)) from error

    def _find_reason(self) -> None:
        """Raise what one of the others failed with."""
        wait(self._others, LAST_WORDS)
        for pipe in self._others:
            if pipe.poll(0):
                self._hear(pipe)

    def _hear(self, pipe: Connection) -> None:
        """Take what a worker says: that it is there, or what it failed with."""
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError("a data-parallel worker has ended") from error
        if kind == "memory":
            raise MemoryError(content)
        if kind == "error":
            raise WorkerFailedError(content)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles tensors as `multiprocessing` does, in shared memory, and all else as `cloudpickle` does.

    A data set or a collate function from a notebook or script is pickled by value.
    """

    dispatch_table: ClassVar[Any] = ChainMap(
        cloudpickle.Pickler.dispatch_table, ForkingPickler(io.BytesIO()).dispatch_table
    )


def _pickled(message: Any) -> memoryview:
    """Return what `Connection.recv` makes the message of."""
    file = io.BytesIO()
    _Pickler(file).dump(message)
    return file.getbuffer()


def _numbers(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor as a vector of a floating type, without rounding: as its bytes where the type is too narrow."""
    tensor = (tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()).resolve_conj()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not _holds(dtype, tensor.dtype):
        tensor = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tensor.reshape(-1).to(dtype)


def _from_numbers(numbers: Tensor, like: Tensor) -> Tensor:
    """Return the tensor, of the shape and type of another one, that `_numbers` made a vector of."""
    real = like.dtype.to_real()
    values = numbers.to(real) if _holds(numbers.dtype, real) else numbers.to(torch.uint8).view(real)
    if like.is_complex():
        values = torch.view_as_complex(values.reshape(-1, 2).clone())  # which must begin at an even place
    return values.reshape(like.shape)


def _holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Return whether every number of another type is one of this floating type."""
    return other.is_floating_point and torch.promote_types(dtype, other) == dtype


def _close(pipes: Sequence[Connection]) -> None:
    for pipe in pipes:
        pipe.close()


def work(pipe: Connection, rank: int) -> None:
    """Do what worker 0 says, for as long as it is there: the main function of a worker's process."""
    protect()
    forking.restore_environment()
    for name in forking.SIGNALS:
        signal.signal(name, signal.SIG_IGN)  # a terminal, or a batch system, sends them to all processes
    inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    threading.Thread(target=_take, args=(pipe, inbox), daemon=True).start()
    try:
        _, data, first, precision, workers, folder = _readable(inbox.get())
        device = device_of(first, rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        pipe.send(("here", ""))
        engine = ShardEngine(data, device, precision, rank, workers, folder)
        while True:
            told, *given = _readable(inbox.get())
            getattr(engine, told)(*given)
    except WorkerLostError:
        pass  # worker 0 finds that out for itself
    except BaseException as error:
        failure = Failure(summary(error), user_traceback(error))
        with suppress(OSError):
            pipe.send(("memory", failure.reason) if out_of_memory(error) else ("error", failure))


def _readable(message: tuple[Any, ...]) -> tuple[Any, ...]:
    if message[0] == "unreadable":
        raise message[1]
    return message


def _take(pipe: Connection, inbox: "queue.SimpleQueue[tuple[Any, ...]]") -> None:
    """Take what worker 0 says; go when it has gone, whatever is being trained."""
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)
    except BaseException as error:  # what was sent cannot be read
        inbox.put(("unreadable", error))
