"""A lock with which one process at a time uses a folder."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from socket import gethostname

LOCK_FILE = "lock"
RETRY_PAUSE_SECONDS = 0.05


class FolderLockedError(RuntimeError):
    """Another process uses the folder. The text names the process, its host and the time of its start."""


@contextmanager
def locked_folder(folder: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock of a folder for the duration of a with block, and write the holder into its lock file.

    The operating system releases the lock when the process ends, however it ends. The lock file stays.

    Args:
        wait_seconds: time in which another process may release the lock, such as one that was killed and still ends.

    Raises:
        FolderLockedError: if another process holds the lock.
    """
    until = time.monotonic() + wait_seconds
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise FolderLockedError(file.read() or "another process") from error
                time.sleep(RETRY_PAUSE_SECONDS)
        file.truncate()
        file.write(f"process {os.getpid()} on {gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
        file.flush()
        yield
