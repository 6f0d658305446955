"""Name and write the files of a report."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from sweep import atomic
from sweep.config import ReportConfig
from sweep.errors import InvalidValueError

LONGEST = 100
"""Characters of the name of a folder."""
LONGEST_BYTES = 200
"""Bytes of it as UTF-8; file systems accept 255."""


def folder_name(name: str) -> str:
    """A name that any file system takes."""
    cut = re.sub(r"[^\w.+-]+", "-", name)[:LONGEST].encode()[:LONGEST_BYTES].decode(errors="ignore")
    safe = cut.strip(".-")
    if safe == name:
        return name
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"  # another name may look the same


def report_path(config: ReportConfig, name: str) -> Path:
    """Return where the report of a study or comparison is, if there is one."""
    return Path(config.dir) / folder_name(name) / "report.html"


def report_folder(config: ReportConfig, name: str) -> Path:
    """Return the folder of a report, and create it if there is none.

    Raises:
        InvalidValueError: names report.dir where it cannot be written.
    """
    folder = report_path(config, name).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidValueError("report.dir", config.dir, f"cannot be written: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InvalidValueError("report.dir", config.dir, f"cannot be written: {folder} is read-only")
    return folder


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """The files in a folder. None is ever half-written."""
    for file, content in files.items():
        atomic.atomic_write(folder / file, [content])
