"""The loop that runs a program of the user's, loop=command.

A configuration may name everything in this module, so that it has this one function, which does nothing without a run.
"""

from collections.abc import Sequence
from typing import Any

from sweep.training.program import follow
from sweep.training.run import Run


def main(run: Run, command: Sequence[Any] | str, **keys: Any) -> None:
    """Run a program, and record what it writes to its file {metrics}.

    Args:
        command: its words, or a text that shlex splits into words.
        keys: for the program: the word {loop.<key>} is replaced by the value.

    Raises:
        TypeError: if it is called for anything but a training.
    """
    if type(run) is not Run:
        raise TypeError("loop=command is called by a training alone")
    follow(run, command)
