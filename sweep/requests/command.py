"""A command line that was read."""

import shlex
from dataclasses import dataclass

from omegaconf import DictConfig

from sweep.passwords import without_passwords
from sweep.requests.build import training_of
from sweep.requests.compose import Composer
from sweep.requests.expressions import Request

NOT_REPEATED = (
    "mode", "study", "sampler", "pruner", "space", "engine", "compare", "tracking", "report", "preview", "ui",
)  # fmt: skip
"""Overrides that say nothing about one training."""


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

    @property
    def names_code(self) -> bool:
        """Whether it may name code, or arguments of code, that our own configuration does not have."""
        given = any("_target_" in text or text.startswith(("+", "trusted=")) for text in self.request.plain)
        return given or self.composer.config_dir is not None

    def compose(self) -> DictConfig:
        """The configuration; of a choice among groups, that of the first options."""
        return self.composer.compose(self.request.first)


def repeating(command: Command) -> str:
    """Return the flags and plain overrides that say what is trained, quoted for a shell.

    An override of NOT_REPEATED is left out unless it changes what is trained, as a file of a space or sampler may that
    sets keys of the whole configuration.
    """
    request, kept = command.request, list(command.request.plain)
    first = request.first[: len(request.first) - len(request.plain)]
    asked = training_of(command.composer, (*first, *kept))
    keys = {text: text.lstrip("+~").split("=")[0] for text in kept}
    unneeded = [text for text, key in keys.items() if key.split(".")[0] in NOT_REPEATED or key == "train.save"]
    if training_of(command.composer, (*first, *(text for text in kept if text not in unneeded))) == asked:
        kept = [text for text in kept if text not in unneeded]
        unneeded = []
    for text in unneeded:
        others = [other for other in kept if other != text]
        if text.startswith("mode=") or training_of(command.composer, (*first, *others)) == asked:
            kept = others
    return without_passwords(shlex.join([*command.flags, *kept]))
