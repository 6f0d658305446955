"""The web browser of the person at the terminal."""

import os
import webbrowser

TEXT_BROWSERS = frozenset({"www-browser", "links", "elinks", "lynx", "w3m"})
"""Browsers that Python would start in the terminal itself."""


def is_at_hand() -> bool:
    """Return whether a browser that this process opens appears on the screen of the person at the terminal.

    Over SSH it does only if BROWSER is set, as remote editors do.
    """
    if "CI" in os.environ or ("SSH_CONNECTION" in os.environ and "BROWSER" not in os.environ):
        return False
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    return os.path.basename(getattr(browser, "name", "")) not in TEXT_BROWSERS


def open_page(address: str) -> bool:
    """Open a page in a new tab; return False if no browser was started."""
    return webbrowser.open_new_tab(address)
