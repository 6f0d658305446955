"""A command line that ends at a named point: `python -m tests.faults.driver POINT REPETITION [key=value ...]`.

A point is a call of a function of the program. Where it is reached, the process is killed as by `kill -9`, or with it
all that it began, as when a machine goes down.
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from multiprocessing import forkserver
from multiprocessing.resource_tracker import ensure_running as ensure_tracker
from pathlib import Path
from types import FrameType
from typing import Any

WRITES = ("write", "writelines", "fsync", "fdatasync", "replace", "rename", "execute", "executemany", "commit", "open")
"""Calls into C in the midst of which a function that writes may end."""


@dataclass(frozen=True)
class Point:
    """Where a command ends.

    Args:
        attribute: dotted name of the function.
        calls: the number of the call, counted from 1 in each process: one for each repetition, over and over.
        when: before, after, or during: between two of the WRITES that the call makes.
        within: only calls that were made, by whatever way, from this module count.
        start: which command of a search it is for; at those before it the search ends at FIRST.
    """

    attribute: str
    calls: Sequence[int]
    when: str
    within: str = ""
    start: int = 1


ASK, TELL = "sweep.proposals.proposer.OptunaProposer.ask", "sweep.proposals.proposer.OptunaProposer.tell"
SAVE, FLUSH = "sweep.checkpoints.CheckpointFiles.save", "sweep.tracking.recorder.MlflowRecorder.flush"
KEEP = "sweep.weights.WeightFiles.keep"
CREATE, OPEN = "sweep.tracking.bulk.DatabaseWriter.create", "sweep.tracking.recorder.MlflowRecorder.open"

POINTS = {
    "after ask": Point(ASK, range(1, 6), "after"),
    "after run creation": Point(CREATE, range(1, 6), "after"),
    "during checkpoint write": Point(SAVE, (1, 2, 4), "during"),
    "between rename and rows": Point("os.replace", (1, 2, 4), "after", within="sweep.checkpoints"),
    "before rows of a checkpoint": Point(FLUSH, (1, 2, 4), "before"),
    "during rows of a checkpoint": Point(FLUSH, (1, 2, 4), "during"),
    "during weights": Point(KEEP, (1, 2), "during"),
    "between weights and record": Point(KEEP, (1, 2), "after"),
    "between record and old weights": Point("sweep.weights.WeightFiles.forget_others", (2, 3), "before"),
    "between record and tell": Point(TELL, range(1, 6), "before"),
    "during tell": Point(TELL, range(1, 6), "during"),
    "before resuming": Point(ASK, (1,), "before", start=2),
    "after asking for what is resumed": Point(ASK, (1,), "after", start=2),
    "while reconciling": Point(OPEN, (1,), "during", start=2),
    "after reconciling": Point(OPEN, (1,), "after", start=2),
}

FIRST = Point(ASK, (2, 3, 4), "after")
"""Where a search ends before the start that a point is for."""


def main(argv: Sequence[str]) -> int:
    """Carry out a command line that ends at a point."""
    name, repetition, *arguments = argv
    inherit_patches()
    install(POINTS[name], int(repetition))
    from sweep.cli import main as sweep

    return sweep(arguments)


def install(point: Point, repetition: int) -> None:
    """Let this process, and those that it begins, end at a point.

    Args:
        repetition: from 0. Those that are odd kill the whole process group.
    """
    call, group = point.calls[repetition % len(point.calls)], repetition % 2 == 1
    owner, name = find(point.attribute)
    function = getattr(owner, name)
    counted = 0

    @wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal counted
        if point.within and not _called_from(point.within):
            return function(*args, **kwargs)
        counted += 1
        if counted != call:
            return function(*args, **kwargs)
        if point.when == "before":
            end(group)
        if point.when == "during":
            sys.setprofile(_end_at(repetition, group))
        try:
            answer = function(*args, **kwargs)
        finally:
            sys.setprofile(None)
        end(group)
        return answer

    setattr(owner, name, watched)


def _end_at(write: int, group: bool) -> Callable[[FrameType, str, Any], None]:
    """A profiler that ends the process at a write of this number, counted from 0: before it, or just after."""
    seen = 0

    def profile(frame: FrameType, event: str, function: Any) -> None:
        nonlocal seen
        if event in ("c_call", "c_return") and getattr(function, "__name__", "") in WRITES:
            if seen == write:
                end(group)
            seen += 1

    return profile


def _called_from(module: str) -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") == module:
            return True
        frame = frame.f_back
    return False


def end(group: bool) -> None:
    """As `kill -9` does: nothing is cleaned up."""
    if group:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def find(dotted: str) -> tuple[Any, str]:
    """Where an attribute is kept, and its name there.

    Raises:
        LookupError: if there is none.
    """
    parts = dotted.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:-1]:
            owner = getattr(owner, part, None)
        if hasattr(owner, parts[-1]):
            return owner, parts[-1]
    raise LookupError(f"{dotted}: the program has no such attribute; see the table of points")


def assign(values: Mapping[str, Any]) -> None:
    """Set attributes of modules, by their dotted names; also where they became the default of a parameter."""
    for dotted, value in values.items():
        module, name = find(dotted)
        old = getattr(module, name)
        setattr(module, name, value)
        kinds = [module, *(kind for kind in vars(module).values() if isinstance(kind, type))]
        for function in (entry for kind in kinds for entry in vars(kind).values()):
            function = getattr(function, "__func__", function)
            if defaults := getattr(function, "__defaults__", None):
                function.__defaults__ = tuple(value if default is old else default for default in defaults)


def inherit_patches() -> None:
    """Let the server that engines are forked from be forked from this process, not begun anew.

    It has imported then what this process has, and has its patches. What else tells it from one that was begun anew is
    undone: it keeps no files but its own, and no signal handlers.
    """
    multiprocessing.set_forkserver_preload([])
    server = forkserver._forkserver  # type: ignore[attr-defined]

    def ensure_running() -> None:
        ensure_tracker()
        if server._forkserver_pid is not None:
            if os.waitpid(server._forkserver_pid, os.WNOHANG)[0] == 0:
                return
            os.close(server._forkserver_alive_fd)
            server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
        address = multiprocessing.connection.arbitrary_address("AF_UNIX")
        with forkserver.socket.socket(forkserver.socket.AF_UNIX) as listener:
            listener.bind(address)
            os.chmod(address, 0o600)
            listener.listen()
            alive, ours = os.pipe()
            pid = os.fork()
            if pid == 0:
                _serve(os.dup(listener.fileno()), alive)
            os.close(alive)
            server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, ours, pid

    server.ensure_running = forkserver.ensure_running = ensure_running


def _serve(listener: int, alive: int) -> None:
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        keep = {listener, alive, forkserver.resource_tracker._resource_tracker._fd}  # type: ignore[attr-defined]
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in keep:
                try:
                    os.close(int(name))
                except OSError:
                    continue
        forkserver.main(listener, alive, [])
    finally:
        os._exit(0)


def become_the_program() -> None:
    """Let processes that are begun take `sweep.__main__` for what was run."""
    sys.modules["__main__"] = importlib.import_module("sweep.__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.setpgid(0, 0)
    become_the_program()
    from tests.faults import driver

    sys.exit(driver.main(sys.argv[1:]))
