"""Makes standard output and standard error safe for commands that outlive their terminal or pipe."""

import codecs
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

ASCII_EQUIVALENTS = str.maketrans("─━│├┤●○…–—×", "--|||oo.--x")
"""Maps the characters of tables and progress bars to similar ASCII characters."""

LENIENT_HANDLERS = ("backslashreplace", "ignore", "namereplace", "replace", "xmlcharrefreplace")
"""Python's error handlers with which encoding never fails."""


def protect() -> None:
    """Replace sys.stdout and sys.stderr for the rest of the process by streams whose writes never raise.

    Output is dropped if it cannot be written because the reader of a pipe has ended, the terminal is closed or the disk
    is full. A character that the encoding lacks is replaced by a similar one, or by a question mark. A closed standard
    descriptor is opened on the null device; otherwise the next file or database would get its number, and what other
    code prints would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # returns the lowest free number, which is this one
            os.set_inheritable(descriptor, True)
    sys.stdout, sys.stderr = _protected(sys.stdout), _protected(sys.stderr)


def _protected(stream: TextIO | None) -> TextIO:
    """Return a stream that writes to the same file, or to the null device if the stream is None or closed."""
    if stream is None or getattr(stream, "closed", False):
        stream = open(os.devnull, "w")  # noqa: SIM115 (it stays open until the process ends)
    if isinstance(getattr(stream, "buffer", None), _Sink):
        return stream
    with suppress(OSError, ValueError):
        stream.flush()
    errors = getattr(stream, "errors", None)
    return io.TextIOWrapper(
        _Sink(stream),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=errors if errors in LENIENT_HANDLERS else "sweep.similar",
        newline="\n",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", True),
    )


class _Sink(io.RawIOBase):
    """The raw stream below a protected text stream.

    There is no BufferedWriter between them: it would retry failed writes at exit, and it raises an error if a signal
    handler prints during a write.

    Args:
        stream: the stream to write to. If it has a buffer, the buffer is bypassed.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        buffer = getattr(stream, "buffer", None)
        self._raw: Any = getattr(buffer, "raw", buffer)
        self.name = getattr(stream, "name", None)

    def write(self, data: Any) -> int:
        """Write all bytes, and wait if the descriptor is non-blocking; drop bytes that cannot be written."""
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
    """Replace each character that an encoding lacks by one character, so that columns stay aligned."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(ASCII_EQUIVALENTS)
    return text.encode("ascii", "replace").decode(), error.end


codecs.register_error("sweep.similar", _similar)
