"""An engine in a process of its own: neither it nor the record waits for the other's turn at the interpreter.

The process that asks, records and tells hands over trials, more than there are slots, and takes what was reached. Pipes
are bounded: an engine that is ahead of the record waits for it. It goes when its owner goes, however that happens.
"""

import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from sweep import forking
from sweep.config import EngineConfig
from sweep.core import Progress, Trial
from sweep.data import Dataset
from sweep.training.choice import Chosen, Work, choose
from sweep.training.fused import FusedEngine

PATIENCE = 0.5
"""Seconds after which `advance` returns, so that its caller can look for a signal."""

MOMENT = 0.05
"""Seconds to wait for trials that are on their way: slots that begin together are evaluated together."""

GRACE = 2.0
"""Seconds in which a process that is told to end may do so by itself."""


class EngineError(RuntimeError):
    """The training failed, or its process ended."""


@dataclass
class Account:
    """What an engine did, up to the last trial that was started.

    Args:
        name: serial or fused.
        slots: trials at once.
        compiled: whether updates were compiled.
        why: of the choice.
        prepared: seconds of building, trying and compiling.
        updates: recorded ones.
        seconds: from the first update to when everything was recorded.
        busy: share of the slots' updates that were made for a trial, while there were trials to start.
        waited: seconds in which the device had nothing to do, or a part of its slots had, times that part, before the
            last trial was started.
    """

    name: str = ""
    slots: int = 0
    compiled: bool = False
    why: str = ""
    prepared: float = 0.0
    updates: int = 0
    seconds: float = 0.0
    busy: float = 1.0
    waited: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class EngineProcess:
    """An engine that trains in a process of its own. A context: the process ends with it.

    Args:
        config: which engine.
        data: what all trials share.
        device: where to train.
        work: what is to be trained.
        on_chosen: told the account as soon as the engine is chosen.
        interrupted: asked while that is waited for.
    """

    def __init__(
        self,
        config: EngineConfig,
        data: Dataset,
        device: torch.device,
        work: Work,
        on_chosen: Callable[[Account], None] = lambda account: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pipe, theirs = forking.context().Pipe()
        self._process = forking.context().Process(
            target=_serve, args=(theirs, config, data, str(device), work), name="sweep-engine", daemon=True
        )
        self._process.start()
        theirs.close()
        self._work, self._on_chosen, self._interrupted = work, on_chosen, interrupted
        self._account: Account | None = None
        self._live: dict[int, Trial] = {}
        self._reached: list[tuple[int, Progress]] = []
        self._tickets = 0
        self._first: float | None = None

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """Trials that can be handed over: those that are asked ahead included. None once the search is interrupted."""
        while not self._chosen(PATIENCE):
            if self._interrupted():
                return 0
        account = self.account
        ahead = account.slots if account.name == "fused" else 0 if self._work.learns else 1
        return account.slots + ahead - len(self._live)

    @property
    def account(self) -> Account:
        """What the engine did so far; waits until it is chosen."""
        while not self._chosen(PATIENCE):
            pass
        assert self._account is not None
        return self._account

    def _chosen(self, patience: float) -> bool:
        """Whether the engine is chosen; waits that many seconds for it."""
        if self._account is None and self._pipe.poll(patience):
            _, self._account = self._receive()
            self._on_chosen(self._account)
        return self._account is not None

    def start(self, trial: Trial) -> None:
        self._tickets += 1
        self._live[self._tickets] = trial
        self._send("start", self._tickets, trial)

    def stop(self, trial: Trial) -> None:
        for ticket in [ticket for ticket, live in self._live.items() if live is trial]:
            del self._live[ticket]
            self._send("stop", ticket, trial)

    def advance(self) -> list[Progress]:
        """What was reached since, in its order, one boundary of a trial at a time; nothing after PATIENCE seconds.

        What the engine reaches meanwhile stays in the pipe.
        """
        if not self._live:
            return []
        self.account  # noqa: B018 (what comes first is which engine it is)
        while not (reached := self._taken()) and self._pipe.poll(PATIENCE):
            _, (events, self._account, self._first) = self._receive()
            self._reached += events
        return reached

    def _taken(self) -> list[Progress]:
        """The next of what was reached, up to the second boundary of one trial."""
        taken: dict[int, Progress] = {}
        while self._reached and self._reached[0][0] not in taken:
            ticket, progress = self._reached.pop(0)
            if ticket in self._live:  # else it was stopped, and went on for a while
                taken[ticket] = progress
                if progress.status is not None:
                    del self._live[ticket]
        return list(taken.values())

    def finished(self) -> Account:
        """The account, once everything is recorded."""
        account = self._account or Account()
        account.seconds = 0.0 if self._first is None else time.time() - self._first
        return account

    def close(self) -> None:
        """End the process; what it was training is given up."""
        with suppress(OSError):
            self._pipe.send(("end", 0, None))
        self._process.join(GRACE)
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _receive(self) -> tuple[str, Any]:
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if kind == "error":
            raise EngineError(f"the training failed:\n{content}")
        return kind, content

    def _send(self, kind: str, ticket: int, trial: Trial) -> None:
        try:
            self._pipe.send((kind, ticket, trial))
        except OSError as error:
            while self._pipe.poll():  # what it said last is why
                self._receive()
            raise self._ended() from error

    def _ended(self) -> "EngineError":
        self._process.join(1)
        code = self._process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        return EngineError(f"the training process {how}")


def _serve(pipe: Connection, config: EngineConfig, data: Dataset, device: str, work: Work) -> None:
    """The engine's process: choose, then train what is handed over."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # a terminal sends them to all its processes; the owner decides
    try:
        began = time.monotonic()
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # a few kernels: no processes of their own for them
        chosen = choose(config, data, torch.device(device), work)
        account = Account(chosen.name, chosen.slots, chosen.compiled, chosen.why, time.monotonic() - began)
        pipe.send(("chosen", account))
        _Server(pipe, chosen, account).run()
    except BrokenPipeError:
        os._exit(1)  # nobody is left to tell
    except BaseException:
        with suppress(OSError):
            pipe.send(("error", traceback.format_exc()))
            pipe.close()


class _Server:
    """Trains in the main thread; another takes what the owner sends, so that the owner never waits to send."""

    def __init__(self, pipe: Connection, chosen: Chosen, account: Account) -> None:
        self.pipe, self.engine, self.account = pipe, chosen.engine, account
        self.waiting: list[tuple[int, Trial]] = []
        self.tickets: dict[int, int] = {}
        """Of the trials in the engine, by their number."""
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
            self._fill()
            if self.engine.free < self.account.slots:
                self._train()

    def _train(self) -> None:
        """To the nearest boundary; tell what was reached."""
        began, free = time.monotonic(), self.engine.free
        reached = self.engine.advance()
        self.idle += free / self.account.slots * (time.monotonic() - began)
        self.expecting = self.expecting or self.engine.free > free
        self.account.updates += sum(len(rows.lr) for progress in reached for rows in progress.rows)
        events = [(self.tickets[progress.trial], replace(progress, state=None)) for progress in reached]
        for progress in reached:
            if progress.status is not None:
                del self.tickets[progress.trial]
        if events:
            self.pipe.send(("reached", (events, self.account, self.first)))

    def _read(self) -> None:
        """What the owner has sent. With nothing to train wait for it; with a slot just freed, wait a moment."""
        began = time.monotonic()
        while not self.ended:
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
        elif ticket in dict(self.waiting):
            self.waiting = [(known, of) for known, of in self.waiting if known != ticket]
        elif self.tickets.get(trial.number) == ticket:
            self.engine.stop(trial)
            del self.tickets[trial.number]
            self.expecting = True

    def _fill(self) -> None:
        """Start what waits, as far as there are slots; what was idle until now was waiting for it."""
        while self.waiting and self.engine.free:
            ticket, trial = self.waiting.pop(0)
            self.tickets[trial.number] = ticket
            self.engine.start(trial)
            self.first = self.first or time.time()
            self.account.waited, self.idle = self.account.waited + self.idle, 0.0
            if isinstance(self.engine, FusedEngine) and self.engine.use.offered:
                self.account.busy = self.engine.use.made / self.engine.use.offered
