"""Find what is recorded."""

from difflib import get_close_matches

from sweep.core import ComparisonRecord, Reader, StudyRecord
from sweep.errors import InvalidValueError

LISTED = 10
"""Names that are listed, the latest."""


def recorded(reader: Reader, name: str | None) -> StudyRecord | ComparisonRecord:
    """Return the study or comparison of that name; without a name, the one that was begun last.

    Raises:
        InvalidValueError: names study.name if it is not recorded.
    """
    names = reader.names()
    wanted = name or (names[0] if names else "")
    found = reader.comparison(wanted) or reader.study(wanted)
    if found is None:
        near = get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        latest = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
        rule = f"is not recorded{hint}; recorded are {latest}" if names else "no study is recorded yet"
        raise InvalidValueError("study.name", name, rule)
    if isinstance(found, ComparisonRecord) and not found.families:
        rule = "is a comparison that was interrupted as it began; the same command resumes it"
        raise InvalidValueError("study.name", found.name, rule)
    return found
