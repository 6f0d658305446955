"""Write the report of a search or a comparison, and the numbers of a comparison, into files."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sweep import durable
from sweep.comparison import Comparison, as_csv, as_json, counted
from sweep.config import ReportConfig
from sweep.core import ComparisonRecord, FamilyRecord, Reader, Rows, StudyRecord, TrialRecord
from sweep.errors import InvalidValueError
from sweep.proposals import importances
from sweep.report.page import DRAWN, comparison_page, study_page

LONGEST = 100
"""Characters of the name of a folder."""
LONGEST_BYTES = 200
"""Bytes of it as UTF-8; file systems accept 255."""


def study_files(reader: Reader, study: StudyRecord, storage: str) -> dict[str, bytes]:
    """report.html of a study.

    Args:
        storage: of Optuna, which tells what mattered.
    """
    drawn = _rows(reader, study.ranked[:DRAWN])
    return {"report.html": study_page(study, drawn, _importances(storage, study, study.trials)).encode()}


def comparison_files(
    reader: Reader, record: ComparisonRecord, comparisons: Sequence[Comparison], storage: str
) -> dict[str, bytes]:
    """report.html, comparison.csv and comparison.json."""

    def mattered(family: FamilyRecord) -> dict[str, dict[str, float]]:
        return _importances(storage, family.study, counted(family.study, record.trials))

    finals = [final.run for comparison in comparisons for s in comparison.standings for final in s.finals]
    shares = {(family.dataset, family.schedule): mattered(family) for family in record.families}
    return {
        "report.html": comparison_page(record, comparisons, _rows(reader, finals), shares).encode(),
        "comparison.csv": as_csv(comparisons).encode(),
        "comparison.json": as_json(record, comparisons).encode(),
    }


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
        durable.write(folder / file, [content])


def _importances(storage: str, study: StudyRecord, trials: Iterable[TrialRecord]) -> dict[str, dict[str, float]]:
    return importances(storage, study.name, {trial.number for trial in trials if trial.number is not None})


def _rows(reader: Reader, runs: Iterable[TrialRecord]) -> dict[str, list[Rows]]:
    """Of each run the rows of its optimizers."""
    return {run.run_id: [reader.rows(run.run_id, series) for series in run.series] for run in runs}
