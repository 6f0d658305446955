"""Names and texts of any length, stored within the limits of MLflow and read back whole."""

import hashlib
import posixpath
import re
from collections.abc import Mapping

from mlflow.entities import Param, Run, RunData, RunTag
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH

from sweep.core import is_record_name

LONGEST_RUN_NAME = 250
"""Characters of the column that holds the name of a run."""
DIGITS = 8
"""Hexadecimal digits of the digest that tells a shortened name from others."""
MARK = re.compile(r" \.\.\. \[part 1 of (?P<parts>[0-9]+), sha256 (?P<digest>[0-9a-f]{16})\]\Z")
"""End of the first part of a text that is stored in several parts."""
MARK_ROOM = 64
"""Characters that the mark may take."""


def metric_name(name: str) -> str:
    """Return the name under which MLflow accepts a metric: the name itself where it is valid.

    In any other name the characters that MLflow refuses become "-"; a digest of the name is appended, so that
    different names stay different.
    """
    if is_record_name(name):
        return name
    allowed = re.sub(r"[^\w.\- :/]", "-", name)
    if posixpath.normpath(allowed) != allowed or allowed.startswith(("/", "..")):
        allowed = allowed.replace("/", "-").lstrip(".")
    return _shortened(f"{allowed} {_digest(name, DIGITS)}", MAX_ENTITY_KEY_LENGTH)


def run_name(name: str) -> str:
    """Return the name of a run, shortened where it is longer than LONGEST_RUN_NAME."""
    return _shortened(name, LONGEST_RUN_NAME)


def split(texts: Mapping[str, str], limit: int) -> dict[str, str]:
    """Return texts none of which is longer than `limit`; `joined` restores the original.

    A longer text is stored in parts: the first, which ends with a mark, under its own key, the others under
    "KEY part 2", "KEY part 3", ...
    """
    stored = {}
    for key, text in texts.items():
        if len(text) <= limit:
            stored[key] = text
            continue
        first, rest = text[: limit - MARK_ROOM], text[limit - MARK_ROOM :]
        parts = [rest[start : start + limit] for start in range(0, len(rest), limit)]
        stored[key] = f"{first} ... [part 1 of {len(parts) + 1}, sha256 {_digest(text, 16)}]"
        stored |= {_part(key, number): part for number, part in enumerate(parts, 2)}
    return stored


def joined(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts that `split` was given. A text whose parts are missing or were edited stays as it is stored."""
    whole = dict(texts)
    for key, text in texts.items():
        if not text.endswith("]") or (mark := MARK.search(text)) is None:
            continue
        keys = [_part(key, number) for number in range(2, int(mark["parts"]) + 1)]
        content = "".join([text[: mark.start()], *(texts.get(part, "") for part in keys)])
        if _digest(content, 16) == mark["digest"]:
            whole[key] = content
            for part in keys:
                whole.pop(part, None)
    return whole


def joined_run(run: Run) -> Run:
    """Return a run with its params and tags joined."""
    tags, params = joined(run.data.tags), joined(run.data.params)
    if len(tags) == len(run.data.tags) and len(params) == len(run.data.params):
        return run
    data = RunData(
        metrics=run.data._metric_objs,
        params=[Param(*param) for param in params.items()],
        tags=[RunTag(*tag) for tag in tags.items()],
    )
    return Run(run.info, data)


def _part(key: str, number: int) -> str:
    part = f" part {number}"
    return f"{_shortened(key, MAX_ENTITY_KEY_LENGTH - len(part))}{part}"


def _shortened(name: str, limit: int) -> str:
    """Return a name of at most `limit` characters; a digest tells a shortened name from others that begin alike."""
    return name if len(name) <= limit else f"{name[: limit - DIGITS - 4]}... {_digest(name, DIGITS)}"


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:digits]
