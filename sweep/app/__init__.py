"""Carry out searches, trainings and comparisons: each function takes a typed plan and returns a typed result.

Nothing here reads a command line, uses Hydra, or prints.
"""

from sweep.app.comparison import ComparisonResult, compare
from sweep.app.files import comparison_files, report_folder, study_files, write
from sweep.app.front import Front, Watched
from sweep.app.plan import ComparisonPlan, Family, Plan, TrainingPlan
from sweep.app.search import SearchResult, search
from sweep.app.training import TrainingResult, train

__all__ = [
    "ComparisonPlan",
    "ComparisonResult",
    "Family",
    "Front",
    "Plan",
    "SearchResult",
    "TrainingPlan",
    "TrainingResult",
    "Watched",
    "compare",
    "comparison_files",
    "report_folder",
    "search",
    "study_files",
    "train",
    "write",
]
