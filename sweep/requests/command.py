"""Defines a parsed command line, and the command line that repeats it."""

import shlex
from dataclasses import dataclass

from omegaconf import DictConfig

from sweep.passwords import without_passwords
from sweep.requests.build import training_of
from sweep.requests.compose import Composer
from sweep.requests.expressions import Request

NON_TRAINING_GROUPS = (
    "mode", "study", "sampler", "pruner", "space", "engine", "compare", "tracking", "report", "preview", "ui",
)  # fmt: skip
"""Groups on which a single training does not depend."""


@dataclass(frozen=True)
class Command:
    """A parsed command line.

    Args:
        composer: the composer for its configuration folder.
        request: its overrides.
        flags: --config-dir and --config-name as the user wrote them.
    """

    composer: Composer
    request: Request
    flags: tuple[str, ...]

    @property
    def names_code(self) -> bool:
        """Return whether it may name code, or arguments of code, that conf does not have."""
        given = any("_target_" in text or text.startswith(("+", "trusted=")) for text in self.request.plain)
        return given or self.composer.config_dir is not None

    def compose(self) -> DictConfig:
        """Return the configuration; for searched groups, with their first options."""
        return self.composer.compose(self.request.first)


def repeating_command(command: Command) -> str:
    """Return the flags and the plain overrides on which the trainings depend, quoted for a shell.

    Overrides of NON_TRAINING_GROUPS are left out, except those that change the trainings: a file of a space or sampler
        may
    set keys of the whole configuration.
    """
    request, kept = command.request, list(command.request.plain)
    first = request.first[: len(request.first) - len(request.plain)]
    trained = training_of(command.composer, (*first, *kept))
    keys = {text: text.lstrip("+~").split("=")[0] for text in kept}
    unneeded = [text for text, key in keys.items() if key.split(".")[0] in NON_TRAINING_GROUPS or key == "train.save"]
    if training_of(command.composer, (*first, *(text for text in kept if text not in unneeded))) == trained:
        kept = [text for text in kept if text not in unneeded]
        unneeded = []
    for text in unneeded:
        others = [other for other in kept if other != text]
        if text.startswith("mode=") or training_of(command.composer, (*first, *others)) == trained:
            kept = others
    return without_passwords(shlex.join([*command.flags, *kept]))
