"""The typed configuration of the group loop: a function of the user's that does the training itself."""

from dataclasses import dataclass

from sweep.components import Component
from sweep.validation import check_integer

COMMAND = "sweep.training.commands.main"
"""The import path of the loop that runs a program of the user's, loop=command."""


@dataclass(frozen=True)
class LoopConfig:
    """A training loop of the user's.

    Args:
        component: the function `main(run, **keys)`, with the keys.
        examples: number of training examples, >= 1, for lengths in epochs; None where none is given in epochs.
    """

    component: Component
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.examples is not None:
            check_integer("examples", self.examples, at_least=1)

    @property
    def runs_program(self) -> bool:
        """Return whether the loop runs a program, loop=command."""
        return self.component.target == COMMAND
