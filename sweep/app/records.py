"""Finds recorded studies and comparisons."""

from difflib import get_close_matches

from sweep.core import ComparisonRecord, Reader, StudyRecord
from sweep.errors import InvalidValueError

MAX_LISTED_NAMES = 10
"""A message lists at most so many names, the latest."""


def recorded(reader: Reader, name: str | None) -> StudyRecord | ComparisonRecord:
    """Return the study or comparison with a name; without a name, the one that was started last.

    Raises:
        InvalidValueError: names study.name if there is no such record.
    """
    names = reader.names()
    wanted = name or (names[0] if names else "")
    found = reader.comparison(wanted) or reader.study(wanted)
    if found is None:
        near = get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        latest = ", ".join(names[:MAX_LISTED_NAMES]) + (", ..." if len(names) > MAX_LISTED_NAMES else "")
        rule = f"is not recorded{hint}; recorded are {latest}" if names else "no study is recorded yet"
        raise InvalidValueError("study.name", name, rule)
    if isinstance(found, ComparisonRecord) and not found.families:
        rule = "is a comparison that was interrupted when it started; the same command resumes it"
        raise InvalidValueError("study.name", found.name, rule)
    return found
