"""The report of a search or a comparison, and a comparison's numbers, as files."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sweep.comparison import Comparison, as_csv, as_json
from sweep.config import ReportConfig
from sweep.core import ComparisonRecord, Reader, Rows, StudyRecord, TrialRecord
from sweep.report import DRAWN, comparison_page, study_page
from sweep.search import importances


def study_files(reader: Reader, study: StudyRecord, storage: str) -> dict[str, bytes]:
    """report.html of a study.

    Args:
        storage: of Optuna, which tells what mattered.
    """
    drawn = _rows(reader, study.ranked[:DRAWN])
    return {"report.html": study_page(study, drawn, importances(storage, study.name)).encode()}


def comparison_files(
    reader: Reader, record: ComparisonRecord, comparisons: list[Comparison], storage: str
) -> dict[str, bytes]:
    """report.html, comparison.csv and comparison.json."""
    finals = [final.run for comparison in comparisons for s in comparison.standings for final in s.finals]
    mattered = {(f.dataset, f.schedule): importances(storage, f.study.name) for f in record.families}
    return {
        "report.html": comparison_page(record, comparisons, _rows(reader, finals), mattered).encode(),
        "comparison.csv": as_csv(comparisons).encode(),
        "comparison.json": as_json(record, comparisons).encode(),
    }


def write(files: Mapping[str, bytes], config: ReportConfig, name: str) -> Path:
    """The files in a folder of their own, which is given back. None is ever half-written."""
    folder = Path(config.dir) / re.sub(r"[^\w.+-]+", "-", name).strip(".-")
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        part = folder / f"{file}.part"
        part.write_bytes(content)
        os.replace(part, folder / file)
    return folder


def _rows(reader: Reader, runs: Iterable[TrialRecord]) -> dict[str, Rows]:
    return {run.run_id: reader.rows(run.run_id) for run in runs}
