"""Describe errors that the user's code raises, in one line or with those frames of the traceback that are the user's.

A frame is the user's unless its file belongs to this package, to torch, to numpy or to Python's standard library.
"""

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

LIBRARIES = ("torch", "numpy")
"""Packages whose frames are not shown, because they do not help to find an error in the user's code."""

MAX_LINE_CHARACTERS, MAX_MESSAGE_CHARACTERS = 300, 3000
"""Number of characters of a message that are shown in a summary of one line, and in one of several lines."""

MAX_FRAMES = 10
"""Number of frames of one error that are shown: half of them from the beginning, half from the end."""

_PACKAGE = Path(__file__).parent
_STANDARD_LIBRARY = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
_INSTALLED = ("site-packages", "dist-packages")


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of an error's traceback that are the user's, outermost first."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_users(frame)]
    return list(traceback.StackSummary.extract(iter(frames)))


def summary(error: BaseException) -> str:
    """Describe an error in one line: its type, its message, and the innermost frame that is the user's.

    An example is `ZeroDivisionError: division by zero (mylab/nets.py:13 in forward)`. Only the first line of a message
    is used. Characters that cannot be printed or encoded are escaped.
    """
    text = _named(error, MAX_LINE_CHARACTERS, lines=1)
    frame = innermost(error)
    where = None if frame is None else _location(frame)
    return text if where is None or where in text else f"{text} ({where})"


def place(error: BaseException) -> str | None:
    """Return the location and the source of the innermost user frame; None if there is no user frame.

    An example is `mylab/nets.py:13 in forward: y = x.item()`.
    """
    frame = innermost(error)
    return None if frame is None else _printable(f"{_location(frame)}: {(frame.line or '').strip()}")


def innermost(error: BaseException) -> traceback.FrameSummary | None:
    """Return the innermost user frame of an error, or of the first of its causes that has a user frame."""
    return next((frames[-1] for one in _chain(error) if (frames := user_frames(one))), None)


def refusal(error: BaseException) -> str:
    """Describe an error as `summary` does, but omit the type ValueError, which adds nothing to a refusal."""
    return summary(error).removeprefix("ValueError: ")


def user_traceback(error: BaseException) -> str:
    """Describe an error in several lines: type, message and user frames of the error and of its causes.

    If there are no user frames, return the whole traceback; for an error of this package return only the message.
    """
    chain = list(_chain(error))
    if not any(map(user_frames, chain)):
        if type(error).__module__.startswith("sweep."):  # its message is complete
            return _named(error, MAX_MESSAGE_CHARACTERS)
        return _printable("".join(traceback.format_exception(error)).rstrip())
    return "\ncaused by ".join(
        "\n".join([_named(one, MAX_MESSAGE_CHARACTERS), *_lines(user_frames(one))]) for one in chain
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the chain of its causes."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and all(following is not one for one in seen):
        yield following
        seen.append(following)
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<") or str(frame.f_globals.get("__name__")).partition(".")[0] in LIBRARIES:
        return False
    path = Path(file).absolute()
    if path.is_relative_to(_PACKAGE):
        return False
    installed = any(part in _INSTALLED for part in path.parts)  # a subfolder of the standard library on some systems
    return installed or not any(path.is_relative_to(library) for library in _STANDARD_LIBRARY)


def _named(error: BaseException, longest: int, lines: int | None = None) -> str:
    """Return the type and the message of an error, truncated to a number of characters and lines."""
    try:
        message = str(error).strip()
    except Exception:  # the user's class may define it
        message = ""
    kept = "\n".join(message.splitlines()[:lines])
    text = _printable(kept if len(kept) <= longest else f"{kept[:longest].rstrip()} ...")
    if type(error).__module__.startswith("sweep.") and text:  # its message is complete
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _lines(frames: list[traceback.FrameSummary]) -> list[str]:
    """Return the lines that show frames: the location and the source of each."""
    half = MAX_FRAMES // 2
    cut = len(frames) > MAX_FRAMES
    kept = [*frames[:half], *frames[-half:]] if cut else frames
    shown = [f"  {_location(frame)}" + (f"\n    {frame.line}" if frame.line else "") for frame in kept]
    if cut:
        shown.insert(half, f"  ... {len(frames) - len(kept)} more frames ...")
    return [_printable(text) for text in shown]


def _location(frame: traceback.FrameSummary) -> str:
    """Return `file:line in function`. Files in the working directory are shown relative to it."""
    path = Path(frame.filename).absolute()
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{frame.lineno} in {frame.name}"


def _printable(text: str) -> str:
    """Escape characters that cannot be printed or encoded, except line breaks."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text.expandtabs(4))
    return "".join(shown)
