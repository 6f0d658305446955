"""Make the report of a search or a comparison, and the numbers of a comparison, from what is recorded.

What draws them takes seconds to import. Who needs it at the end of a command imports it there.
"""

from collections.abc import Iterable, Sequence

from sweep.comparison import Comparison, as_csv, as_json, counted
from sweep.core import ComparisonRecord, FamilyRecord, Reader, Rows, StudyRecord, TrialRecord
from sweep.proposals import importances
from sweep.report.page import DRAWN, comparison_page, study_page


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


def _importances(storage: str, study: StudyRecord, trials: Iterable[TrialRecord]) -> dict[str, dict[str, float]]:
    return importances(storage, study.name, {trial.number for trial in trials if trial.number is not None})


def _rows(reader: Reader, runs: Iterable[TrialRecord]) -> dict[str, list[Rows]]:
    """Return the recorded rows of each run, one entry for each of its optimizers."""
    return {run.run_id: [reader.rows(run.run_id, series) for series in run.series] for run in runs}
