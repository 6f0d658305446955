"""Start training processes from a fork server, which imports once what each of them needs."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import spawn
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = "sweep.training.preloaded"
"""The module that the fork server imports."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Signals that interrupt a command. The command then ends its processes itself.

Batch systems send SIGUSR1 as a warning, and terminals send SIGHUP when they are closed.
"""

PROCESS_PREFIX = "sweep-"
"""Prefix of the names of the processes that this module starts."""

SET_BY_SWEEP = "set by sweep"
"""The value that this module gives to PYTHONSAFEPATH. Python only checks that the variable is not empty."""


@contextmanager
def _environment() -> Iterator[None]:
    """Prevent the fork server from importing files of the working directory, which may be named sweep, torch or signal.

    A clone of this project is an exception, because the package need not be installed there. Other programs that this
    process starts are not affected.
    """
    added = "PYTHONSAFEPATH" not in os.environ and Path.cwd() != Path(__file__).absolute().parents[1]
    if added:
        os.environ["PYTHONSAFEPATH"] = SET_BY_SWEEP
    try:
        yield
    finally:
        if added:
            os.environ.pop("PYTHONSAFEPATH", None)


def set_up_process() -> None:
    """Set up the environment and the signals of a training process."""
    if os.environ.get("PYTHONSAFEPATH") == SET_BY_SWEEP:
        del os.environ["PYTHONSAFEPATH"]  # set for the fork server, and not for programs that user code starts
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)  # terminals and batch systems send them to all processes of a command


@_environment()
def prepare() -> None:
    """Start the fork server unless it is running. It imports its modules in the background."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing import forkserver, resource_tracker

        multiprocessing.set_forkserver_preload([PRELOADED])
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # both processes inherit the mask
        try:
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the line above unblocks SIGINT and SIGTERM
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(target: Callable[..., None], args: Sequence[Any], name: str) -> BaseProcess:
    """Start a training process, which ends when this process ends.

    Args:
        name: name of the process, which must start with PROCESS_PREFIX.
    """
    process: BaseProcess = context().Process(target=target, args=args, name=name, daemon=True)
    with _without_main_script():
        process.start()
    return process


@contextmanager
def _without_main_script() -> Iterator[None]:
    """Prevent training processes that are started within the context from running the main script of this process.

    `multiprocessing` makes new processes run it, and a script that calls this library outside of
    `if __name__ == "__main__"` would call it again there. The messages to training processes do not need the script.
    """
    prepared = spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        data = prepared(name)
        return {
            key: value for key, value in data.items() if not (name.startswith(PROCESS_PREFIX) and "init_main" in key)
        }

    spawn.get_preparation_data = without_main
    try:
        yield
    finally:
        spawn.get_preparation_data = prepared


def context() -> Any:
    """Return the multiprocessing context. It does not use fork, which is unsafe after using threads or a GPU."""
    prepare()
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
