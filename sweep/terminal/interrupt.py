"""Handle the signals that end a command (forking.SIGNALS) so that the loop completes its update first."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from sweep.forking import SIGNALS

SHOW_CURSOR = "\x1b[?25h"

HANGUP = getattr(signal, "SIGHUP", None)
"""Sent when the terminal is closed."""


@contextmanager
def ending_at_signals(ignored_after: bool) -> Iterator[None]:
    """Let any of the signals raise KeyboardInterrupt within the block, in which nothing has to be saved.

    Args:
        ignored_after: whether the signals are ignored from the end of the block on, because the process ends then.
    """
    with _handled(signal.default_int_handler, ignored_after=ignored_after):
        yield


def ignore_signals() -> None:
    """Ignore the signals for the rest of the process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def interruptible(
    say: Callable[[str], None],
    at_once: Callable[[], None] | None = None,
    signals: Collection[signal.Signals] = SIGNALS,
) -> Iterator[Callable[[], bool]]:
    """Give a function that returns whether a signal was received.

    A second signal ends the process at once, as SIGKILL would: the files on disk are valid at every moment. SIGHUP does
    not count as a first or second signal: the kernel and the shell each send one when a terminal is closed.

    Args:
        say: shows a line when the first signal is received.
        at_once: called at a second signal instead of ending the process.
        signals: that are handled.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number != HANGUP and any(before != HANGUP for before in received):
            (at_once or _leave)()
        received.append(number)
        if len(received) == 1:
            say("stopping: the trainings in progress are being saved; interrupt again to stop at once")

    with _handled(note, signals):
        yield lambda: bool(received)


def _leave() -> None:
    cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
    with suppress(OSError):  # the terminal may be closed
        said = "sweep: stopped at once; run the same command to resume from the last checkpoint"
        os.write(2, f"{cursor}\n{said}\n".encode())
    os._exit(130)


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], Any],
    signals: Collection[signal.Signals] = SIGNALS,
    ignored_after: bool = False,
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python sets no handlers there
        yield
        return
    handled = [number for number in signals if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_IGN if ignored_after else previous)
