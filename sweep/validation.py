"""Checks that refuse a value where it is built, with one message: the key, the value, the rule."""

import math
import operator
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import unquote


class InvalidValueError(ValueError):
    """A request that cannot be carried out. Its text names the key, what was given and the rule."""

    def __init__(self, key: str, value: object, rule: str) -> None:
        super().__init__(without_passwords(f"{key}={_shown(value)}: {rule}"))
        self.key, self.value, self.rule = key, value, rule

    def __reduce__(self) -> tuple[type["InvalidValueError"], tuple[str, str, str]]:
        """Let another process raise the same error; the value may be something that cannot be pickled."""
        return type(self), (self.key, _shown(self.value), self.rule)

    def under(self, prefix: str) -> "InvalidValueError":
        """The same refusal, with the key as the user wrote it: `decay_rate` -> `schedule.decay_rate`."""
        return InvalidValueError(f"{prefix}.{self.key}", self.value, self.rule)


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


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def whole(key: str, value: Any, *, at_least: int, at_most: int | None = None) -> None:
    """Refuse what is not an integer, at_least <= value <= at_most (a bool is not an integer here)."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not integer or value < at_least or (at_most is not None and value > at_most):
        upper = "" if at_most is None else f" and <= {at_most}"
        raise InvalidValueError(key, value, f"must be an integer >= {at_least}{upper}")


def real(
    key: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse what is not a finite number within the bounds: above < value < below, at_least <= value <= at_most."""
    bounds = {
        ">": (above, operator.gt),
        ">=": (at_least, operator.ge),
        "<": (below, operator.lt),
        "<=": (at_most, operator.le),
    }
    stated = {sign: (bound, holds) for sign, (bound, holds) in bounds.items() if bound is not None}
    if not _is_number(value) or not all(holds(value, bound) for bound, holds in stated.values()):
        rule = " and ".join(f"{sign} {bound}" for sign, (bound, _) in stated.items())
        raise InvalidValueError(key, value, f"must be a finite number {rule}".rstrip())


def boolean(key: str, value: Any) -> None:
    """Refuse what is not true or false."""
    if not isinstance(value, bool):
        raise InvalidValueError(key, value, "must be true or false")


def one_of(key: str, value: Any, allowed: Collection[str]) -> None:
    """Refuse what is not among the allowed names."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidValueError(key, value, f"must be one of {', '.join(allowed)}")


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond what a float can hold
        return False


def refuse_difference(name: str, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse another configuration under the name of a study or comparison, with the difference."""
    differing = [key for key in sorted({*stored, *asked}) if stored.get(key) != asked.get(key)]
    if differing:
        lines = "".join(f"\n  {key}: {stored.get(key)} in the study, {asked.get(key)} asked for" for key in differing)
        raise InvalidValueError("study.name", name, f"is a study of another configuration; choose another name{lines}")
