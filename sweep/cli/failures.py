"""Explain in a line or two the errors that end a command although the request was valid."""

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
"""Errors of a full disk and of an exhausted quota."""
EXPLAINED = (EngineError, HopelessError, RecordInUseError, RemovedError, StorageFullError, UnavailableError)
RESUMES = "recorded results are kept; run the same command to resume"


def explained(error: Exception) -> tuple[str, int] | None:
    """Return the message for an error and the exit status; None if the error is a bug of this program."""
    lost = lost_lease(error)
    if lost is not None:
        return str(lost), FAILED
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in FULL:
            where = f"{cause.filename} cannot be written: " if cause.filename else ""
            return f"{where}{cause.strerror}; free some space\nsweep: {RESUMES}", FAILED
        if isinstance(cause, EXPLAINED):
            return f"{cause}\nsweep: {RESUMES}", INTERRUPTED if isinstance(cause, GivenUpError) else FAILED
    return None
