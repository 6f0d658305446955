"""Recognizes the targets of objects that were given in Python, `python.Net_1f0a3b5c`, and their names."""

import re
from typing import Any

GIVEN_PACKAGE = "python"
"""The first part of the target of an object that was given in Python."""

_TARGET = re.compile(rf"\b{GIVEN_PACKAGE}\.(\w+)_[0-9a-f]{{8}}\b")


def is_given(target: Any) -> bool:
    """Return whether a value is the target of an object that was given in Python."""
    return isinstance(target, str) and target.startswith(f"{GIVEN_PACKAGE}.")


def name_of(target: str) -> str:
    """Return the name in the target of an object, without the digest."""
    return target.removeprefix(f"{GIVEN_PACKAGE}.").rpartition("_")[0]


def with_names(text: str) -> str:
    """Replace the targets in a text by the names of their objects."""
    return _TARGET.sub(r"\1", text)
