"""Ctrl-C, SIGTERM and SIGUSR1 as a question the loop asks, so that no work is cut in the middle."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sweep.forking import SIGNALS

SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def ending_at_signals() -> Iterator[None]:
    """Within, any of the signals ends what is done as Ctrl-C does: for as long as there is nothing to keep."""
    with _handled(signal.default_int_handler):
        yield


def ignore_signals() -> None:
    """For the rest of the process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def interruptible(
    say: Callable[[str], None], at_once: Callable[[], None] | None = None
) -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether a signal came.

    A second signal ends the process where it stands, as SIGKILL would: what is kept on the disk stands every moment.

    Args:
        say: shows a line when the first signal comes.
        at_once: what a second signal does instead.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            (at_once or _leave)()
        received.append(number)
        say("stopping: what is in training is kept where it stands; once more stops at once")

    with _handled(note):
        yield lambda: bool(received)


def _leave() -> None:
    cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
    os.write(2, f"{cursor}\nsweep: stopped at once; the same command goes on from what was kept before\n".encode())
    os._exit(130)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
