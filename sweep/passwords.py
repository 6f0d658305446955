"""Hide passwords in what is shown, logged or recorded."""

import re
from urllib.parse import unquote

PASSWORDS = (
    re.compile(r"(?P<before>://[^/:@\s]*:)(?P<secret>\S+)(?=@)"),
    re.compile(r"(?P<before>https?://)(?P<secret>[^/:@\s]+)(?=@)", re.IGNORECASE),  # a token in place of a user
    re.compile(r"(?P<before>[?&][\w.-]*(?:pass|pwd|token|secret|key)[\w.-]*=)(?P<secret>[^&\s'\"]+)", re.IGNORECASE),
)
"""Where a URI has them: user:password@host, token@host, ?password=..."""

SHORTEST = 4
"""Characters of a secret that is hidden outside a URI too: a shorter one is in every other word."""

_hidden: set[str] = set()


def hide(secret: str) -> None:
    """From now on `without_passwords` hides this text: the value of an environment variable that a URI was made of."""
    if len(secret) >= SHORTEST:
        _hidden.add(secret)


def without_passwords(text: str) -> str:
    """The text, with the passwords of the URIs in it hidden, wherever else in it they are, and what `hide` was told.

    All that is shown, logged or recorded of a URI or of an error goes through here.
    """
    secrets = {match["secret"] for pattern in PASSWORDS for match in pattern.finditer(text)}
    for pattern in PASSWORDS:
        text = pattern.sub(r"\g<before>***", text)
    secrets = {secret for secret in secrets | {unquote(secret) for secret in secrets} if len(secret) >= SHORTEST}
    for secret in sorted(secrets | _hidden, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
