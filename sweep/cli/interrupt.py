"""Ctrl-C and SIGTERM as a question the loop asks, so that no work is cut in the middle."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether a signal came. The second signal ends the process where it stands.

    Args:
        say: shows a line when the first signal comes.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        say("stopping at the next evaluation; once more stops at once")

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
