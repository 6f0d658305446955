"""Show messages and progress in a notebook: a bar above all lines, in one output that is redrawn."""

import html
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from sweep.app.front import Watched
from sweep.terminal.display import Display
from sweep.terminal.terminal import Interrupts

REDRAWN = 0.2
"""Seconds between two redrawings while trainings are watched."""

SCROLLED = "max-height: 12em; overflow: auto; display: flex; flex-direction: column-reverse"
"""Style of a box that shows its end first; scrolling shows the rest."""


class Notebook:
    """Shows messages and progress as an output of a notebook's cell.

    Args:
        interrupts: makes the context of `Front.interruptible`.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._lines: list[str] = []
        self._bar = ""
        self._output: Any = None
        self._drawn = 0.0

    def say(self, text: str) -> None:
        self._lines += [line for line in text.splitlines() if line]
        self._draw()

    def watch(self, watched: Watched) -> Display:
        return Display(watched, self.say, _Bar(self._show))

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        return self._interrupts(self.say)

    def _show(self, bar: str) -> None:
        self._bar = bar
        self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, display  # installed wherever a notebook runs

        if self._bar and time.monotonic() - self._drawn < REDRAWN:
            return
        self._drawn = time.monotonic()
        lines = html.escape("\n".join(self._lines))
        shown = HTML(f'{self._bar}<div style="{SCROLLED}"><pre>{lines}</pre></div>')
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
