"""Files that a crash leaves whole: as they were before, or as they are after."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""What the name of a file ends with while it is written."""


def atomic_write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """A file for its owner only, on the disk when this returns: written beside its place, brought to the disk, renamed.

    Raises:
        OSError: names the file; what was there before is still there.
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
    """Bring the names in a folder to the disk: a file is there only when its name is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
