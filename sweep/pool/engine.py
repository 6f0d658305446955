"""Control an engine in a training process, so that training and recording do not compete for one interpreter lock.

The coordinator sends trials, more than there are slots, and receives their progress. If the training process dies, it
is replaced.
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
from sweep.pool.trainer import EXIT_SECONDS, Trainer, Worker, begin_compiling, begin_workers

ADVANCE_SECONDS = 0.5
"""Seconds after which `advance` returns at the latest, so that its caller can check for signals."""

HALT_SECONDS = 4.0
"""Seconds within which all trials must stop and send their states."""


@dataclass
class InFlight:
    """A trial that was sent to an engine.

    Args:
        taken: series -> number of updates whose rows were received.
        evaluated: step of the last evaluation that was received.
        begun: whether an engine has started to train the trial.
    """

    trial: Trial
    taken: dict[str, int]
    evaluated: int
    begun: bool = False

    @classmethod
    def of(cls, trial: Trial) -> "InFlight":
        """Return a trial from which nothing was received since its stored state."""
        done = 0 if trial.state is None else trial.state.step
        return cls(trial, {series.name: done * series.updates for series in trial.config.series}, done)

    def new_part(self, progress: Progress) -> Progress | None:
        """Return the part of a progress that was not received before; None if there is none.

        A trial that was sent again repeats updates and evaluations.
        """
        evaluation = progress.evaluation
        if evaluation is not None and evaluation.step <= self.evaluated:
            evaluation = None
        rows = [part.since(self.taken[part.series]) for part in progress.rows]
        new = replace(progress, rows=[part for part in rows if len(part.lr)], evaluation=evaluation)
        return new if new.rows or evaluation or new.status or new.state else None

    def take(self, progress: Progress) -> None:
        """Mark a progress as received, and keep its state for a restart."""
        for part in progress.rows:
            self.taken[part.series] = part.first + len(part.lr)
        if progress.evaluation is not None:
            self.evaluated = progress.evaluation.step
        if progress.state is not None:
            self.trial = replace(self.trial, state=progress.state)


class PooledEngine:
    """An engine in a training process. As a context manager, it releases the engine at the end.

    If memory is exhausted or the process has died, a new engine trains fewer trials at once, each from its last state.
    If the engine had only one slot, its trial is retried, and fails after too many attempts.

    An error in the code of a trial fails that trial, which is not retried. If several trials are trained in one update,
    it is unknown which of them caused the error. Then a serial engine trains them one at a time, each from its last
    state, and only the trial that raises the error fails.

    Args:
        trainer: the training process.
        config: the configuration of the engine.
        work: the trials for which the engine is chosen.
        on_chosen: called with the statistics of an engine as soon as it is chosen.
        on_begun: called once with each trial when an engine starts to train it.
        interrupted: called while the choice is awaited; returns whether to stop waiting.
        retries: how often a trial is retried.
        say: called with the reason, as one line, when an engine is replaced.
        known: measurements of an earlier choice for the same model and data.
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
        self._abandoned: list[Progress] = []
        self._tickets = 0
        self._first: float | None = None
        self._compiler: Worker | None = None
        self._begin(config)

    def _begin(self, config: EngineConfig) -> None:
        """Start an engine without trials."""
        self._config, self._sent = config, set[int]()
        self._account: EngineStats | None = None
        self._halted = False
        self._received: list[tuple[int, Progress]] = []
        train, data = self._work.like[0].train, self._work.like[0].dataset
        facts = self._trainer.facts_of(self._work.like[0])
        self._trainer.begin()
        self._trainer.supply(data)
        self._workers: list[Worker] = begin_workers(train.workers)
        pipes = [other.pipe for other in self._workers]
        self._trainer.send("begin", 0, (config, self._work, facts.digest, pipes, self._known))
        for pipe in pipes:  # only the engine keeps the pipes, so that the workers exit when it exits
            pipe.close()

    def __enter__(self) -> "PooledEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """Return how many trials can be sent, including those that are proposed ahead; 0 after an interruption."""
        while not self._ready():
            if self._interrupted():
                return 0
        account = self.account
        ahead = account.slots if account.name == "fused" else 0 if self._work.learns else 1
        return account.slots + ahead - len(self._live)

    @property
    def account(self) -> EngineStats:
        """Return the statistics of the engine. Wait until it is chosen."""
        while not self._chosen(ADVANCE_SECONDS):
            pass
        assert self._account is not None
        return self._account

    def _chosen(self, timeout: float) -> bool:
        """Wait for the choice of the engine, and return whether it is chosen."""
        if self._account is None and self._trainer.poll(timeout):
            _, self._account = self._receive()
            self._on_chosen(self._account)
            if self._account.compiles:
                facts = self._trainer.facts_of(self._work.like[0])
                self._compiler = begin_compiling(self._work, self._account, facts)
        return self._account is not None

    def _ready(self) -> bool:
        """Wait ADVANCE_SECONDS for the choice of an engine, and send waiting trials. Return whether it is chosen."""
        try:
            if not self._chosen(ADVANCE_SECONDS):
                return False
        except EngineLostError as error:
            self._replace(error)
            return False
        for ticket in [ticket for ticket in self._live if ticket not in self._sent]:
            self._send_trial(ticket)
        return True

    def _send_trial(self, ticket: int) -> None:
        self._sent.add(ticket)
        self._trainer.send("start", ticket, self._live[ticket].trial)

    def start(self, trial: Trial) -> None:
        self._tickets += 1
        self._live[self._tickets] = InFlight.of(trial)
        if self._account is not None:
            self._send_trial(self._tickets)

    def stop(self, trial: Trial) -> None:
        for ticket in [ticket for ticket, live in self._live.items() if live.trial.number == trial.number]:
            del self._live[ticket]
            if ticket in self._sent:
                self._trainer.send("stop", ticket, trial)

    def advance(self) -> list[Progress]:
        """Return the next progress, in order, at most one boundary per trial; an empty list after ADVANCE_SECONDS.

        Further progress stays in the pipe.
        """
        if self._live and self._ready():
            self._check_compiler()
            try:
                while not (progress := self._next_progress()) and self._trainer.poll(ADVANCE_SECONDS):
                    self._handle_message()
                if not progress:
                    self._check_workers()
            except EngineLostError as error:
                self._replace(error)
            else:
                return progress
        abandoned, self._abandoned = self._abandoned, []
        return abandoned

    def snapshots(self) -> list[Progress]:
        """Stop all trials, and return their remaining progress and their states, as far as HALT_SECONDS suffice."""
        progress: list[Progress] = []
        deadline = time.monotonic() + HALT_SECONDS
        try:
            if self._chosen(0) and self._live:
                self._trainer.send("halt", 0, None)
                while not self._halted and self._trainer.poll(max(0.0, deadline - time.monotonic())):
                    self._handle_message()
        except EngineLostError:
            pass  # return what was received before
        while following := self._next_progress():
            progress += following
        return progress

    def _handle_message(self) -> None:
        """Receive and handle one message of the engine."""
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
            self._received += events
            if self._account.compiled and not compiled:
                self._say("engine: from now on updates are compiled")
            elif compiled and not self._account.compiled:
                self._say(f"engine: from now on updates are not compiled: {self._account.uncompiled}")

    def _check_compiler(self) -> None:
        """Tell the engine to use compiled updates when another process has compiled them."""
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

    def _next_progress(self) -> list[Progress]:
        """Return the next progress, up to but excluding the second boundary of a trial."""
        taken: dict[int, Progress] = {}
        while self._received and self._received[0][0] not in taken:
            ticket, progress = self._received.pop(0)
            if ticket not in self._live:  # the trial was stopped, and the engine continued for a while
                continue
            live = self._live[ticket]
            new = live.new_part(progress)
            if new is None:
                continue
            taken[ticket] = new
            live.take(new)
            if new.state is not None:  # the trial makes progress, so that earlier failures do not count
                self._failures.pop(new.trial, None)
            if new.status is not None:
                del self._live[ticket]
            if new.failure is not None:  # the trainer does not know the passwords
                hidden = Failure(without_passwords(new.failure.reason), without_passwords(new.failure.details))
                taken[ticket] = replace(new, failure=hidden)
        return list(taken.values())

    def _replace(self, error: EngineLostError) -> None:
        """Replace a lost engine. A trial that has failed too often is abandoned.

        Raises:
            EngineLostError: if a serial engine is lost that had no trial.
        """
        config = self._next_config(error)
        self.close()
        self._begin(config)

    def _next_config(self, error: EngineLostError) -> EngineConfig:
        """Return the configuration of the engine that replaces a lost one, and report the reason."""
        serial = EngineConfig("serial")
        if error.kind == "unusable":
            return self._config
        if error.kind == "shared":
            self._say(f"an error in an update of several trials ({error}): continuing with one trial at a time")
            return serial
        slots = self._account.slots if self._account else self._config.slots or 1
        if slots > 1:
            self._say(f"{error}: continuing with fewer than {slots} trials at once")
            return EngineConfig("fused", slots // 2) if slots > 3 else serial
        if self._account is None and self._config.name != "serial":  # while engines were tried
            self._say(f"{error}: continuing with one trial at a time")
            return serial
        self._count_failure(error)
        return serial

    def _count_failure(self, error: EngineLostError) -> None:
        """Count a failure of the oldest trial, which was in the only slot, and abandon it after too many failures."""
        if not self._live:
            raise error
        ticket, live = next(iter(self._live.items()))
        number = live.trial.number
        times = self._failures[number] = self._failures.get(number, 0) + 1
        if times > self._retries:
            del self._live[ticket]
            failure = Failure(str(error) if times == 1 else f"{error}, at the last of {times} attempts")
            self._abandoned.append(Progress(number, [], None, Status.FAILED, failure=failure))
            self._say(f"{error}: trial {number} has failed")
        else:
            self._say(f"{error}: retrying trial {number}")

    def finished(self) -> EngineStats:
        """Return the final statistics. Call it after everything was recorded."""
        account = self._account or EngineStats()
        account.seconds = 0.0 if self._first is None else time.time() - self._first
        return account

    def close(self) -> None:
        """Release the engine. Its unfinished trials are dropped."""
        self._trainer.release()
        if self._compiler is not None:
            self._compiler.process.kill()
            self._compiler = None
        for worker in self._workers:
            worker.process.join(EXIT_SECONDS)
            worker.process.kill()
            worker.process.join()
        self._workers = []

    def _receive(self) -> tuple[str, Any]:
        try:
            return self._trainer.receive()
        except EngineLostError as error:
            if error.kind == "worker":
                self._check_workers(EXIT_SECONDS)
            raise

    def _check_workers(self, timeout: float = 0.0) -> None:
        """Detect a killed worker, for which nccl would wait until its timeout.

        Args:
            timeout: seconds to wait for each worker to exit.

        Raises:
            EngineLostError: if a worker was killed.
        """
        for worker in self._workers:
            worker.process.join(timeout)
            if (worker.process.exitcode or 0) < 0:
                raise EngineLostError(f"a data-parallel worker was killed by signal {-worker.process.exitcode}")
