"""The server that processes for training are forked from: it imports once what each of them needs."""

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
"""The module that the server imports."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Signals that interrupt a command, which ends its processes itself. A batch system sends SIGUSR1 as a warning, and a
terminal that is closed sends SIGHUP."""


OURS = "sweep-"
"""Prefix of the names of our processes."""

SET_HERE = "set by sweep"
"""The value of PYTHONSAFEPATH where this module has set it. Python only asks whether it has a value."""


@contextmanager
def _environment() -> Iterator[None]:
    """Keep the server from importing files of the working directory, which may be called sweep, torch or signal.

    A clone of ours is an exception, because it may not be installed. Other programs that this process starts are not
    affected.
    """
    added = "PYTHONSAFEPATH" not in os.environ and Path.cwd() != Path(__file__).absolute().parents[1]
    if added:
        os.environ["PYTHONSAFEPATH"] = SET_HERE
    try:
        yield
    finally:
        if added:
            os.environ.pop("PYTHONSAFEPATH", None)


def restore_environment() -> None:
    """Undo in a process for training what was set for the server alone: what a user's code starts is not affected."""
    if os.environ.get("PYTHONSAFEPATH") == SET_HERE:
        del os.environ["PYTHONSAFEPATH"]


@_environment()
def prepare() -> None:
    """Start the server unless it runs; it imports in the background."""
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
    """Start a process for training, which ends with this one.

    Args:
        name: of the process; it begins with OURS.
    """
    process: BaseProcess = context().Process(target=target, args=args, name=name, daemon=True)
    with _without_main_script():
        process.start()
    return process


@contextmanager
def _without_main_script() -> Iterator[None]:
    """Let our processes that are started meanwhile not run the main script of this one.

    `multiprocessing` has a process run it, and a script that calls this library outside of
    `if __name__ == "__main__"` would call it again there. What is sent to our processes needs no script.
    """
    prepared = spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        data = prepared(name)
        return {key: value for key, value in data.items() if not (name.startswith(OURS) and "init_main" in key)}

    spawn.get_preparation_data = without_main
    try:
        yield
    finally:
        spawn.get_preparation_data = prepared


def context() -> Any:
    """What processes are made with. Not fork: one that has computed with threads, or on a GPU, cannot be forked."""
    prepare()
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
