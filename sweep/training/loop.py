"""Train one trial at a time with a user's loop, which runs in its own thread.

Only one of the two threads runs at a time. The engine passes the turn to the loop, and the loop returns it at the end
of a step if an evaluation was due or the engine has to stop.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from sweep.config import RunConfig
from sweep.core import Evaluation, Progress, Status, Trial
from sweep.errors import InvalidValueError
from sweep.messages import Work
from sweep.schedules import Reaction
from sweep.training.base_engine import broken, sound
from sweep.training.device import ALL_THREADS
from sweep.training.generators import seed_generators
from sweep.training.program import check_program
from sweep.training.run import METRIC_NAME, Run, Session

LOOP_EXIT_SECONDS = 5.0
"""Seconds within which a stopped loop must return. Otherwise its process is replaced."""


class UnusableProcessError(RuntimeError):
    """A trial has ended and has left the process in a state that further trials must not use."""


class _Turns:
    """Runs a function in a second thread, in turn with the thread that created this object."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._engines, self._loops = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="sweep-loop", daemon=True)
        self.error: BaseException | None = None
        self.ended = False

    def give(self, timeout: float | None = None) -> bool:
        """Run the function until it returns the turn or ends. Return False if the timeout passes first."""
        if self.ended:
            return True
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._loops.release()
        return self._engines.acquire(timeout=timeout)

    def give_back(self) -> None:
        """Return the turn to the engine, and wait for the next turn. The function calls this method."""
        self._engines.release()
        self._loops.acquire()

    @property
    def begun(self) -> bool:
        return self._thread.ident is not None

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # raised again by the engine
            self.error = error
        self.ended = True
        self._engines.release()


class _Slot:
    """A trial that is being trained by a loop."""

    def __init__(self, trial: Trial, device: torch.device, work: Work, pause: Callable[[], bool]) -> None:
        loop = trial.config.loop
        assert loop is not None
        self.trial, self._device = trial, device
        self._main, self._arguments = loop.component.target_and_arguments()
        self._default = torch.get_default_dtype()
        self.turns = _Turns(self._call)
        self.session = Session(trial, loop_name(trial.config), device, work.metric, pause, self.turns.give_back)
        assert work.folder
        self._run = Run(self.session, self.session.state, Path(work.folder) / str(trial.number))

    def _call(self) -> None:
        """Call the loop with the threads, the device and the seeds of a separate program."""
        self._run.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        torch.set_num_threads(ALL_THREADS)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        seed_generators(self.trial.seed)
        try:
            self._main(self._run, **self._arguments)
        finally:
            torch.set_default_dtype(self._default)
            with suppress(OSError):  # the loop has left files there
                self._run.folder.rmdir()

    def stop(self) -> bool:
        """End the iteration over run.steps(). Return whether the loop returns within LOOP_EXIT_SECONDS."""
        self.session.stopped = True
        return not self.turns.begun or (self.turns.give(LOOP_EXIT_SECONDS) and self.turns.ended)


class LoopEngine:
    """Trains one trial at a time with the user's loop.

    Args:
        device: the device on which the loop has to train.
        work: contains the metric of the study and the folder for files of the loops.
    """

    slots = 1
    workers = 1

    def __init__(self, device: torch.device, work: Work) -> None:
        self.device, self._work = device, work
        self.pause: Callable[[], bool] = lambda: False
        self._slot: _Slot | None = None
        self._spent = False
        """Whether a loop is still running although its trial has ended."""

    @property
    def free(self) -> int:
        return 0 if self._slot else 1

    def start(self, trial: Trial) -> None:
        """Put a trial into the slot.

        Raises:
            UnusableProcessError: if the loop of another trial ignores the end of run.steps().
        """
        self._refuse_spent()
        self._slot = _Slot(trial, self.device, self._work, lambda: self.pause())

    def stop(self, trial: Trial) -> None:
        """End a trial and its loop.

        Raises:
            UnusableProcessError: if the loop does not return.
        """
        if self._slot is not None and self._slot.trial.number == trial.number:
            self._release(self._slot)
            self._refuse_spent()

    def close(self) -> None:
        """End the running loop.

        Raises:
            UnusableProcessError: if this loop, or the loop of an earlier trial, does not return.
        """
        if self._slot is not None:
            self._release(self._slot)
        self._refuse_spent()

    def _release(self, slot: _Slot) -> None:
        self._slot = None
        self._spent = not slot.stop() or self._spent

    def _refuse_spent(self) -> None:
        if self._spent:
            raise UnusableProcessError("a loop ignores the end of run.steps()")

    def snapshots(self) -> Iterator[Progress]:
        """Yield the state that the loop has offered. If there is none, `advance` returns the next offered state."""
        slot = self._slot
        if slot is None:
            return
        session = slot.session
        if not session.offers:
            session.wanted = True
            return
        if session.collect():  # otherwise the trial has diverged, which `advance` reports
            yield Progress(slot.trial.number, session.rows(), None, None, session.events, session.snapshot())

    def advance(self) -> list[Progress]:
        slot = self._slot
        if slot is None:
            return []
        session, number = slot.session, slot.trial.number
        if not session.diverged:
            slot.turns.give()
            sys.stdout.flush()  # show output of the loop before later output of the coordinator
        if not session.collect() or session.diverged:
            return [self._ended(slot, broken(number, session.step), Status.DIVERGED)]
        if slot.turns.error is not None:
            raise session.refusal or slot.turns.error
        if slot.turns.ended:
            session.check_ended()
        elif not session.due(session.step) or not session.metrics:  # it is between two evaluations
            if session.wanted and session.offers:
                return [Progress(number, session.rows(), None, None, session.events, session.snapshot())]
            return []
        evaluation = session.evaluation()
        if not sound(evaluation):
            return [self._ended(slot, broken(number, session.step), Status.DIVERGED)]
        if slot.turns.ended:
            return [self._ended(slot, evaluation, Status.COMPLETE)]
        return [Progress(number, session.rows(), evaluation, None, session.events)]

    def _ended(self, slot: _Slot, evaluation: Evaluation, status: Status) -> Progress:
        session = slot.session
        state = session.final if status is Status.COMPLETE else None
        self._release(slot)
        return Progress(slot.trial.number, session.rows(), evaluation, status, session.events, state)


def loop_name(config: RunConfig) -> tuple[str, str]:
    """Return the key and the value that identify the loop of a training in messages."""
    assert config.loop is not None
    return ("loop", "command") if config.loop.runs_program else ("loop._target_", config.loop.component.target)


def check_loop(config: RunConfig) -> None:
    """Refuse a loop that cannot be called, a program that cannot be run, and a reaction to a metric that no loop has.

    Raises:
        InvalidValueError: names the key.
    """
    loop = config.loop
    assert loop is not None
    loop.component.check_call("run")
    if loop.runs_program:
        check_program(loop.component.arguments["command"], config)
    for group, part in (("warmup", config.warmup), ("schedule", config.decay)):
        if isinstance(part, Reaction) and not METRIC_NAME.fullmatch(part.watches):
            key, value = f"{group}.{part.condition}", getattr(part, part.condition)
            raise InvalidValueError(key, value, f"waits for {part.watches}, which a loop cannot report")
