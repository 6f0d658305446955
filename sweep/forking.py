"""The server that processes for training are forked from: it imports once what each of them needs."""

import multiprocessing
import signal
from typing import Any

IMPORTED = ("sweep.training", "torch._dynamo", "sweep.cli")
"""Also what the first optimizer imports, and the command line that a process begins with."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Those that interrupt a command, which decides for its processes; SIGUSR1 is a batch system's warning."""


def prepare() -> None:
    """Let the server begin, where it has not; it imports while the caller goes on."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing import forkserver, resource_tracker

        multiprocessing.set_forkserver_preload(list(IMPORTED))
        resource_tracker.ensure_running()  # before signals are blocked: it lets them through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which the server inherits
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def context() -> Any:
    """What processes are made with. Not fork: one that has computed with threads, or on a GPU, cannot be forked."""
    prepare()
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
