"""Runs a program, and ends what is left of its process group when it has ended.

The program is ended, too, when the process that wants it has ended.

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

_ENDING = threading.Lock()


def main(words: list[str]) -> int:
    """Run a program; return its status, 127 if it cannot be started and 128 + n if signal n has ended it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the program does not inherit a function, and would inherit SIG_IGN
    try:
        # in a group of its own: this process has to outlive what is left of the group, to return the status
        program = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"{words[0]} cannot be run: {error.strerror}", flush=True)
        return 127
    threading.Thread(target=_end_with_input, args=(program.pid,), daemon=True).start()
    status = program.wait()
    _end(program.pid)
    return status if status >= 0 else 128 - status


def _end_with_input(group: int) -> None:
    os.read(0, 1)
    _end(group)


def _end(group: int) -> None:
    """End all processes of a group: first with SIGTERM, and those that are left after GRACE seconds with SIGKILL."""
    with _ENDING:  # a second call waits for the first, and a process gets SIGTERM once
        running, deadline = _sent(group, signal.SIGTERM), time.monotonic() + GRACE
        while running and time.monotonic() < deadline:
            time.sleep(0.02)
            running = _sent(group, 0)
        if running:
            _sent(group, signal.SIGKILL)


def _sent(group: int, number: int) -> bool:
    """Send a signal to a process group, 0 to send none; return whether there is a process in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # the latter on macOS for processes that have ended
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
