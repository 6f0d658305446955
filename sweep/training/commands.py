"""Run a user's program as a training loop: loop=command.

A configuration may name everything in this module, so it contains only this function, which refuses to work without a
run.
"""

from collections.abc import Sequence
from typing import Any

from sweep.training.program import run_program
from sweep.training.run import Run


def main(run: Run, command: Sequence[Any] | str, **keys: Any) -> None:
    """Run a program, and record what it writes to its file {metrics}.

    Args:
        command: the words of the command, or a text that shlex splits into words.
        keys: further keys of the loop. The placeholder {loop.<key>} in the command is replaced by the value.

    Raises:
        TypeError: if `run` is not a run.
    """
    if type(run) is not Run:
        raise TypeError("loop=command can only be called by a training")
    run_program(run, command)
