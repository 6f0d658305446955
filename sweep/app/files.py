"""Names and writes the files of a report."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from sweep import atomic
from sweep.config import ReportConfig
from sweep.errors import InvalidValueError

MAX_NAME_CHARACTERS, MAX_NAME_BYTES = 100, 200
"""Length of the name of a folder, and of its UTF-8 form. File systems accept 255 bytes."""


def folder_name(name: str) -> str:
    """Return a name that every file system accepts, and that differs for different names."""
    plain = re.sub(r"[^\w.+-]+", "-", name)[:MAX_NAME_CHARACTERS]
    safe = plain.encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip(".-")
    if safe == name:
        return name
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def report_path(config: ReportConfig, name: str) -> Path:
    """Return the path of the report of a study or comparison, whether it exists or not."""
    return Path(config.dir) / folder_name(name) / "report.html"


def report_folder(config: ReportConfig, name: str) -> Path:
    """Return the folder of a report, and create it if it does not exist.

    Raises:
        InvalidValueError: names report.dir if it cannot be written to.
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
    """Write files into a folder, each atomically."""
    for file, content in files.items():
        atomic.atomic_write(folder / file, [content])
