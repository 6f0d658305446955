"""The command line: read arguments, carry out the mode, show results and errors."""

from sweep.cli.main import main

__all__ = ["main"]
