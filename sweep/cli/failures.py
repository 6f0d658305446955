"""What ends a command though nothing was wrong with the request, in a line or two."""

import errno

from sweep.database import StorageFullError, UnavailableError, causes, lost_lease
from sweep.training import EngineError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk without room says, and a quota."""
GOES_ON = "what is recorded stays; the same command goes on"


def explained(error: Exception) -> str | None:
    """What to tell of an error; None of one that is a mistake of this program."""
    lost = lost_lease(error)
    if lost is not None:
        return str(lost)
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in FULL:
            where = f"{cause.filename} cannot be written: " if cause.filename else ""
            return f"{where}{cause.strerror}; make room\nsweep: {GOES_ON}"
        if isinstance(cause, (EngineError, StorageFullError, UnavailableError)):
            return f"{cause}\nsweep: {GOES_ON}"
    return None
