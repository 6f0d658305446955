"""Train the trials that the coordinator sends with one engine, and send their progress back.

An error in the code of a trial fails only that trial. Training of the others continues.
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
from sweep.training.loop import UnusableProcessError

NEXT_TRIAL_SECONDS = 0.05
"""Seconds to wait for further trials before training: slots that start together are evaluated together."""

MAX_UNSAVED_UPDATES = 1_000_000
"""Updates after which states are sent, to limit the rows that wait in memory for the next checkpoint."""

UNCOMPILED_PROBE_SECONDS = 0.25
"""Seconds of updates that are measured without compilation, before compiled updates replace them."""

COMPILED_PROBE_SECONDS = 1.0
"""Seconds of compiled updates that are measured, after which they are abandoned if they are slower."""


class SharedUpdateError(RuntimeError):
    """An update of several trials failed, and it is unknown which of them caused the error."""


def failure_message(error: BaseException) -> tuple[str, Any]:
    """Return the message that reports an error to the coordinator: a kind, which selects its reaction, and a text."""
    if out_of_memory(error):
        return "memory", f"out of memory ({summary(error)})"
    if isinstance(error, InvalidValueError):
        return "refused", error
    if isinstance(error, WorkerLostError):
        return "worker", str(error).strip()
    if isinstance(error, SharedUpdateError):
        return "shared", str(error)
    if isinstance(error, UnusableProcessError):
        return "unusable", str(error)
    return "error", traceback.format_exc()


class Inbox:
    """Receives the messages of the coordinator in a thread, so that the coordinator never waits to send.

    Messages are unpickled by `next`, in the main thread, because unpickling may import the user's code.

    Attributes:
        stopping: whether the engine has to stop at the next update, because it must halt or be released.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self.stopping = pipe, False
        self._messages: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._read_messages, daemon=True).start()

    def next(self, block: bool = True, timeout: float | None = None) -> tuple[str, int, Any]:
        """Return the next message: kind, ticket, content.

        Raises:
            queue.Empty: if there is none within the timeout.
        """
        kind, message = self._messages.get(block, timeout)
        ticket, content = pickle.loads(message)
        return kind, ticket, content

    def _read_messages(self) -> None:
        try:
            while True:
                kind = self._pipe.recv_bytes().decode()
                self.stopping = self.stopping or kind in ("halt", "release")
                self._messages.put((kind, self._pipe.recv_bytes()))
        except (EOFError, OSError):
            os._exit(1)  # the coordinator has ended: updates that it has not recorded are trained again


@dataclass
class _Throughput:
    """Counts updates over all slots, and the time that they took."""

    updates: int = 0
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        return self.updates / self.seconds if self.seconds else 0.0


class EngineServer:
    """Trains with one engine until the coordinator releases it.

    Args:
        every: seconds between two states of a trial.
    """

    def __init__(self, pipe: Connection, inbox: Inbox, chosen: Chosen, account: EngineStats, every: float) -> None:
        self.pipe, self.inbox, self.engine, self.account, self.every = pipe, inbox, chosen.engine, account, every
        self.engine.pause = self._pausing
        self.due = time.monotonic() + every
        self.unsaved = 0
        """Updates that were sent since the last states."""
        self.halting = self.released = False
        self.waiting: list[tuple[int, Trial]] = []
        self.training: dict[int, tuple[int, Trial]] = {}
        """Trial number -> ticket and trial, for the trials in the engine."""
        self.first: float | None = None
        self.idle = 0.0
        self.expecting = True  # whether to wait for trials for the free slots
        self.throughput = _Throughput()
        self.uncompiled: _Throughput | None = None
        """Throughput without compilation, kept until it is known whether compiled updates are faster."""
        self.compiling = False
        """Whether the next update is the first compiled one, which includes the time to compile."""
        self.compiled_before = chosen.compiles and isinstance(self.engine, FusedEngine) and is_compiled(self.engine)
        """Whether an earlier command has put the compiled update into the cache, and it is not loaded yet."""
        account.compiles = chosen.compiles and not self.compiled_before

    def run(self) -> None:
        """Train the trials that the coordinator sends until it releases the engine."""
        while True:
            self._read()
            if self.released:
                return
            if self.halting:
                self._send_states()
                self.pipe.send(("halted", None))
                while self.inbox.next()[0] != "release":
                    pass
                return
            self._fill()
            if self.engine.free < self.account.slots:
                self._train()

    def _pausing(self) -> bool:
        """Return whether the engine has to stop before the next update.

        It stops to send states, to be released, and after the first compiled update.
        """
        return self.inbox.stopping or self.compiling or time.monotonic() >= self.due

    def _train(self) -> None:
        """Train to the next boundary or pause, and send the progress, and the states if they are due."""
        began, free = time.monotonic(), self.engine.free
        progress: Sequence[Progress] = ()
        with self._reporting_failure():
            progress = self._advance()
        self.idle += free / self.account.slots * (time.monotonic() - began)
        self.expecting = self.expecting or self.engine.free > free
        self._report(progress)
        if self.compiled_before and self.throughput.seconds >= UNCOMPILED_PROBE_SECONDS:
            self.compiled_before = False
            self._start_compiled()
        if (time.monotonic() >= self.due or self.unsaved >= MAX_UNSAVED_UPDATES) and not self.inbox.stopping:
            self._send_states()

    def _advance(self) -> Sequence[Progress]:
        """Advance the engine. Stop using compiled updates if they cannot be compiled or are slower."""
        engine = self.engine
        if not isinstance(engine, FusedEngine):
            return engine.advance()
        offered, seconds = engine.use.offered, engine.use.seconds
        try:
            progress = engine.advance()
        except Exception as error:
            if not self.compiling or engine.use.offered != offered:  # the compiler did not raise it
                raise
            self._compile(False, f"they could not be compiled ({summary(error)})")
            return engine.advance()
        if self.compiling:  # compiling took most of the time of this one update, so it is not measured
            self.compiling = False
            return progress
        self.throughput.updates += engine.use.offered - offered
        self.throughput.seconds += engine.use.seconds - seconds
        if self.uncompiled is not None and self.throughput.seconds >= COMPILED_PROBE_SECONDS:
            if self.throughput.speed < self.uncompiled.speed:
                self._compile(False, "they were not faster")
            self.uncompiled = None
        return progress

    def _start_compiled(self) -> None:
        """Use compiled updates from now on. The next update takes seconds, or longer if it is not in the cache."""
        self._send_states()
        self._compile(True)

    def _compile(self, wanted: bool, why: str = "") -> None:
        """Use compiled updates from now on, or stop using them.

        Args:
            why: reason to stop, for the user.
        """
        assert isinstance(self.engine, FusedEngine)
        self.uncompiled, self.throughput = (self.throughput if wanted else None), _Throughput()
        self.compiling = self.account.compiled = wanted
        self.account.uncompiled = why
        self.engine.compile(wanted)

    def _send_states(self) -> None:
        """Send the states of the trials one after another, so that a slow one does not delay the others."""
        states, state = iter(self.engine.snapshots()), None
        while True:
            with self._reporting_failure():
                state = next(states, None)
            if state is None:
                break
            self._report([state])
            state = None
        self.due, self.unsaved = time.monotonic() + self.every, 0

    def _report(self, reports: Sequence[Progress]) -> None:
        """Send the progress of trials to the coordinator."""
        made = sum(len(rows.lr) for progress in reports for rows in progress.rows)
        self.account.updates += made
        self.unsaved += made
        events = [(self.training[progress.trial][0], progress) for progress in reports]
        for progress in reports:
            if progress.status is not None:
                del self.training[progress.trial]
        if events:
            self.pipe.send(("progress", (events, self.account, self.first)))

    @contextmanager
    def _reporting_failure(self, trial: Trial | None = None) -> Iterator[None]:
        """Report a trial as failed if the context raises an error, and remove the trial from its slot.

        Some errors are raised instead, because the coordinator handles them: it retries the trial if memory or a
        process was lost, and trains one trial at a time if it is unknown which trial raised the error.

        Args:
            trial: the trial that is started in the context; None if the context trains those in the engine.

        Raises:
            SharedUpdateError: if the error occurred in an update of several trials.
            UnusableProcessError: if the trial has failed and its data-parallel workers are no longer synchronous, or
                the CUDA context may be corrupted so that every later operation fails.
        """
        try:
            yield
        except BaseException as error:  # also SystemExit and KeyboardInterrupt: this process ignores signals
            # the trial is not at fault if it cannot resume from its checkpoint
            refused_checkpoint = isinstance(error, InvalidValueError) and error.key == "train.checkpoint_dir"
            if isinstance(error, WorkerLostError | UnusableProcessError) or out_of_memory(error) or refused_checkpoint:
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
            self._report([Progress(trial.number, [], None, Status.FAILED, failure=failure)])
            self.expecting = True
            on_gpu = self.engine.device.type == "cuda" and not isinstance(error, InvalidValueError)
            if self.account.workers > 1 or on_gpu:
                raise UnusableProcessError(failure.reason) from error

    def _read(self) -> None:
        """Handle the messages that have arrived. Wait if there is nothing to train, and briefly if a slot is free."""
        began = time.monotonic()
        while not self.released and not self.halting:
            idle = not self.waiting and self.engine.free == self.account.slots
            wanting = self.expecting and len(self.waiting) < self.engine.free
            try:
                message = self.inbox.next(block=idle or wanting, timeout=None if idle else NEXT_TRIAL_SECONDS)
            except queue.Empty:
                self.expecting = False
                break
            self._handle(*message)
        if self.first is not None:
            self.idle += (time.monotonic() - began) * self.engine.free / self.account.slots

    def _handle(self, kind: str, ticket: int, trial: Any) -> None:
        """Handle one message of the coordinator."""
        if kind == "release":
            self.released = True
        elif kind == "start":
            self.waiting.append((ticket, trial))
        elif kind == "halt":
            self.halting = True
        elif kind == "compile":
            self._start_compiled()
        elif ticket in dict(self.waiting):
            self.waiting = [(known, of) for known, of in self.waiting if known != ticket]
        elif trial.number in self.training and self.training[trial.number][0] == ticket:
            self.engine.stop(trial)
            del self.training[trial.number]
            self.expecting = True

    def _fill(self) -> None:
        """Start waiting trials in the free slots, and count the idle time until now as waiting for them."""
        while self.waiting and self.engine.free:
            ticket, trial = self.waiting.pop(0)
            self.training[trial.number] = ticket, trial
            self.pipe.send(("begun", ticket))
            with self._reporting_failure(trial):
                self.engine.start(trial)
            self.first = self.first or time.time()
            self.account.waited, self.idle = self.account.waited + self.idle, 0.0
            if isinstance(self.engine, FusedEngine) and self.engine.use.offered:
                self.account.busy = self.engine.use.made / self.engine.use.offered
