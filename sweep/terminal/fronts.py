"""Choose how a call in Python shows messages and progress: on standard error, in a notebook, or not at all."""

import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from sweep.app.front import Front, Watched
from sweep.terminal.console import console
from sweep.terminal.display import Display
from sweep.terminal.interrupt import interruptible
from sweep.terminal.notebook import Notebook
from sweep.terminal.terminal import Terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that interrupt a call. Other signals are left to the handlers of the program."""


def front(progress: bool) -> Front:
    """Return an object that shows messages and progress; with progress=False it shows nothing."""
    if not progress:
        return Silent()
    return Notebook(interrupts) if in_notebook() else Terminal(console(stderr=True), interrupts)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return getattr(shell, "kernel", None) is not None


def interrupts(say: Callable[[str], None]) -> AbstractContextManager[Callable[[], bool]]:
    """Let the first signal stop the work after saving; the second one raises KeyboardInterrupt."""
    return interruptible(say, _interrupt, SIGNALS)


def _interrupt() -> None:
    raise KeyboardInterrupt("stopped at once; the same call resumes from the last checkpoint")


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        pass

    def watch(self, watched: Watched) -> Display:
        return Display(watched, self.say, None)

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        return interrupts(self.say)
