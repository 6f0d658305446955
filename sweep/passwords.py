"""Hides passwords in texts that are shown, logged or recorded."""

import re
from urllib.parse import unquote

PASSWORD_PATTERNS = (
    re.compile(r"(?P<before>://[^/:@\s]*:)(?P<secret>\S+)(?=@)"),
    re.compile(r"(?P<before>https?://)(?P<secret>[^/:@\s]+)(?=@)", re.IGNORECASE),  # a token in place of a user
    re.compile(r"(?P<before>[?&][\w.-]*(?:pass|pwd|token|secret|key)[\w.-]*=)(?P<secret>[^&\s'\"]+)", re.IGNORECASE),
)
"""Patterns of passwords in URIs: user:password@host, token@host, ?password=..."""

MIN_SECRET_CHARS = 4
"""Only secrets of at least so many characters are hidden outside URIs, because shorter ones occur in many words."""

_hidden: set[str] = set()


def hide(secret: str) -> None:
    """Make `without_passwords` hide a secret, such as an environment variable that is part of a URI."""
    if len(secret) >= MIN_SECRET_CHARS:
        _hidden.add(secret)


def without_passwords(text: str) -> str:
    """Replace the passwords of the URIs in a text, wherever it has them, and the secrets passed to `hide`, by `***`.

    Every URI and every error that is shown, logged or recorded passes through this function.
    """
    secrets = {match["secret"] for pattern in PASSWORD_PATTERNS for match in pattern.finditer(text)}
    for pattern in PASSWORD_PATTERNS:
        text = pattern.sub(r"\g<before>***", text)
    secrets = {
        secret for secret in secrets | {unquote(secret) for secret in secrets} if len(secret) >= MIN_SECRET_CHARS
    }
    for secret in sorted(secrets | _hidden, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
