"""Compare schedules: protocol and statistics, independent of Optuna, MLflow and torch."""

from sweep.comparison.files import as_csv, as_json, as_rows, best_parameters
from sweep.comparison.protocol import counted, final_trials, finals, fresh_seeds, judged_by, winner
from sweep.comparison.ranking import Difference
from sweep.comparison.result import Comparison, Profile, Standing, compare, profile
from sweep.comparison.statistics import Estimate

__all__ = [
    "Comparison",
    "Difference",
    "Estimate",
    "Profile",
    "Standing",
    "as_csv",
    "as_json",
    "as_rows",
    "best_parameters",
    "compare",
    "counted",
    "final_trials",
    "finals",
    "fresh_seeds",
    "judged_by",
    "profile",
    "winner",
]
