"""The console that a person reads."""

import os
from collections.abc import Mapping

from rich.console import Console
from rich.style import Style
from rich.text import Text


def console(stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, and of 160 columns without a terminal.

    It prints names as they are: it does not read `[...]` as markup or `:name:` as an emoji.

    Args:
        stderr: whether it writes to standard error, and not to standard output.
    """
    plain = Console(markup=False, emoji=False, highlight=False, stderr=stderr)
    wide = Console(markup=False, emoji=False, highlight=False, stderr=stderr, width=160)
    return plain if plain.is_terminal else wide


def say(out: Console, text: str) -> None:
    """Print text without wrapping it, so that commands and addresses can be copied whole."""
    out.print(text, soft_wrap=True)


def has_hyperlinks(out: Console) -> bool:
    """Return whether a console is a terminal that shows hyperlinks (OSC 8).

    A terminal does not say whether it does. Those without colours do not, nor do the console of Linux, the Terminal of
    macOS, GNU screen, and tmux before 3.4; the others are assumed to.
    """
    program, version = (os.environ.get(name, "") for name in ("TERM_PROGRAM", "TERM_PROGRAM_VERSION"))
    known_without = (
        os.environ.get("TERM") == "linux"
        or program == "Apple_Terminal"
        or "STY" in os.environ  # GNU screen
        or (program == "tmux" and version < "3.4")
    )
    return out.file.isatty() and out.color_system is not None and not out.legacy_windows and not known_without


def say_pages(out: Console, pages: Mapping[str, str], linked: bool) -> None:
    """Print the titles of pages, one to a line.

    Args:
        pages: title -> address.
        linked: whether each title is a hyperlink to its page; otherwise the address follows on a line of its own.
    """
    for title, address in pages.items():
        if linked:
            out.print(Text("  ").append(title, Style(underline=True, link=address)), soft_wrap=True)
        else:
            say(out, f"  {title}\n    {address}")
