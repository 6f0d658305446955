"""Standard output and standard error that never raise, for commands that outlive their terminal or pipe."""

import codecs
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

SIMILAR = str.maketrans("─━│├┤●○…–—×", "--|||oo.--x")
"""ASCII characters for those that tables and progress bars are drawn with."""

REPLACING = ("backslashreplace", "ignore", "namereplace", "replace", "xmlcharrefreplace")
"""Error handlers of Python under which encoding never fails."""


def protect() -> None:
    """Replace sys.stdout and sys.stderr for the rest of the process by streams whose writes never raise.

    Output that cannot be written is dropped: the reader of a pipe has ended, the terminal is closed, the disk is full.
    A character that the encoding lacks is replaced by a similar one, or by a question mark. A standard descriptor
    that is closed is opened on the null device: otherwise the next file or database opened would get its number, and
    receive what other code prints there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # returns the lowest number that is free, which is this one
            os.set_inheritable(descriptor, True)
    sys.stdout, sys.stderr = _protected(sys.stdout), _protected(sys.stderr)


def _protected(stream: TextIO | None) -> TextIO:
    """Return a stream that writes to the same place; to the null device in place of None or a closed stream."""
    if stream is None or getattr(stream, "closed", False):
        stream = open(os.devnull, "w")  # noqa: SIM115 (it is used until the process ends)
    if isinstance(getattr(stream, "buffer", None), _Sink):
        return stream
    with suppress(OSError, ValueError):
        stream.flush()
    errors = getattr(stream, "errors", None)
    return io.TextIOWrapper(
        _Sink(stream),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=errors if errors in REPLACING else "sweep.similar",
        newline="\n",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", True),
    )


class _Sink(io.RawIOBase):
    """The unbuffered end of a protected stream.

    There is no BufferedWriter above it: it would try again at exit what could not be written, and it raises when a
    signal handler prints in the middle of a write.

    Args:
        stream: where to write. Its buffer is passed over where it has one.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        buffer = getattr(stream, "buffer", None)
        self._raw: Any = getattr(buffer, "raw", buffer)
        self.name = getattr(stream, "name", None)

    def write(self, data: Any) -> int:
        """Write all bytes, waiting for a descriptor in non-blocking mode; drop those that cannot be written."""
        rest = memoryview(data)
        size = len(rest)
        with suppress(OSError, ValueError):  # ValueError: the stream was closed
            if self._raw is None:
                self._stream.write(str(rest, getattr(self._stream, "encoding", None) or "utf-8"))
                return size
            while rest:
                written = self._raw.write(rest)
                if written is None:
                    select.select([], [self], [])
                else:
                    rest = rest[written:]
        return size

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        with suppress(AttributeError, OSError, ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        return self._stream.fileno()


def _similar(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks, one by one, so that columns stay aligned."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(SIMILAR)
    return text.encode("ascii", "replace").decode(), error.end


codecs.register_error("sweep.similar", _similar)
