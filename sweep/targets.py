"""Targets of objects that are given in Python, `python.Net_1f0a3b5c`, and the names that messages have instead."""

import re
from typing import Any

PACKAGE = "python"
"""The first part of the target of a given object."""

_TARGET = re.compile(rf"\b{PACKAGE}\.(\w+)_[0-9a-f]{{8}}\b")


def is_given(target: Any) -> bool:
    """Return whether a target is that of a given object."""
    return isinstance(target, str) and target.startswith(f"{PACKAGE}.")


def name_of(target: str) -> str:
    """Return the name of the object of a target, without the digest."""
    return target.removeprefix(f"{PACKAGE}.").rpartition("_")[0]


def with_names(text: str) -> str:
    """Return a text with the name of each given object in place of its target."""
    return _TARGET.sub(r"\1", text)
