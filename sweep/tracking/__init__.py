"""The record: rows -> MLflow -> rows. Only importer of mlflow."""

from sweep.tracking.links import compare_page, metric_page, run_page, trainings_page, trials_page
from sweep.tracking.reader import MlflowReader
from sweep.tracking.recorder import MlflowRecorder, StudyRun
from sweep.tracking.store import Store, open_store
from sweep.tracking.ui import HOST, serving

__all__ = [
    "HOST",
    "MlflowReader",
    "MlflowRecorder",
    "Store",
    "StudyRun",
    "compare_page",
    "metric_page",
    "open_store",
    "run_page",
    "serving",
    "trainings_page",
    "trials_page",
]
