"""The command line: composes, builds typed configuration and space, chooses the mode, shows errors."""

from sweep.cli.main import main

__all__ = ["main"]
