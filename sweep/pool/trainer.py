"""A training process as its coordinator sees it: questions and their answers, messages to and from an engine.

Pipes are bounded: an engine that is ahead of the record waits for it. The process ends when its coordinator ends,
however that happens. When it ends by itself, the next question or engine starts another one.
"""

import os
import pickle
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cloudpickle
import numpy as np

from sweep import forking
from sweep.arrays import COPIED_BYTES, Source, StoredArray, as_source
from sweep.components import Component
from sweep.config import DatasetConfig, RunConfig
from sweep.errors import EngineError, EngineLostError, InvalidValueError
from sweep.messages import EngineStats, Facts, Work, facts_of_loop
from sweep.passwords import without_passwords
from sweep.targets import is_given
from sweep.tasks import CustomConfig, Direction

GRACE = 1.0
"""Seconds in which a process that is told to end may do so by itself."""

LARGEST_OF_LOOP = 2**40
"""Bytes that no checkpoint of a loop of the user's exceeds: nobody knows what it keeps."""

RELEASE = 5.0
"""Seconds in which a process that is to train something else may drop its engine. Another one would load the data."""


class Trainer:
    """A training process. It is started by the first question. A context: the process ends with it.

    Data, models and devices are known to this process alone; everything else asks it.
    """

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None
        self._facts: dict[str, Facts] = {}
        self._directions: dict[str, dict[str, Direction]] = {}
        self._sent: set[str] = set()
        """The configurations of the data sets whose arrays this process was sent."""
        self._training = False
        """Whether the process has an engine, which takes all messages."""
        self._released = True
        """Whether the process has no engine, or has said that it dropped the last one."""

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Return the number of the process; None if there is none."""
        return None if self._process is None else int(self._process.pid)

    def facts(self, config: DatasetConfig) -> Facts:
        """Load a data set, and describe it. The same configuration is loaded once.

        Raises:
            InvalidValueError: names the key of `dataset` or the array that cannot be right.
        """
        key = repr(config)
        if key not in self._facts:
            self.supply(config)
        if key not in self._facts:
            self._facts[key] = self._ask("facts", config)
        return self._facts[key]

    def facts_of(self, run: RunConfig) -> Facts:
        """Describe the data of a training. A loop of the user's loads them itself.

        Raises:
            InvalidValueError: as `facts`.
        """
        return self.facts(run.dataset) if run.loop is None else facts_of_loop(run.loop)

    def accepted(self, component: Component, names: Sequence[str]) -> list[str] | None:
        """Return those names that are parameters of what a component calls; None if its code cannot be imported.

        Raises:
            InvalidValueError: names the `_target_` if there is no such class or function.
        """
        found: list[str] | None = self._ask("accepted", component, names)
        return found

    def with_directions(self, config: RunConfig) -> RunConfig:
        """Return a configuration that knows which directions the task declares, if it is one of the user's.

        Raises:
            InvalidValueError: names task._target_ if there is no such task, or its directions are wrong.
        """
        task = config.task
        if not isinstance(task, CustomConfig):
            return config
        key = repr(task.component)
        if key not in self._directions:
            self._directions[key] = self._ask("directions", task.component)
        return replace(config, task=replace(task, declared=self._directions[key]))

    def check_components(self, components: Sequence[Component]) -> None:
        """Refuse components that cannot be called with their arguments.

        Raises:
            InvalidValueError: names the `_target_` or the argument.
        """
        self._ask("check_components", components)

    def check_device(self, config: RunConfig) -> None:
        """Refuse a device that is not there or cannot do what is asked for.

        Raises:
            InvalidValueError: names train.device, train.precision or train.workers.
        """
        self._ask("check_device", config)

    def check(self, configs: Sequence[RunConfig], silent: bool = False) -> None:
        """Try what trainings of one kind need, on the CPU, without training.

        Args:
            silent: whether to discard what the model of the first configuration prints, as that of the others is.

        Raises:
            InvalidValueError: names what cannot be trained.
        """
        self._ask("check", configs, silent, data=configs[0].dataset)

    def refuse_unstackable(self, configs: Sequence[RunConfig]) -> None:
        """Refuse engine=fused for trainings that cannot be made in one update.

        Raises:
            InvalidValueError: names the engine and says why.
        """
        self._ask("refuse_unstackable", configs, data=configs[0].dataset)

    def largest_checkpoint(self, config: RunConfig) -> int:
        """Return a number of bytes that no checkpoint of such a training exceeds."""
        if config.loop is not None:
            return LARGEST_OF_LOOP
        return int(self._ask("largest_checkpoint", config, data=config.dataset))

    def begin(self) -> None:
        """Start the process, unless it runs."""
        self._wait_for_release()
        if self._process is not None and not self._process.is_alive():
            self.kill()
        if self._process is None:
            self._pipe, theirs = forking.context().Pipe()
            self._process = forking.begin(_serve, (theirs, dict(os.environ)), "sweep-trainer")
            theirs.close()
            self._sent.clear()

    def supply(self, config: DatasetConfig) -> None:
        """Send the arrays of a data set that was given in Python, unless the process has them.

        They are made by the process that the user's objects are in.
        """
        key = repr(config)
        if is_given(config.component.target) and key not in self._sent:
            with TemporaryDirectory(prefix="sweep-") as folder:
                source = as_source(config.component.build())
                self._facts[key] = self._ask("take", config, _pickled(_on_disk(source, Path(folder))))
            self._sent.add(key)

    def _ask(self, name: str, *arguments: Any, data: DatasetConfig | None = None) -> Any:
        """Ask the process, and return the answer.

        Args:
            data: the data set that the answer depends on.

        Raises:
            InvalidValueError: if the answer is a refusal.
            EngineError: if the process ends instead.
        """
        assert not self._training, "an engine would take the question"
        self.begin()
        if data is not None:
            self.supply(data)
        self.send("ask", 0, (name, arguments))
        return self.receive()[1]

    def send(self, kind: str, ticket: int, content: Any) -> None:
        """Send a message. One to a process that has ended is dropped: what it sent before is received first."""
        assert self._pipe is not None
        message = ForkingPickler.dumps((ticket, content))
        self._training = self._training or kind == "begin"
        with suppress(OSError):
            self._pipe.send_bytes(kind.encode())
            self._pipe.send_bytes(message)

    def poll(self, patience: float) -> bool:
        """Wait that many seconds for a message; return whether there is one."""
        assert self._pipe is not None
        return self._pipe.poll(patience)

    def receive(self) -> tuple[str, Any]:
        """Wait for a message, and return its kind and content.

        Raises:
            InvalidValueError: if it is a refusal.
            EngineLostError: if the process has ended, or can train no more.
            EngineError: if it is a mistake of this program that ended the process, or the memory is too small for what
                was asked.
        """
        assert self._pipe is not None
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if kind == "refused":
            raise content
        if kind in ("memory", "worker", "shared", "spent"):
            raise EngineLostError(without_passwords(content), kind)
        if kind == "too large":
            raise EngineError(without_passwords(content))
        if kind == "error":
            raise EngineError(f"the training process failed:\n{content}")
        return kind, content

    def release(self) -> None:
        """Tell the process to drop its engine. It is waited for before it is asked anything else."""
        if self._pipe is not None:
            self.send("release", 0, None)
            self._released = self._training = False

    def _wait_for_release(self) -> None:
        """End the process if it does not drop its engine in time."""
        if self._released or self._pipe is None:
            return
        self._released = True
        deadline = time.monotonic() + RELEASE
        with suppress(Exception):  # whatever it still has to say of the engine, nobody waits for it
            while self._pipe.poll(max(0.0, deadline - time.monotonic())):
                if self._pipe.recv()[0] == "released":
                    return
        self.kill()

    def close(self) -> None:
        """End the process; what it was training is given up."""
        if self._pipe is not None:
            self.send("end", 0, None)
            self._process.join(GRACE)
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = self._pipe = None
            self._released, self._training = True, False

    def _ended(self) -> EngineLostError:
        self._process.join(1)
        code = self._process.exitcode
        if code is not None and code < 0:
            return EngineLostError(f"the training process was killed by signal {-code}")
        return EngineLostError(f"the training process ended with status {code}")


@dataclass(frozen=True)
class Worker:
    """A process beside the trainer: a data-parallel worker other than the first, or one that compiles.

    Args:
        pipe: connects to the process. A data-parallel worker ends when all that have this end of it have closed it or
            have ended.
    """

    process: Any
    pipe: Connection


def begin_workers(workers: int) -> list[Worker]:
    """Start the workers from 1 on, which wait to be told to join."""
    begun = []
    for rank in range(1, workers):
        ours, theirs = forking.context().Pipe()
        process = forking.begin(_work, (theirs, dict(os.environ), rank), f"sweep-worker-{rank}")
        theirs.close()
        begun.append(Worker(process, ours))
    return begun


def begin_compiling(work: Work, account: EngineStats, facts: Facts) -> Worker:
    """Start a process that compiles the update of an engine, and then sends None, or why it cannot."""
    ours, theirs = forking.context().Pipe()
    sent = (theirs, dict(os.environ), work, account.slots, account.threads, facts)
    process = forking.begin(_compile, sent, "sweep-compiler")
    theirs.close()
    return Worker(process, ours)


def _on_disk(source: Source, folder: Path) -> Source:
    """Return a data set whose large arrays are written to files of a folder, where another process maps them."""
    written = count()

    def stored(array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.nbytes <= COPIED_BYTES:
            return array
        path = folder / f"{next(written)}.npy"
        np.save(path, array)
        return StoredArray(path)

    def within(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: within(inner) for name, inner in value.items()}
        return tuple(map(within, value)) if isinstance(value, tuple) else stored(value)

    return replace(source, parts={split: within(part) for split, part in source.parts.items()})


def _pickled(source: Source) -> bytes:
    """Return the examples of a data set for another process.

    Raises:
        InvalidValueError: names the data set if its objects cannot be pickled.
    """
    try:
        return bytes(cloudpickle.dumps(source, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception as error:  # whatever an object of the user's raises
        kind = type(next(iter(source.parts.values()))).__name__
        raise InvalidValueError("dataset", kind, f"cannot be sent to the process that trains: {error}") from error


def _serve(pipe: Connection, environ: dict[str, str]) -> None:
    """Import what only the training process needs, and run it.

    Args:
        environ: the environment of the coordinator, which may have changed since the server was started.
    """
    from sweep.training.trainer import serve

    os.environ.update(environ)
    serve(pipe)


def _compile(pipe: Connection, environ: dict[str, str], *arguments: Any) -> None:
    from sweep.training.compiling import compile_ahead

    os.environ.update(environ)
    compile_ahead(pipe, *arguments)


def _work(pipe: Connection, environ: dict[str, str], rank: int) -> None:
    from sweep.training.data_parallel import work

    os.environ.update(environ)
    work(pipe, rank)
