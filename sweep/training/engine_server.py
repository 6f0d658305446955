"""Trains what the coordinator hands over with one engine, and tells what is reached.

An error that is raised by the code of a trial is the failure of that trial alone; the others are trained.
"""

import os
import pickle
import queue
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from sweep.core import Failure, Progress, Status, Trial
from sweep.errors import InvalidValueError
from sweep.messages import EngineStats
from sweep.tracebacks import summary, user_traceback
from sweep.training.autotune import Chosen
from sweep.training.compiling import is_compiled
from sweep.training.data_parallel import WorkerFailedError, WorkerLostError
from sweep.training.device import out_of_memory
from sweep.training.fused import FusedEngine
from sweep.training.loop import SpentError

MOMENT = 0.05
"""Seconds to wait for trials that are on their way: slots that begin together are evaluated together."""

MOST_ROWS = 1_000_000
"""Updates after which states are given, so that no more rows than these wait in memory for a checkpoint."""


PACED = 0.25
"""Seconds of updates from which it is known how fast they are without being compiled."""

TRIED = 1.0
"""Seconds of compiled updates after which those that are slower than others are given up."""


class SharedUpdateError(RuntimeError):
    """Trials that are trained in one update could not be trained: which of them has failed is not known."""


def last_words(error: BaseException) -> tuple[str, Any]:
    """Return what the coordinator is told of an error: its kind, which says what it does then, and a text."""
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


class Inbox:
    """The messages of the coordinator. A thread takes them from the pipe, so that the coordinator never waits to send.

    They are unpickled by the thread that reads them, which is the main one: that may import the user's code.

    Attributes:
        stopping: whether an engine is to stop at the next update, because it is to halt or to be released.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self.stopping = pipe, False
        self._messages: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._take, daemon=True).start()

    def next(self, block: bool = True, timeout: float | None = None) -> tuple[str, int, Any]:
        """Return the next message: kind, ticket, content.

        Raises:
            queue.Empty: if there is none within the timeout.
        """
        kind, message = self._messages.get(block, timeout)
        ticket, content = pickle.loads(message)
        return kind, ticket, content

    def _take(self) -> None:
        try:
            while True:
                kind = self._pipe.recv_bytes().decode()
                self.stopping = self.stopping or kind in ("halt", "release")
                self._messages.put((kind, self._pipe.recv_bytes()))
        except (EOFError, OSError):
            os._exit(1)  # the coordinator is gone: what it has not recorded is trained again


@dataclass
class _Pace:
    """The number of updates of an engine, over all slots, and the time that they took."""

    updates: int = 0
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        return self.updates / self.seconds if self.seconds else 0.0


class EngineServer:
    """Trains with one engine until it is released.

    Args:
        every: seconds between two states of a trial.
    """

    def __init__(self, pipe: Connection, inbox: Inbox, chosen: Chosen, account: EngineStats, every: float) -> None:
        self.pipe, self.inbox, self.engine, self.account, self.every = pipe, inbox, chosen.engine, account, every
        self.engine.pause = self._pausing
        self.due = time.monotonic() + every
        self.unkept = 0
        """Updates that were told since states were, the last time."""
        self.halting = self.released = False
        self.waiting: list[tuple[int, Trial]] = []
        self.training: dict[int, tuple[int, Trial]] = {}
        """The trials in the engine by their number, each with its ticket."""
        self.first: float | None = None
        self.idle = 0.0
        self.expecting = True  # trials, for slots that are free
        self.pace = _Pace()
        self.before: _Pace | None = None
        """The pace of the updates before compiled ones took over, until it is known whether these are faster."""
        self.compiling = False
        """Whether the next update compiles itself."""
        self.compiled_before = chosen.compiles and isinstance(self.engine, FusedEngine) and is_compiled(self.engine)
        """Whether the update is in the cache of an earlier command, and is still to be taken from there."""
        account.compiles = chosen.compiles and not self.compiled_before

    def run(self) -> None:
        """Train what is handed over, until the coordinator wants no more of this engine."""
        while True:
            self._read()
            if self.released:
                return
            if self.halting:
                self._tell_states()
                self.pipe.send(("halted", None))
                while self.inbox.next()[0] != "release":
                    pass
                return
            self._fill()
            if self.engine.free < self.account.slots:
                self._train()

    def _pausing(self) -> bool:
        """Return whether the engine is to stop at the next update: to give its states, because it is released, or
        because this update was the first compiled one.
        """
        return self.inbox.stopping or self.compiling or time.monotonic() >= self.due

    def _train(self) -> None:
        """To the nearest boundary or pause; tell what was reached, and where the trials stand when that is due."""
        began, free = time.monotonic(), self.engine.free
        reached: Sequence[Progress] = ()
        with self._failing():
            reached = self._advance()
        self.idle += free / self.account.slots * (time.monotonic() - began)
        self.expecting = self.expecting or self.engine.free > free
        self._reach(reached)
        if self.compiled_before and self.pace.seconds >= PACED:
            self.compiled_before = False
            self._take_over()
        if (time.monotonic() >= self.due or self.unkept >= MOST_ROWS) and not self.inbox.stopping:
            self._tell_states()

    def _advance(self) -> Sequence[Progress]:
        """Advance the engine; without compiled updates where these cannot be made, or are slower than others."""
        engine = self.engine
        if not isinstance(engine, FusedEngine):
            return engine.advance()
        offered, seconds = engine.use.offered, engine.use.seconds
        try:
            reached = engine.advance()
        except Exception as error:
            if not self.compiling or engine.use.offered != offered:  # then it is no error of the compiler
                raise
            self._compile(False, f"they could not be compiled ({summary(error)})")
            return engine.advance()
        if self.compiling:  # it was one update, and compiling took most of the time
            self.compiling = False
            return reached
        self.pace.updates += engine.use.offered - offered
        self.pace.seconds += engine.use.seconds - seconds
        if self.before is not None and self.pace.seconds >= TRIED:
            if self.pace.speed < self.before.speed:
                self._compile(False, "they were not faster")
            self.before = None
        return reached

    def _take_over(self) -> None:
        """Let compiled updates take over. The next one takes seconds, and more if it is not in the cache."""
        self._tell_states()
        self._compile(True)

    def _compile(self, wanted: bool, why: str = "") -> None:
        """Let the updates from here on be compiled, or not and why."""
        assert isinstance(self.engine, FusedEngine)
        self.before, self.pace = (self.pace if wanted else None), _Pace()
        self.compiling = self.account.compiled = wanted
        self.account.uncompiled = why
        self.engine.compile(wanted)

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
        made = sum(len(rows) for progress in reached for rows in progress.rows)
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

        What the coordinator can do better is raised: it trains the trial again where memory or a process was lost, and
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
            if isinstance(error, WorkerLostError | SpentError) or out_of_memory(error) or _is_refused_checkpoint(error):
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
        """Read what was sent. With nothing to train wait for it; with a slot just freed, wait a moment."""
        began = time.monotonic()
        while not self.released and not self.halting:
            idle = not self.waiting and self.engine.free == self.account.slots
            wanting = self.expecting and len(self.waiting) < self.engine.free
            try:
                message = self.inbox.next(block=idle or wanting, timeout=None if idle else MOMENT)
            except queue.Empty:
                self.expecting = False
                break
            self._heed(*message)
        if self.first is not None:
            self.idle += (time.monotonic() - began) * self.engine.free / self.account.slots

    def _heed(self, kind: str, ticket: int, trial: Any) -> None:
        """Do what the coordinator says."""
        if kind == "release":
            self.released = True
        elif kind == "start":
            self.waiting.append((ticket, trial))
        elif kind == "halt":
            self.halting = True
        elif kind == "compile":
            self._take_over()
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
