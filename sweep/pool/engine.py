"""An engine in a training process, so that neither it nor the record waits for the other's turn at the interpreter.

The coordinator hands over trials, more than there are slots, and takes what was reached. When the training process ends
by itself, another takes its place.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sweep.config import EngineConfig
from sweep.core import Failure, Progress, Status, Trial
from sweep.errors import EngineLostError
from sweep.messages import EngineStats, Measured, Work
from sweep.passwords import without_passwords
from sweep.pool.trainer import GRACE, Trainer, Worker, begin_compiling, begin_workers

PATIENCE = 0.5
"""Seconds after which `advance` returns, so that its caller can look for a signal."""

HALT = 4.0
"""Seconds in which all trainings have to stop and give their states."""


@dataclass
class InFlight:
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
    def of(cls, trial: Trial) -> "InFlight":
        done = 0 if trial.state is None else trial.state.step
        return cls(trial, {series.name: done * series.updates for series in trial.config.series}, done)

    def beyond(self, progress: Progress) -> Progress | None:
        """What is new of it: a trial that was handed over again repeats what was taken before. None if nothing is."""
        evaluation = progress.evaluation
        if evaluation is not None and evaluation.step <= self.evaluated:
            evaluation = None
        rows = [part.split(self.taken[part.series])[1] for part in progress.rows]
        new = replace(progress, rows=[part for part in rows if len(part)], evaluation=evaluation)
        return new if new.rows or evaluation or new.status or new.state else None

    def take(self, progress: Progress) -> None:
        """It is the owner's from here on."""
        for part in progress.rows:
            self.taken[part.series] = int(part.steps[-1]) + 1
        if progress.evaluation is not None:
            self.evaluated = progress.evaluation.step
        if progress.state is not None:
            self.trial = replace(self.trial, state=progress.state)


class PooledEngine:
    """An engine in a training process. A context: the engine is released with it.

    Where the memory was too small, or the process has ended, another one trains fewer trials at once, each from its
    last state. If the process had only one slot, its trial is tried again, and has failed if that does not help.

    An error that is raised by the code of a trial is the failure of that trial, which is not tried again. Where several
    trials are trained in one update it is not known whose error it is: from there on a serial engine trains them one
    at a time, each from its last state, and the one that raises the error fails alone.

    Args:
        trainer: the process.
        config: which engine.
        work: what is to be trained, on which data and device; how often states are kept.
        on_chosen: told the account as soon as an engine is chosen.
        on_begun: told each trial when an engine begins to train it, once.
        interrupted: asked while that is waited for.
        retries: how often a trial is tried again.
        say: told why an engine takes the place of another.
        known: what was measured when an engine was chosen for other work with the same model and data.
    """

    def __init__(
        self,
        trainer: Trainer,
        config: EngineConfig,
        work: Work,
        on_chosen: Callable[[EngineStats], None] = lambda account: None,
        on_begun: Callable[[Trial], None] = lambda trial: None,
        interrupted: Callable[[], bool] = lambda: False,
        retries: int = 0,
        say: Callable[[str], None] = lambda text: None,
        known: Measured | None = None,
    ) -> None:
        self._trainer, self._known = trainer, known
        self._retries, self._say = retries, say
        self._work, self._interrupted = work, interrupted
        self._on_chosen, self._on_begun = on_chosen, on_begun
        self._live: dict[int, InFlight] = {}
        self._failures: dict[int, int] = {}
        self._given_up: list[Progress] = []
        self._tickets = 0
        self._first: float | None = None
        self._compiler: Worker | None = None
        self._begin(config)

    def _begin(self, config: EngineConfig) -> None:
        """Begin an engine, with nothing handed over."""
        self._config, self._sent = config, set[int]()
        self._account: EngineStats | None = None
        self._halted = False
        self._reached: list[tuple[int, Progress]] = []
        train, data = self._work.like[0].train, self._work.like[0].dataset
        facts = self._trainer.facts_of(self._work.like[0])
        self._trainer.begin()
        self._trainer.supply(data)
        self._workers: list[Worker] = begin_workers(train.workers)
        pipes = [other.pipe for other in self._workers]
        self._trainer.send("begin", 0, (config, self._work, facts.digest, pipes, self._known))
        for pipe in pipes:  # the engine's from now on: when it ends, so do they
            pipe.close()

    def __enter__(self) -> "PooledEngine":
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
    def account(self) -> EngineStats:
        """What the engine did so far; waits until it is chosen."""
        while not self._chosen(PATIENCE):
            pass
        assert self._account is not None
        return self._account

    def _chosen(self, patience: float) -> bool:
        """Whether the engine is chosen; waits that many seconds for it."""
        if self._account is None and self._trainer.poll(patience):
            _, self._account = self._receive()
            self._on_chosen(self._account)
            if self._account.compiles:
                facts = self._trainer.facts_of(self._work.like[0])
                self._compiler = begin_compiling(self._work, self._account, facts)
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
        self._trainer.send("start", ticket, self._live[ticket].trial)

    def start(self, trial: Trial) -> None:
        self._tickets += 1
        self._live[self._tickets] = InFlight.of(trial)
        if self._account is not None:
            self._hand(self._tickets)

    def stop(self, trial: Trial) -> None:
        for ticket in [ticket for ticket, live in self._live.items() if live.trial.number == trial.number]:
            del self._live[ticket]
            if ticket in self._sent:
                self._trainer.send("stop", ticket, trial)

    def advance(self) -> list[Progress]:
        """What was reached since, in its order, one boundary of a trial at a time; nothing after PATIENCE seconds.

        What the engine reaches meanwhile stays in the pipe.
        """
        if self._live and self._ready():
            self._check_compiler()
            try:
                while not (reached := self._taken()) and self._trainer.poll(PATIENCE):
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
                self._trainer.send("halt", 0, None)
                while not self._halted and self._trainer.poll(max(0.0, deadline - time.monotonic())):
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
            compiled = self._account is not None and self._account.compiled
            events, self._account, self._first = content
            self._reached += events
            if self._account.compiled and not compiled:
                self._say("engine: from here on the updates are compiled")
            elif compiled and not self._account.compiled:
                self._say(f"engine: from here on the updates are not compiled: {self._account.uncompiled}")

    def _check_compiler(self) -> None:
        """Let compiled updates take over when they are in the cache."""
        compiler = self._compiler
        if compiler is not None and (compiler.pipe.poll(0) or not compiler.process.is_alive()):
            self._compiler = None
            try:
                reason = compiler.pipe.recv()
            except EOFError:
                reason = f"the process that compiles them ended with status {compiler.process.exitcode}"
            if reason is None:
                self._trainer.send("compile", 0, None)
            else:
                self._say(f"engine: the updates could not be compiled ({reason})")

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

    def finished(self) -> EngineStats:
        """The account, once everything is recorded."""
        account = self._account or EngineStats()
        account.seconds = 0.0 if self._first is None else time.time() - self._first
        return account

    def close(self) -> None:
        """Release the engine; what it was training is given up."""
        self._trainer.release()
        if self._compiler is not None:
            self._compiler.process.kill()
            self._compiler = None
        for worker in self._workers:
            worker.process.join(GRACE)
            worker.process.kill()
            worker.process.join()
        self._workers = []

    def _receive(self) -> tuple[str, Any]:
        try:
            return self._trainer.receive()
        except EngineLostError as error:
            if error.kind == "worker":
                self._check_workers(GRACE)
            raise

    def _check_workers(self, patience: float = 0.0) -> None:
        """Notice a worker that was killed: nccl would wait for it until its time is up.

        Args:
            patience: seconds that each is waited for.

        Raises:
            EngineLostError: if one was.
        """
        for worker in self._workers:
            worker.process.join(patience)
            if (worker.process.exitcode or 0) < 0:
                raise EngineLostError(f"a data-parallel worker was killed by signal {-worker.process.exitcode}")
