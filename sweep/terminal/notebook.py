"""Messages and progress in a notebook: a bar and the latest lines, in one output that is redrawn."""

import html
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from sweep.app.front import Watched
from sweep.terminal.display import Display
from sweep.terminal.interrupt import interruptible

LINES = 8
"""Lines that are shown."""
REDRAWN = 0.2
"""Seconds between two redrawings of the bar."""


class Notebook:
    """Shows messages and progress as an output of a notebook's cell.

    Args:
        at_once: called at the second request to interrupt.
    """

    def __init__(self, at_once: Callable[[], None]) -> None:
        self._at_once = at_once
        self._lines: deque[str] = deque(maxlen=LINES)
        self._bar = ""
        self._output: Any = None
        self._drawn = 0.0

    def say(self, text: str) -> None:
        self._lines.extend(line for line in text.splitlines() if line)
        self._draw()

    def watch(self, watched: Watched) -> Display:
        return Display(watched, self.say, _Bar(self._show))

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        return interruptible(self.say, self._at_once)

    def _show(self, bar: str) -> None:
        self._bar = bar
        if not bar or time.monotonic() - self._drawn >= REDRAWN:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, display  # only a notebook comes here

        self._drawn = time.monotonic()
        shown = HTML(f"{self._bar}<pre>{html.escape(chr(10).join(self._lines))}</pre>")
        if self._output is None:
            self._output = display(shown, display_id=True)
        else:
            self._output.update(shown)


class _Bar:
    """Draws a bar in HTML.

    Args:
        show: shows it; an empty text removes it.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show("")

    def show(self, covered: int, total: int, training: str, state: str, left: str) -> None:
        text = html.escape("  ".join([training, state, *([f"{left} left"] if left else [])]))
        self._show(f'<progress value="{covered}" max="{max(total, 1)}"></progress> {text}')
