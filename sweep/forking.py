"""The server that processes for training are forked from: it imports once what each of them needs."""

import multiprocessing
from typing import Any

IMPORTED = ("sweep.training", "torch._dynamo", "sweep.cli")
"""Also what the first optimizer imports, and the command line that a process begins with."""


def prepare() -> None:
    """Let the server begin, where it has not; it imports while the caller goes on."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        from multiprocessing import forkserver

        multiprocessing.set_forkserver_preload(list(IMPORTED))
        forkserver.ensure_running()


def context() -> Any:
    """What processes are made with. Not fork: one that has computed with threads, or on a GPU, cannot be forked."""
    prepare()
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
