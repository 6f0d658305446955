"""A command line that was read, and the exit statuses."""

from dataclasses import dataclass

from omegaconf import DictConfig

from sweep.cli.compose import Composer
from sweep.cli.expressions import Request

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Command:
    """A command line, ready to be carried out.

    Args:
        composer: with the configuration folder of the command line.
        request: its overrides, taken apart.
        flags: --config-dir and --config-name as they were given, for command lines that repeat this one.
    """

    composer: Composer
    request: Request
    flags: tuple[str, ...]

    def compose(self) -> DictConfig:
        """The configuration; of a choice among groups, that of the first options."""
        return self.composer.compose(self.request.first)
