"""The interface through which searches, trainings and comparisons show progress and are interrupted.

sweep.terminal implements it.
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
        metric, minimize: the metric that trials are judged by, and its direction.
        total: trials of the study.
        done: trials that ended earlier.
        steps: updates completed at the end of a trial.
        best: value and number of the best trial so far.
        single: whether this is a single training.
        first: updates completed at the beginning of a trial.
        finals: whether these are final runs, which differ only in their seed; their number is their seed.
        later: number of trainings after these, for the remaining time.
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
        """Show one or more lines."""

    def watch(self, watched: Watched) -> AbstractContextManager[Monitor]:
        """Show the progress of trainings within the context."""

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        """Return a context in which a request to interrupt is not carried out at once.

        The value of the context is a function that returns whether one was made.
        """
