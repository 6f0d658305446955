"""Creates the report of a search or a comparison from the record, and the tables of a comparison.

The libraries for drawing take seconds to import, so that this module is imported at the end of a command.
"""

from collections.abc import Iterable, Sequence

from sweep.comparison import Comparison, as_csv, as_json, counted
from sweep.core import ComparisonRecord, FamilyRecord, Reader, Rows, StudyRecord, TrialRecord
from sweep.proposals import importances
from sweep.report.page import DRAWN, comparison_page, study_page


def study_files(reader: Reader, study: StudyRecord, storage: str) -> dict[str, bytes]:
    """Return report.html of a study.

    Args:
        storage: Optuna storage URI, from which the importances of parameters are computed.
    """
    drawn = _rows(reader, study.ranked[:DRAWN])
    return {"report.html": study_page(study, drawn, _importances(storage, study, study.trials)).encode()}


def comparison_files(
    reader: Reader, record: ComparisonRecord, comparisons: Sequence[Comparison], storage: str
) -> dict[str, bytes]:
    """Return report.html, comparison.csv and comparison.json."""

    def importances_of(family: FamilyRecord) -> dict[str, dict[str, float]]:
        return _importances(storage, family.study, counted(family.study, record.trials))

    finals = [final.run for comparison in comparisons for s in comparison.standings for final in s.finals]
    shares = {(family.dataset, family.schedule): importances_of(family) for family in record.families}
    return {
        "report.html": comparison_page(record, comparisons, _rows(reader, finals), shares).encode(),
        "comparison.csv": as_csv(comparisons).encode(),
        "comparison.json": as_json(record, comparisons).encode(),
    }


def _importances(storage: str, study: StudyRecord, trials: Iterable[TrialRecord]) -> dict[str, dict[str, float]]:
    return importances(storage, study.name, {trial.number for trial in trials if trial.number is not None})


def _rows(reader: Reader, runs: Iterable[TrialRecord]) -> dict[str, list[Rows]]:
    """Return run id -> the recorded rows, one entry for each optimizer."""
    return {run.run_id: [reader.rows(run.run_id, series) for series in run.series] for run in runs}
