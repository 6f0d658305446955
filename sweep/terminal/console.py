"""The console that a person reads."""

from rich.console import Console


def console() -> Console:
    """Return a console on standard output: as wide as the terminal, and 160 columns where there is none.

    It prints names as they are: `[...]` is no markup, and `:name:` no emoji.
    """
    plain = Console(markup=False, emoji=False, highlight=False)
    return plain if plain.is_terminal else Console(markup=False, emoji=False, highlight=False, width=160)


def say(out: Console, text: str) -> None:
    """Print text without wrapping it, so that commands and links can be copied whole."""
    out.print(text, soft_wrap=True)
