"""Defines the typed configuration of the group loop: a user's function that does the training itself."""

from dataclasses import dataclass

from sweep.components import Component
from sweep.validation import check_integer

COMMAND_TARGET = "sweep.training.commands.main"
"""The import path of loop=command, which runs a user's program."""


@dataclass(frozen=True)
class LoopConfig:
    """A user's training loop.

    Args:
        component: the function `main(run, **keys)` with its keys.
        examples: number of training examples, >= 1, which lengths in epochs need; None if it is not known.
    """

    component: Component
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.examples is not None:
            check_integer("examples", self.examples, at_least=1)

    @property
    def runs_program(self) -> bool:
        """Return whether the loop is loop=command, which runs a program."""
        return self.component.target == COMMAND_TARGET
