"""The command line: read arguments, run the mode, show results and errors."""

from sweep.cli.main import main

__all__ = ["main"]
