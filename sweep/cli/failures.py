"""What ends a command though nothing was wrong with the request, in a line or two."""

import errno

from sweep.cli.exits import FAILED, INTERRUPTED
from sweep.database import causes, lost_lease
from sweep.errors import (
    EngineError,
    GivenUpError,
    HopelessError,
    RecordInUseError,
    RemovedError,
    StorageFullError,
    UnavailableError,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk without room says, and a quota."""
EXPLAINED = (EngineError, HopelessError, RecordInUseError, RemovedError, StorageFullError, UnavailableError)
GOES_ON = "what is recorded stays; the same command goes on"


def explained(error: Exception) -> tuple[str, int] | None:
    """What to tell of an error, and the exit status; None of one that is a mistake of this program."""
    lost = lost_lease(error)
    if lost is not None:
        return str(lost), FAILED
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in FULL:
            where = f"{cause.filename} cannot be written: " if cause.filename else ""
            return f"{where}{cause.strerror}; make room\nsweep: {GOES_ON}", FAILED
        if isinstance(cause, EXPLAINED):
            return f"{cause}\nsweep: {GOES_ON}", INTERRUPTED if isinstance(cause, GivenUpError) else FAILED
    return None
