"""A lock with which one process at a time uses a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from socket import gethostname

LOCK_FILE = "lock"


class FolderLockedError(RuntimeError):
    """Another process uses the folder. The text names the process, its host and the time of its start."""


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder for the duration of a with block, and write the holder into its lock file.

    The operating system releases the lock when the process ends, however it ends. The lock file stays.

    Raises:
        FolderLockedError: at once, if another process holds the lock.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderLockedError(file.read() or "another process") from error
        file.truncate()
        file.write(f"process {os.getpid()} on {gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
        file.flush()
        yield
