"""Show messages and progress in a terminal, with a line that is redrawn below the others; elsewhere as plain lines."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sweep.app.front import Watched
from sweep.terminal.console import say
from sweep.terminal.display import Display
from sweep.terminal.interrupt import interruptible

Interrupts = Callable[[Callable[[str], None]], AbstractContextManager[Callable[[], bool]]]
"""Given a function that shows a line, returns a context whose value tells whether an interrupt was requested."""


class Terminal:
    """Shows messages and progress on a console.

    Args:
        interrupts: makes the context of `Front.interruptible`.
    """

    def __init__(self, console: Console, interrupts: Interrupts = interruptible) -> None:
        self.console, self._interrupts = console, interrupts
        self.display: Display | None = None
        """The display of the last trainings."""

    def say(self, text: str) -> None:
        say(self.console, text)

    def watch(self, watched: Watched) -> Display:
        self.display = Display(watched, self._say_wrapped, _Bar(self.console) if self.console.is_interactive else None)
        return self.display

    def _say_wrapped(self, text: str) -> None:
        """Show a line about a trial; it is wrapped between words in a terminal, and not wrapped in a file."""
        self.console.print(text, soft_wrap=not self.console.is_terminal)

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        return self._interrupts(self.say)


class _Bar:
    """A progress bar of rich. It is removed when the trainings are done."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[training]}", markup=False),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[state]}", markup=False),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", training="", state="", left="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, covered: int, total: int, training: str, state: str, left: str) -> None:
        left = f"{left} left" if left else ""
        self._progress.update(self._task, completed=covered, total=total, training=training, state=state, left=left)
