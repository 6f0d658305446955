"""An engine in a process of its own: neither it nor the record waits for the other's turn at the interpreter.

The process that asks, records and tells hands over trials, more than there are slots, and takes what was reached. Pipes
are bounded: an engine that is ahead of the record waits for it. It goes when its owner goes, however that happens; when
it goes by itself, another takes its place.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from sweep import forking
from sweep.config import EngineConfig
from sweep.core import Failure, Progress, Status, Trial
from sweep.data import Dataset
from sweep.errors import EngineError, EngineLostError
from sweep.passwords import without_passwords
from sweep.training.choice import Measured, Work
from sweep.training.data_parallel import begin_workers
from sweep.training.served import Account, serve

PATIENCE = 0.5
"""Seconds after which `advance` returns, so that its caller can look for a signal."""

GRACE = 1.0
"""Seconds in which a process that is told to end may do so by itself."""

HALT = 4.0
"""Seconds in which it is waited for that all trainings stop and give their states."""


@dataclass
class _Handed:
    """A trial that was handed over.

    Args:
        taken: updates of each of its optimizers that were taken, by series.
        evaluated: those of the horizon at its last evaluation that was.
        begun: whether an engine has begun to train it.
    """

    trial: Trial
    taken: dict[str, int]
    evaluated: int
    begun: bool = False

    @classmethod
    def of(cls, trial: Trial) -> "_Handed":
        done = 0 if trial.state is None else trial.state.step
        return cls(trial, {series.name: done * series.updates for series in trial.config.series}, done)

    def beyond(self, progress: Progress) -> Progress | None:
        """What is new of it: a trial that was handed over again repeats what was taken before. None if nothing is."""
        evaluation = progress.evaluation
        if evaluation is not None and evaluation.step <= self.evaluated:
            evaluation = None
        rows = [part.since(self.taken[part.series]) for part in progress.rows]
        new = replace(progress, rows=[part for part in rows if len(part.lr)], evaluation=evaluation)
        return new if new.rows or evaluation or new.status or new.state else None

    def take(self, progress: Progress) -> None:
        """It is the owner's from here on."""
        for part in progress.rows:
            self.taken[part.series] = part.first + len(part.lr)
        if progress.evaluation is not None:
            self.evaluated = progress.evaluation.step
        if progress.state is not None:
            self.trial = replace(self.trial, state=progress.state)


class EngineProcess:
    """An engine that trains in a process of its own. A context: the process ends with it.

    Where the memory was too small, or the process has ended, another one trains fewer trials at once, each from its
    last state. If the process had only one slot, its trial is tried again, and has failed if that does not help.

    An error that is raised by the code of a trial is the failure of that trial, which is not tried again. Where several
    trials are trained in one update it is not known whose error it is: from there on a serial engine trains them one
    at a time, each from its last state, and the one that raises the error fails alone.

    Args:
        config: which engine.
        data: what all trials share.
        device: where to train.
        work: what is to be trained; how often states are kept.
        on_chosen: told the account as soon as an engine is chosen.
        on_begun: told each trial when an engine begins to train it, once.
        interrupted: asked while that is waited for.
        retries: how often a trial is tried again.
        say: told why an engine takes the place of another.
        known: what was measured when an engine was chosen for other work with the same model and data.
    """

    def __init__(
        self,
        config: EngineConfig,
        data: Dataset,
        device: torch.device,
        work: Work,
        on_chosen: Callable[[Account], None] = lambda account: None,
        on_begun: Callable[[Trial], None] = lambda trial: None,
        interrupted: Callable[[], bool] = lambda: False,
        retries: int = 0,
        say: Callable[[str], None] = lambda text: None,
        known: Measured | None = None,
    ) -> None:
        self._known = known
        self._data, self._device, self._retries, self._say = data, str(device), retries, say
        self._work, self._interrupted = work, interrupted
        self._on_chosen, self._on_begun = on_chosen, on_begun
        self._live: dict[int, _Handed] = {}
        self._failures: dict[int, int] = {}
        self._given_up: list[Progress] = []
        self._tickets = 0
        self._first: float | None = None
        self._begin(config)

    def _begin(self, config: EngineConfig) -> None:
        """A process with an engine, and nothing handed over."""
        self._config, self._sent = config, set[int]()
        self._account: Account | None = None
        self._halted = False
        self._reached: list[tuple[int, Progress]] = []
        self._pipe, theirs = forking.context().Pipe()
        train = self._work.like[0].train
        others = begin_workers(self._data, torch.device(self._device), train.precision, train.workers)
        pipes = [other.pipe for other in others]
        sent = (theirs, config, self._data, self._device, self._work, pipes, self._known)
        self._process = forking.begin(serve, sent, "sweep-engine")
        self._workers = [other.process for other in others]
        for pipe in (theirs, *pipes):  # the engine's: when it goes, so do they
            pipe.close()

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """Trials that can be handed over: those that are asked ahead included. None once the search is interrupted."""
        while not self._ready():
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

    def _ready(self) -> bool:
        """Whether an engine is chosen, and has what was handed over; waits PATIENCE seconds for it."""
        try:
            if not self._chosen(PATIENCE):
                return False
        except EngineLostError as error:
            self._replace(error)
            return False
        for ticket in [ticket for ticket in self._live if ticket not in self._sent]:
            self._hand(ticket)
        return True

    def _hand(self, ticket: int) -> None:
        self._sent.add(ticket)
        self._send("start", ticket, self._live[ticket].trial)

    def start(self, trial: Trial) -> None:
        self._tickets += 1
        self._live[self._tickets] = _Handed.of(trial)
        if self._account is not None:
            self._hand(self._tickets)

    def stop(self, trial: Trial) -> None:
        for ticket in [ticket for ticket, live in self._live.items() if live.trial.number == trial.number]:
            del self._live[ticket]
            if ticket in self._sent:
                self._send("stop", ticket, trial)

    def advance(self) -> list[Progress]:
        """What was reached since, in its order, one boundary of a trial at a time; nothing after PATIENCE seconds.

        What the engine reaches meanwhile stays in the pipe.
        """
        if self._live and self._ready():
            try:
                while not (reached := self._taken()) and self._pipe.poll(PATIENCE):
                    self._hear()
                if not reached:
                    self._check_workers()
            except EngineLostError as error:
                self._replace(error)
            else:
                return reached
        given_up, self._given_up = self._given_up, []
        return given_up

    def snapshots(self) -> list[Progress]:
        """What was reached until all trials have stopped, and their states; without those that take too long."""
        reached: list[Progress] = []
        deadline = time.monotonic() + HALT
        try:
            if self._chosen(0) and self._live:
                self._send("halt", 0, None)
                while not self._halted and self._pipe.poll(max(0.0, deadline - time.monotonic())):
                    self._hear()
        except EngineLostError:
            pass  # what it has given until then is all there is
        while taken := self._taken():
            reached += taken
        return reached

    def _hear(self) -> None:
        kind, content = self._receive()
        if kind == "halted":
            self._halted = True
        elif kind == "begun":
            live = self._live.get(content)
            if live is not None and not live.begun:
                live.begun = True
                self._on_begun(live.trial)
        else:
            events, self._account, self._first = content
            self._reached += events

    def _taken(self) -> list[Progress]:
        """The next of what was reached, up to the second boundary of one trial."""
        taken: dict[int, Progress] = {}
        while self._reached and self._reached[0][0] not in taken:
            ticket, progress = self._reached.pop(0)
            if ticket not in self._live:  # it was stopped, and went on for a while
                continue
            live = self._live[ticket]
            new = live.beyond(progress)
            if new is None:
                continue
            taken[ticket] = new
            live.take(new)
            if new.state is not None:  # it comes further now, whatever failed before
                self._failures.pop(new.trial, None)
            if new.status is not None:
                del self._live[ticket]
            if new.failure is not None:  # the other process does not know what is to be hidden
                hidden = Failure(without_passwords(new.failure.reason), without_passwords(new.failure.details))
                taken[ticket] = replace(new, failure=hidden)
        return list(taken.values())

    def _replace(self, error: EngineLostError) -> None:
        """Let another engine take the place of one that is lost; a trial that was tried too often is given up.

        Raises:
            EngineLostError: if the serial engine is lost, and had nothing to train.
        """
        config = self._following(error)
        self.close()
        self._begin(config)  # with as many data-parallel workers, where there are several

    def _following(self, error: EngineLostError) -> EngineConfig:
        """Choose the engine that follows one that is lost, and say why."""
        serial = EngineConfig("serial")
        if error.kind == "spent":
            return self._config
        if error.kind == "shared":
            self._say(f"an error in an update of several trials ({error}): going on with one trial at a time")
            return serial
        slots = self._account.slots if self._account else self._config.slots or 1
        if slots > 1:
            self._say(f"{error}: going on with fewer than {slots} trials at once")
            return EngineConfig("fused", slots // 2) if slots > 3 else serial
        if self._account is None and self._config.name != "serial":  # while engines were tried
            self._say(f"{error}: going on with one trial at a time")
            return serial
        self._blame(error)
        return serial

    def _blame(self, error: EngineLostError) -> None:
        """Count the failure of the trial that was in the only slot, the oldest."""
        if not self._live:
            raise error
        ticket, live = next(iter(self._live.items()))
        number = live.trial.number
        times = self._failures[number] = self._failures.get(number, 0) + 1
        if times > self._retries:
            del self._live[ticket]
            failure = Failure(str(error) if times == 1 else f"{error}, at the last of {times} attempts")
            self._given_up.append(Progress(number, [], None, Status.FAILED, failure=failure))
            self._say(f"{error}: trial {number} is given up")
        else:
            self._say(f"{error}: trial {number} is tried again")

    def finished(self) -> Account:
        """The account, once everything is recorded."""
        account = self._account or Account()
        account.seconds = 0.0 if self._first is None else time.time() - self._first
        return account

    def close(self) -> None:
        """End the process; what it was training is given up."""
        with suppress(OSError):
            self._pipe.send(("end", 0, None))
        for process in (self._process, *self._workers):
            process.join(GRACE)
            process.kill()
            process.join()
        self._pipe.close()

    def _receive(self) -> tuple[str, Any]:
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if kind == "refused":
            raise content
        if kind == "worker":
            self._check_workers(GRACE)
        if kind in ("memory", "worker", "shared", "spent"):
            raise EngineLostError(without_passwords(content), kind)
        if kind == "error":
            raise EngineError(f"the training failed:\n{content}")
        return kind, content

    def _check_workers(self, patience: float = 0.0) -> None:
        """Notice a worker that was killed: nccl would wait for it until its time is up.

        Args:
            patience: seconds that each is waited for.

        Raises:
            EngineLostError: if one was.
        """
        for process in self._workers:
            process.join(patience)
            if (process.exitcode or 0) < 0:
                raise EngineLostError(f"a data-parallel worker was killed by signal {-process.exitcode}")

    def _send(self, kind: str, ticket: int, trial: Trial | None) -> None:
        with suppress(OSError):  # it has ended; `advance` finds out how, and takes what it gave before
            self._pipe.send((kind, ticket, trial))

    def _ended(self) -> "EngineError":
        self._process.join(1)
        code = self._process.exitcode
        if code is not None and code < 0:
            return EngineLostError(f"the training process was killed by signal {-code}")
        return EngineLostError(f"the training process ended with status {code}")
