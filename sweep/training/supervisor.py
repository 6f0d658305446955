"""Runs a program, and ends it with all processes of its group when the process that wants it has ended.

This is a program of its own, which imports the standard library alone. Its standard input is a pipe that nobody writes
to: it is closed when the program is to end, and when the process at its other end was killed.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 3.0
"""Seconds between SIGTERM, after which a program may save its state, and SIGKILL."""


def main(words: list[str]) -> int:
    """Run a program; return its status, 127 if it cannot be started and 128 + n if signal n has ended it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the program does not inherit a function, and would inherit SIG_IGN
    try:
        program = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{words[0]} cannot be run: {error.strerror}", flush=True)
        return 127
    ended = threading.Event()
    watching = threading.Thread(target=_end_with_input, args=(ended,), daemon=True)
    watching.start()
    status = program.wait()
    ended.set()
    return status if status >= 0 else 128 - status


def _end_with_input(ended: threading.Event) -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while not ended.is_set() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
