"""Run a program, and end the remaining processes of its process group when it has ended.

The program is ended, too, when the process that has started the supervisor ends.

This script runs as a separate process and imports only the standard library. Its standard input is a pipe to which
nothing is written. The pipe is closed to end the program, and also when the process at its other end is killed.
"""

import os
import signal
import subprocess
import sys
import threading
import time

TERMINATION_SECONDS = 3.0
"""Seconds between SIGTERM, upon which a program may save its state, and SIGKILL."""

_ENDING = threading.Lock()


def main(words: list[str]) -> int:
    """Run a program, and return its exit status: 127 if it cannot be started, 128 + n if signal n has ended it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the program would inherit SIG_IGN, but not a handler
    try:
        # in its own group, because this process ends the group and then returns the status
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
    """End all processes of a group with SIGTERM, and those that still run after TERMINATION_SECONDS with SIGKILL."""
    with _ENDING:  # a second call waits for the first, so that a process gets SIGTERM once
        running, deadline = _sent(group, signal.SIGTERM), time.monotonic() + TERMINATION_SECONDS
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
