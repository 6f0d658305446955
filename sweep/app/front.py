"""The interface through which searches, trainings and comparisons show their progress and learn of interrupts.

The command line implements it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from sweep.core import Monitor


@dataclass(frozen=True)
class Watched:
    """A group of trainings whose progress is shown together.

    Args:
        metric, minimize: what trials are judged by.
        total: trials of the study.
        done: trials that ended before.
        steps: updates completed at the end of a trial.
        best: value and number of the best trial so far.
        single: whether it is one training, without others to count or to compare with.
        first: updates completed at the beginning of a trial.
        finals: whether it is final runs, which differ in their seed alone; their number is their seed.
        later: trainings that come after these, for the time left.
    """

    metric: str
    minimize: bool
    total: int
    done: int
    steps: int
    best: tuple[float, int] | None = None
    single: bool = False
    first: int = 0
    finals: bool = False
    later: int = 0


class Front(Protocol):
    """Shows messages and progress, and reports requests to interrupt the work."""

    def say(self, text: str) -> None:
        """Show one or several lines."""

    def watch(self, watched: Watched) -> AbstractContextManager[Monitor]:
        """Show the progress of trainings for as long as the context lasts."""

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        """Let a request to interrupt the work be answered by the work itself for as long as the context lasts.

        Returns:
            What tells whether it was requested.
        """
