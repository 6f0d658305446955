"""The process that an engine has to itself: it trains what its owner hands over, and tells what is reached.

An error that is raised by the code of a trial is the failure of that trial alone; the others are trained.
"""

import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from sweep import forking
from sweep.config import EngineConfig
from sweep.core import Failure, Progress, Status, Trial
from sweep.data import Dataset
from sweep.errors import InvalidValueError
from sweep.output import protect
from sweep.tracebacks import summary, user_traceback
from sweep.training.choice import Chosen, Measured, Work, choose
from sweep.training.data_parallel import WorkerFailedError, WorkerLostError
from sweep.training.device import out_of_memory
from sweep.training.fused import FusedEngine

MOMENT = 0.05
"""Seconds to wait for trials that are on their way: slots that begin together are evaluated together."""

MOST_ROWS = 1_000_000
"""Updates after which states are given, so that no more rows than these wait in memory for a checkpoint."""


@dataclass
class Account:
    """What an engine did, up to the last trial that was started.

    Args:
        name: serial, fused or data_parallel.
        slots: trials at once.
        workers: processes that share each batch.
        compiled: whether updates were compiled.
        why: of the choice.
        prepared: seconds of building, trying and compiling.
        updates: recorded ones.
        seconds: from the first update to when everything was recorded.
        busy: share of the slots' updates that were made for a trial, while there were trials to start.
        waited: seconds in which the device had nothing to do, or a part of its slots had, times that part, before the
            last trial was started.
        measured: what was measured to choose the engine.
    """

    name: str = ""
    slots: int = 0
    workers: int = 1
    compiled: bool = False
    why: str = ""
    prepared: float = 0.0
    updates: int = 0
    seconds: float = 0.0
    busy: float = 1.0
    waited: float = 0.0
    measured: Measured | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what is recorded of it."""
        return {key: value for key, value in asdict(self).items() if key != "measured"}


class SharedUpdateError(RuntimeError):
    """Trials that are trained in one update could not be trained: which of them has failed is not known."""


class SpentError(RuntimeError):
    """A trial has failed, and another one needs a new process."""


def serve(
    pipe: Connection,
    config: EngineConfig,
    data: Dataset,
    device: str,
    work: Work,
    others: Sequence[Connection] = (),
    known: Measured | None = None,
) -> None:
    """Choose an engine, then train what is handed over: the engine's process.

    Args:
        others: to the data-parallel workers beside this process.
        known: what was measured before.
    """
    protect()
    forking.restore_environment()
    for name in forking.SIGNALS:
        signal.signal(name, signal.SIG_IGN)  # a terminal, or a batch system, sends them to all processes
    try:
        began = time.monotonic()
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # a few kernels: no processes of their own for them
        chosen = _choose(config, data, torch.device(device), work, others, known)
        prepared = time.monotonic() - began
        account = Account(chosen.name, chosen.slots, chosen.workers, chosen.compiled, chosen.why, prepared)
        account.measured = chosen.measured
        pipe.send(("chosen", account))
        _Server(pipe, chosen, account, work.like[0].train.checkpoint_seconds).run()
    except BrokenPipeError:
        os._exit(1)  # nobody is left to tell
    except BaseException as error:
        with suppress(OSError):
            pipe.send(_last_words(error))
            pipe.close()


def _choose(
    config: EngineConfig,
    data: Dataset,
    device: torch.device,
    work: Work,
    others: Sequence[Connection],
    known: Measured | None,
) -> Chosen:
    """Choose an engine. Where trying the others raises an error, it is the serial one: there one trial alone fails."""
    try:
        return choose(config, data, device, work, others, known)
    except BaseException as error:
        if config.name == "serial" or others or out_of_memory(error):
            raise
        why = f"no other engine could be tried: {summary(error)}"
    return replace(choose(EngineConfig("serial"), data, device, work), why=why)


def _last_words(error: BaseException) -> tuple[str, Any]:
    """Return what the owner is told of an error: its kind, which says what the owner does then, and a text."""
    if out_of_memory(error):
        return "memory", f"out of memory ({summary(error)})"
    if isinstance(error, InvalidValueError):
        return "refused", error
    if isinstance(error, WorkerLostError):
        return "worker", str(error).strip()
    if isinstance(error, SharedUpdateError):
        return "shared", str(error)
    if isinstance(error, SpentError):
        return "spent", str(error)
    return "error", traceback.format_exc()


class _Server:
    """Trains in the main thread; another takes what the owner sends, so that the owner never waits to send.

    Args:
        every: seconds between two states of a trial.
    """

    def __init__(self, pipe: Connection, chosen: Chosen, account: Account, every: float) -> None:
        self.pipe, self.engine, self.account, self.every = pipe, chosen.engine, account, every
        self.engine.pause = self._pausing
        self.due = time.monotonic() + every
        self.unkept = 0
        """Updates that were told since states were, the last time."""
        self.halting = False
        self.waiting: list[tuple[int, Trial]] = []
        self.training: dict[int, tuple[int, Trial]] = {}
        """The trials in the engine by their number, each with its ticket."""
        self.first: float | None = None
        self.idle = 0.0
        self.expecting = True  # trials, for slots that are free
        self.ended = False
        self.inbox: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        try:
            while True:
                message = self.pipe.recv()
                self.halting = self.halting or message[0] == "halt"
                self.inbox.put(message)
                if message[0] == "end":
                    return
        except (EOFError, OSError):
            os._exit(1)  # the owner is gone: what it has not recorded is trained again
        except BaseException as error:  # a trial that cannot be unpickled
            self.inbox.put(("unreadable", 0, error))

    def run(self) -> None:
        while not self.ended:
            self._read()
            if self.halting:
                self._tell_states()
                self.pipe.send(("halted", None))
                return
            self._fill()
            if self.engine.free < self.account.slots:
                self._train()

    def _pausing(self) -> bool:
        """Whether the engine is to stop at the next update: to give its states."""
        return self.halting or time.monotonic() >= self.due

    def _train(self) -> None:
        """To the nearest boundary or pause; tell what was reached, and where the trials stand when that is due."""
        began, free = time.monotonic(), self.engine.free
        reached: Sequence[Progress] = ()
        with self._failing():
            reached = self.engine.advance()
        self.idle += free / self.account.slots * (time.monotonic() - began)
        self.expecting = self.expecting or self.engine.free > free
        self._reach(reached)
        if (time.monotonic() >= self.due or self.unkept >= MOST_ROWS) and not self.halting:
            self._tell_states()

    def _tell_states(self) -> None:
        """Tell where the trials stand, one after another: each can be kept, however long the others take."""
        states, state = iter(self.engine.snapshots()), None
        while True:
            with self._failing():
                state = next(states, None)
            if state is None:
                break
            self._reach([state])
            state = None
        self.due, self.unkept = time.monotonic() + self.every, 0

    def _reach(self, reached: Sequence[Progress]) -> None:
        """Tell what was reached."""
        made = sum(len(rows.lr) for progress in reached for rows in progress.rows)
        self.account.updates += made
        self.unkept += made
        events = [(self.training[progress.trial][0], progress) for progress in reached]
        for progress in reached:
            if progress.status is not None:
                del self.training[progress.trial]
        if events:
            self.pipe.send(("reached", (events, self.account, self.first)))

    @contextmanager
    def _failing(self, trial: Trial | None = None) -> Iterator[None]:
        """Tell that a trial has failed if what is done within raises an error, and take it out of its slot.

        What the owner can do better is raised: it trains the trial again where memory or a process was lost, and
        trains one trial at a time where it is not known which one raised the error.

        Args:
            trial: that is started within; None where those in the engine are trained.

        Raises:
            SharedUpdateError: if several trials are trained in one update, or could not be.
            SpentError: if the trial has failed, and its data-parallel workers no longer agree, or it may have left an
                error in the CUDA context, which every later operation would report.
        """
        try:
            yield
        except BaseException as error:  # also SystemExit and KeyboardInterrupt: this process hears no signals
            if out_of_memory(error) or isinstance(error, WorkerLostError) or _is_refused_checkpoint(error):
                raise
            if isinstance(self.engine, FusedEngine) and (trial is None or not isinstance(error, InvalidValueError)):
                raise SharedUpdateError(summary(error)) from error
            if isinstance(error, WorkerFailedError):
                failure = error.failure
            else:
                failure = Failure(summary(error), user_traceback(error))
            if trial is None:
                ((_, trial),) = self.training.values()
            self.engine.stop(trial)
            self._reach([Progress(trial.number, [], None, Status.FAILED, failure=failure)])
            self.expecting = True
            on_gpu = self.engine.device.type == "cuda" and not isinstance(error, InvalidValueError)
            if self.account.workers > 1 or on_gpu:
                raise SpentError(failure.reason) from error

    def _read(self) -> None:
        """What the owner has sent. With nothing to train wait for it; with a slot just freed, wait a moment."""
        began = time.monotonic()
        while not self.ended and not self.halting:
            idle = not self.waiting and self.engine.free == self.account.slots
            wanting = self.expecting and len(self.waiting) < self.engine.free
            try:
                message = self.inbox.get(block=idle or wanting, timeout=None if idle else MOMENT)
            except queue.Empty:
                self.expecting = False
                break
            self._heed(*message)
        if self.first is not None:
            self.idle += (time.monotonic() - began) * self.engine.free / self.account.slots

    def _heed(self, kind: str, ticket: int, trial: Any) -> None:
        """Do what the owner says."""
        if kind == "unreadable":
            raise trial
        if kind == "end":
            self.ended = True
        elif kind == "start":
            self.waiting.append((ticket, trial))
        elif kind == "halt":
            self.halting = True
        elif ticket in dict(self.waiting):
            self.waiting = [(known, of) for known, of in self.waiting if known != ticket]
        elif trial.number in self.training and self.training[trial.number][0] == ticket:
            self.engine.stop(trial)
            del self.training[trial.number]
            self.expecting = True

    def _fill(self) -> None:
        """Start what waits, as far as there are slots; what was idle until now was waiting for it."""
        while self.waiting and self.engine.free:
            ticket, trial = self.waiting.pop(0)
            self.training[trial.number] = ticket, trial
            self.pipe.send(("begun", ticket))
            with self._failing(trial):
                self.engine.start(trial)
            self.first = self.first or time.time()
            self.account.waited, self.idle = self.account.waited + self.idle, 0.0
            if isinstance(self.engine, FusedEngine) and self.engine.use.offered:
                self.account.busy = self.engine.use.made / self.engine.use.offered


def _is_refused_checkpoint(error: BaseException) -> bool:
    """Return whether an error says that the trial cannot go on from its checkpoint: it is no fault of the trial."""
    return isinstance(error, InvalidValueError) and error.key == "train.checkpoint_dir"
