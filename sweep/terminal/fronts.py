"""The front of a call in Python: on standard error, in a notebook, or none."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from sweep.app.front import Front, Watched
from sweep.terminal.console import console
from sweep.terminal.display import Display
from sweep.terminal.interrupt import interruptible
from sweep.terminal.notebook import Notebook
from sweep.terminal.terminal import Terminal


def front(progress: bool) -> Front:
    """Return what shows messages and progress; with progress=False nothing is shown.

    The first interrupt ends the work in order, the second one raises KeyboardInterrupt.
    """
    if not progress:
        return Silent()
    return Notebook(interrupt) if in_notebook() else Terminal(console(stderr=True), interrupt)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return getattr(shell, "kernel", None) is not None


def interrupt() -> None:
    raise KeyboardInterrupt


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        pass

    def watch(self, watched: Watched) -> Display:
        return Display(watched, self.say, None)

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        return interruptible(self.say, interrupt)
