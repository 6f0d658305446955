"""Writes files atomically: after a crash a file has its old content or its new one."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""Suffix of the name of a file while it is written."""


def atomic_write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file atomically: write and fsync a temporary file (mode 0600), rename it, and fsync the folder.

    Raises:
        OSError: names the file. Its old content is still there.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY}")
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        error.filename = error.filename or str(path)
        raise


def fsync_folder(folder: Path) -> None:
    """Fsync a folder, so that new, renamed and removed files survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
