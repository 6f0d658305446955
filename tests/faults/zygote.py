"""A process that has imported the program once, and forks one for each command line: a start takes no seconds.

It reads orders as lines of JSON and answers with such lines: {"started": pid}, {"sent": true or false}, and, whenever a
command ends, {"ended": pid, "status": as in subprocess}.
"""

import atexit
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.faults import driver

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""For the environment of the process: what has computed with threads cannot be forked."""

UNKNOWN = 3
"""Exit status where the program does not have what an order names."""


def serve() -> dict[str, Any]:
    """Carry out orders; returns, in a process forked for it, what that is to do."""
    awake, wake = os.pipe()
    for end in (awake, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    answers = os.dup(1)
    os.dup2(2, 1)
    running: set[int] = set()
    buffered = b""

    def answer(**content: Any) -> None:
        os.write(answers, json.dumps(content).encode() + b"\n")

    answer(ready=os.getpid())
    while True:
        ready, _, _ = select.select([0, awake], [], [])
        if awake in ready:
            with suppress(BlockingIOError):
                os.read(awake, 1000)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                answer(ended=pid, status=os.waitstatus_to_exitcode(status))
        if 0 not in ready:
            continue
        read = os.read(0, 1 << 16)
        if not read:
            for pid in running:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            os._exit(0)
        *lines, buffered = (buffered + read).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "signal" in order:
                answer(sent=_send(order, running))
                continue
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for end in (awake, wake, answers):
                    os.close(end)
                return order
            with suppress(PermissionError, ProcessLookupError):
                os.setpgid(pid, pid)
            running.add(pid)
            answer(started=pid)


def _send(order: dict[str, Any], running: set[int]) -> bool:
    """Signal a command, or its process group, unless it has ended: its number may be another's then."""
    if order["pid"] not in running:
        return False
    (os.killpg if order["group"] else os.kill)(order["pid"], order["signal"])
    return True


def carry_out(order: dict[str, Any]) -> int:
    """The command line of an order, as a process of its own would."""
    with suppress(PermissionError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(output), os.close(nothing)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(order["folder"])
    driver.inherit_patches()
    driver.become_the_program()
    try:
        driver.assign(order["assign"])
        if order["point"]:
            driver.install(driver.POINTS.get(order["point"], driver.FIRST), order["repetition"])
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return UNKNOWN
    from sweep.cli import main

    sys.argv = ["sweep", *order["arguments"]]
    return main()


def leave(order: dict[str, Any]) -> None:
    """Carry out an order and end as the interpreter does, but for what would only free memory: that takes seconds."""
    try:
        status = carry_out(order)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def warm_up() -> None:
    """Import what a search imports on its way: it is carried out once, in a process of its own."""
    with TemporaryDirectory() as folder:
        pid = os.fork()
        if pid == 0:
            try:
                small = ["train.steps=4", "study.n_trials=2", "train.device=cpu", "model.hidden=[2]"]
                order = {"folder": folder, "arguments": small, "output": f"{folder}/out"}
                carry_out(order | {"point": "", "assign": {}})
                Path(folder, "modules").write_text("\n".join(sys.modules))
            finally:
                os._exit(0)  # no more: to remove the folder is for the one that made it
        os.waitpid(pid, 0)
        for name in Path(folder, "modules").read_text().splitlines():
            with suppress(Exception):  # some are made by others, on their way
                importlib.import_module(name)


if __name__ == "__main__":
    for name in (
        "sweep.cli.trainings",
        "sweep.cli.records",
        "sweep.cli.preview",
        "sweep.training.trainer",
        "torch._dynamo",
    ):
        importlib.import_module(name)
    warm_up()
    gc.collect()
    gc.freeze()  # collections in the processes that are forked need not copy what they share
    leave(serve())
