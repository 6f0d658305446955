"""Defines reactions: the parts of a schedule that depend on evaluations, and not on the step alone.

A reaction is a pure function (memory, evaluation) -> (memory, whether its event happened). Given the steps of its
events, the part of the schedule is a pure function of the step again.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

Memory = tuple[float, ...]
"""The state of a reaction between evaluations: numbers, so that a checkpoint can store them."""

NEVER = 2**53
"""A step that no training reaches."""


@dataclass(frozen=True)
class Event:
    """A change of the schedule that an evaluation caused.

    Args:
        step: completed updates at the evaluation; update `step` is the first with the new rate.
        name: the reaction's name.
    """

    step: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}@{self.step}"

    @classmethod
    def parse(cls, text: str) -> "Event":
        """Return the event that a text `name@step` describes."""
        name, _, step = text.rpartition("@")
        return cls(int(step), name)


class Reaction(ABC):
    """A part of a schedule that depends on evaluations."""

    name: str
    """The name of its events."""
    condition: str
    """The configuration key of the condition for its events."""

    @property
    @abstractmethod
    def watches(self) -> str:
        """Return the name of the evaluated value that `react` gets."""

    @abstractmethod
    def memory(self) -> Memory:
        """Return its memory before the first evaluation."""

    @abstractmethod
    def react(self, memory: Memory, value: float) -> tuple[Memory, bool]:
        """Return its memory after an evaluation, and whether the event happened."""
