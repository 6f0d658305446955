"""Parts of a schedule that wait for something to happen, and are no pure functions of the step.

A reaction is a pure function (memory, evaluation) -> (memory, whether its event happened). Given the steps at which its
event happened, the part of the schedule is a pure function of the step again.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

Memory = tuple[float, ...]
"""What a reaction remembers from one evaluation to the next; numbers, so that it can be kept in a file."""


NEVER = 2**53
"""A step that no training reaches."""


@dataclass(frozen=True)
class Event:
    """What a schedule waited for has happened, at an evaluation.

    Args:
        step: updates completed then; update `step` is the first with the new rate.
        name: of what happened.
    """

    step: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}@{self.step}"

    @classmethod
    def parse(cls, text: str) -> "Event":
        """Return the event of a text `name@step`."""
        name, _, step = text.rpartition("@")
        return cls(int(step), name)


class Reaction(ABC):
    """A part of a schedule that waits for something."""

    name: str
    """Of its events."""
    condition: str
    """The key that says what it waits for."""

    @property
    @abstractmethod
    def watches(self) -> str:
        """The entry of the evaluation that it is given."""

    @abstractmethod
    def memory(self) -> Memory:
        """What it remembers before the first evaluation."""

    @abstractmethod
    def react(self, memory: Memory, value: float) -> tuple[Memory, bool]:
        """Take an evaluation; what to remember, and whether the event happened."""
