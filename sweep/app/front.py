"""Defines the interface through which `app` shows progress and learns of interrupts; `sweep.terminal` implements it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from sweep.core import Monitor


@dataclass(frozen=True)
class Watched:
    """A group of trainings whose progress is shown together.

    Args:
        metric, minimize: the metric that ranks trials, and whether a smaller value is better.
        total: number of trials of the study.
        done: number of trials that have already ended.
        steps: completed updates at the end of a trial.
        best: value and number of the best trial so far.
        single: whether this is a single training.
        first: completed updates at the start of a trial.
        finals: whether these are final runs, which differ in their seeds only; their numbers are their seeds.
        later: number of trainings that follow these, for the estimate of the remaining time.
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
        """Show a text of one or several lines."""

    def watch(self, watched: Watched) -> AbstractContextManager[Monitor]:
        """Show the progress of trainings within the context."""

    def interruptible(self) -> AbstractContextManager[Callable[[], bool]]:
        """Within the context, note a request to interrupt the work instead of raising KeyboardInterrupt.

        Returns:
            A function that returns whether an interrupt was requested.
        """
