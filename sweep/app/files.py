"""Names and writes the files of a report."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from sweep import atomic
from sweep.config import ReportConfig
from sweep.errors import InvalidValueError

MAX_NAME_CHARS = 100
"""Longest name of a folder, characters."""
MAX_NAME_BYTES = 200
"""Longest name of a folder, bytes of UTF-8; file systems accept 255."""


def folder_name(name: str) -> str:
    """Return a name for the folder of a study, comparison or training that any file system accepts."""
    cut = re.sub(r"[^\w.+-]+", "-", name)[:MAX_NAME_CHARS].encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    safe = cut.strip(".-")
    if safe == name:
        return name
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"  # a different name may look the same


def report_path(config: ReportConfig, name: str) -> Path:
    """Return the path of the report of a study or comparison, which need not exist."""
    return Path(config.dir) / folder_name(name) / "report.html"


def report_folder(config: ReportConfig, name: str) -> Path:
    """Create the folder of a report if it does not exist, and return its path.

    Raises:
        InvalidValueError: names report.dir if the folder cannot be created or written to.
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
    """Write files (name -> content) into a folder, each one atomically."""
    for file, content in files.items():
        atomic.atomic_write(folder / file, [content])
