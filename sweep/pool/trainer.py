"""Control a training process: send requests and receive answers, and exchange messages with its engine.

Pipes are bounded, so an engine that is ahead of the record waits. The process exits when its coordinator exits or is
killed. If the process dies, the next request or engine starts a new one.
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
from sweep.arrays import SMALL, Source, StoredArray, as_source
from sweep.components import Component
from sweep.config import DatasetConfig, RunConfig
from sweep.errors import EngineError, EngineLostError, InvalidValueError
from sweep.messages import EngineStats, Facts, Work, facts_of_loop
from sweep.passwords import without_passwords
from sweep.targets import is_given
from sweep.tasks import CustomConfig, Direction

EXIT_SECONDS = 1.0
"""Seconds within which a process must exit after a request, before it is killed."""

MAX_LOOP_CHECKPOINT_BYTES = 2**40
"""Assumed largest size of a checkpoint of a user's loop, whose content is unknown."""

RELEASE_SECONDS = 5.0
"""Seconds within which a process must release its engine, before it is replaced by one that has to load the data."""


class Trainer:
    """A training process, which is started by the first request. As a context manager, it ends the process.

    Only this process accesses data, models and devices. Other code sends requests to it.
    """

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None
        self._facts: dict[str, Facts] = {}
        self._directions: dict[str, dict[str, Direction]] = {}
        self._sent: set[str] = set()
        """Configurations of the data sets whose arrays were sent to the process."""
        self._training = False
        """Whether the process has an engine, which receives all messages."""
        self._released = True
        """Whether the process has confirmed that it has released its last engine, or never had one."""

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Return the id of the process; None if there is none."""
        return None if self._process is None else int(self._process.pid)

    def facts(self, config: DatasetConfig) -> Facts:
        """Load a data set, and return its facts. The same configuration is loaded once.

        Raises:
            InvalidValueError: names the key of `dataset` or the array that is invalid.
        """
        key = repr(config)
        if key not in self._facts:
            self.supply(config)
        if key not in self._facts:
            self._facts[key] = self._ask("facts", config)
        return self._facts[key]

    def facts_of(self, run: RunConfig) -> Facts:
        """Return the facts about the data of a training. A user's loop loads its data itself.

        Raises:
            InvalidValueError: as in `facts`.
        """
        return self.facts(run.dataset) if run.loop is None else facts_of_loop(run.loop)

    def accepted(self, component: Component, names: Sequence[str]) -> list[str] | None:
        """Return those names that are parameters of the class or function of a component; None if its import fails.

        Raises:
            InvalidValueError: names the `_target_` if the class or function does not exist.
        """
        found: list[str] | None = self._ask("accepted", component, names)
        return found

    def with_directions(self, config: RunConfig) -> RunConfig:
        """Return the configuration with the directions of metrics that a user's task declares.

        Raises:
            InvalidValueError: names task._target_ if the task does not exist or its directions are invalid.
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
        """Refuse a device that is not available or does not support the configuration.

        Raises:
            InvalidValueError: names train.device, train.precision or train.workers.
        """
        self._ask("check_device", config)

    def check(self, configs: Sequence[RunConfig], silent: bool = False) -> None:
        """Check on the CPU that configurations of one kind can be trained, without training them.

        Args:
            silent: whether to discard the output of the first model. That of further models is always discarded.

        Raises:
            InvalidValueError: names what cannot be trained.
        """
        self._ask("check", configs, silent, data=configs[0].dataset)

    def refuse_unstackable(self, configs: Sequence[RunConfig]) -> None:
        """Refuse engine=fused for configurations that cannot be trained in one update.

        Raises:
            InvalidValueError: names the engine and the reason.
        """
        self._ask("refuse_unstackable", configs, data=configs[0].dataset)

    def largest_checkpoint(self, config: RunConfig) -> int:
        """Return a number of bytes that no checkpoint of such a training exceeds."""
        if config.loop is not None:
            return MAX_LOOP_CHECKPOINT_BYTES
        return int(self._ask("largest_checkpoint", config, data=config.dataset))

    def begin(self) -> None:
        """Start the process, unless it is running."""
        self._wait_for_release()
        if self._process is not None and not self._process.is_alive():
            self.kill()
        if self._process is None:
            self._pipe, theirs = forking.context().Pipe()
            self._process = forking.begin(_serve, (theirs, dict(os.environ)), "sweep-trainer")
            theirs.close()
            self._sent.clear()

    def supply(self, config: DatasetConfig) -> None:
        """Send the arrays of a data set that was passed as a Python object, unless the process has them.

        The user's objects exist only in this process, so this process creates the arrays.
        """
        key = repr(config)
        if is_given(config.component.target) and key not in self._sent:
            with TemporaryDirectory(prefix="sweep-") as folder:
                source = as_source(config.component.build())
                self._facts[key] = self._ask("take", config, _pickled(_on_disk(source, Path(folder))))
            self._sent.add(key)

    def _ask(self, name: str, *arguments: Any, data: DatasetConfig | None = None) -> Any:
        """Send a request to the process, and return the answer.

        Args:
            data: the data set on which the answer depends.

        Raises:
            InvalidValueError: if the answer is a refusal.
            EngineError: if the process ends instead.
        """
        assert not self._training, "an engine would receive the request"
        self.begin()
        if data is not None:
            self.supply(data)
        self.send("ask", 0, (name, arguments))
        return self.receive()[1]

    def send(self, kind: str, ticket: int, content: Any) -> None:
        """Send a message. It is dropped if the process has ended, whose earlier messages can still be received."""
        assert self._pipe is not None
        message = ForkingPickler.dumps((ticket, content))
        self._training = self._training or kind == "begin"
        with suppress(OSError):
            self._pipe.send_bytes(kind.encode())
            self._pipe.send_bytes(message)

    def poll(self, timeout: float) -> bool:
        """Wait for a message for `timeout` seconds; return whether there is one."""
        assert self._pipe is not None
        return self._pipe.poll(timeout)

    def receive(self) -> tuple[str, Any]:
        """Wait for a message, and return its kind and content.

        Raises:
            InvalidValueError: if it is a refusal.
            EngineLostError: if the process has ended or cannot train further trials.
            EngineError: if a bug in this program has ended the process, or memory is too small for the request.
        """
        assert self._pipe is not None
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if kind == "refused":
            raise content
        if kind in ("memory", "worker", "shared", "unusable"):
            raise EngineLostError(without_passwords(content), kind)
        if kind == "too large":
            raise EngineError(without_passwords(content))
        if kind == "error":
            raise EngineError(f"the training process failed:\n{content}")
        return kind, content

    def release(self) -> None:
        """Tell the process to release its engine. The next request waits until it has done so."""
        if self._pipe is not None:
            self.send("release", 0, None)
            self._released = self._training = False

    def _wait_for_release(self) -> None:
        """Wait until the process has released its engine. Kill the process after RELEASE_SECONDS."""
        if self._released or self._pipe is None:
            return
        self._released = True
        deadline = time.monotonic() + RELEASE_SECONDS
        with suppress(Exception):  # further messages of the engine are not needed
            while self._pipe.poll(max(0.0, deadline - time.monotonic())):
                if self._pipe.recv()[0] == "released":
                    return
        self.kill()

    def close(self) -> None:
        """End the process. Its unfinished trials are dropped."""
        if self._pipe is not None:
            self.send("end", 0, None)
            self._process.join(EXIT_SECONDS)
            self.kill()

    def kill(self) -> None:
        """Kill the process."""
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
    """A process that assists the trainer: a data-parallel worker other than worker 0, or one that compiles.

    Args:
        pipe: connection to the process. A data-parallel worker exits when all processes that have this end of the pipe
            have closed it or exited.
    """

    process: Any
    pipe: Connection


def begin_workers(workers: int) -> list[Worker]:
    """Start the data-parallel workers 1..workers-1, which wait for the message to join."""
    begun = []
    for rank in range(1, workers):
        ours, theirs = forking.context().Pipe()
        process = forking.begin(_work, (theirs, dict(os.environ), rank), f"sweep-worker-{rank}")
        theirs.close()
        begun.append(Worker(process, ours))
    return begun


def begin_compiling(work: Work, account: EngineStats, facts: Facts) -> Worker:
    """Start a process that compiles the update of an engine, and then sends None or the reason of a failure."""
    ours, theirs = forking.context().Pipe()
    sent = (theirs, dict(os.environ), work, account.slots, account.threads, facts)
    process = forking.begin(_compile, sent, "sweep-compiler")
    theirs.close()
    return Worker(process, ours)


def _on_disk(source: Source, folder: Path) -> Source:
    """Write the large arrays of a data set to files in a folder, and return the data set with references to them."""
    written = count()

    def stored(array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.nbytes <= SMALL:
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
    """Return a data set pickled for another process.

    Raises:
        InvalidValueError: names the data set if its objects cannot be pickled.
    """
    try:
        return bytes(cloudpickle.dumps(source, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception as error:  # user objects may raise anything
        kind = type(next(iter(source.parts.values()))).__name__
        raise InvalidValueError("dataset", kind, f"cannot be sent to the process that trains: {error}") from error


def _serve(pipe: Connection, environ: dict[str, str]) -> None:
    """Run a training process. Its modules are imported here, because the coordinator must not import torch.

    Args:
        environ: the environment of the coordinator, which may have changed since the fork server was started.
    """
    from sweep.training.trainer import serve

    os.environ.update(environ)
    serve(pipe)


def _compile(pipe: Connection, environ: dict[str, str], *arguments: Any) -> None:
    from sweep.training.compiling import compile_ahead

    os.environ.update(environ)
    compile_ahead(pipe, *arguments)


def _work(pipe: Connection, environ: dict[str, str], rank: int) -> None:
    from sweep.training.data_parallel import run_worker

    os.environ.update(environ)
    run_worker(pipe, rank)
