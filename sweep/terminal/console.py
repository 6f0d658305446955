"""The console that a person reads."""

from rich.console import Console


def console(stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, and of 160 columns without a terminal.

    It prints names as they are: `[...]` is no markup, and `:name:` no emoji.

    Args:
        stderr: whether it writes to standard error, and not to standard output.
    """
    plain = Console(markup=False, emoji=False, highlight=False, stderr=stderr)
    wide = Console(markup=False, emoji=False, highlight=False, stderr=stderr, width=160)
    return plain if plain.is_terminal else wide


def say(out: Console, text: str) -> None:
    """Print text without wrapping it, so that commands and links can be copied whole."""
    out.print(text, soft_wrap=True)
