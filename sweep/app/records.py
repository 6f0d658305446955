"""Find what is recorded."""

from sweep.core import ComparisonRecord, Reader, StudyRecord
from sweep.errors import InvalidValueError


def recorded(reader: Reader, name: str | None) -> StudyRecord | ComparisonRecord:
    """Return the study or comparison of that name; without a name, the one that was begun last.

    Raises:
        InvalidValueError: names study.name if it is not recorded.
    """
    names = reader.names()
    wanted = name or (names[0] if names else "")
    found = reader.comparison(wanted) or reader.study(wanted)
    if found is None:
        rule = f"is not recorded; recorded are {', '.join(names)}" if names else "no study is recorded yet"
        raise InvalidValueError("study.name", name, rule)
    if isinstance(found, ComparisonRecord) and not found.families:
        rule = "is a comparison that was interrupted as it began; the same command goes on"
        raise InvalidValueError("study.name", found.name, rule)
    return found
