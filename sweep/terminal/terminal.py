"""Messages and progress in a terminal: a line that is redrawn below those that stay, plain lines elsewhere."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sweep.app.front import Watched
from sweep.terminal.console import say
from sweep.terminal.display import Display
from sweep.terminal.interrupt import interruptible


class Terminal:
    """Shows messages and progress on a console.

    Args:
        at_once: called at the second request to interrupt; by default it ends the process.
    """

    def __init__(self, console: Console, at_once: Callable[[], None] | None = None) -> None:
        self.console, self._at_once = console, at_once
        self.display: Display | None = None
        """What showed the last trainings."""

    def say(self, text: str) -> None:
        say(self.console, text)

    def watch(self, watched: Watched) -> Display:
        self.display = Display(watched, self.say, _Bar(self.console) if self.console.is_interactive else None)
        return self.display

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        return interruptible(self.say, self._at_once)


class _Bar:
    """A bar of rich. It goes when the trainings are done."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[training]}", markup=False),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[state]}", markup=False),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", training="", state="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, covered: int, total: int, training: str, state: str, left: str) -> None:
        self._progress.update(self._task, completed=covered, total=total, training=training, state=state)
