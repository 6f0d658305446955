"""The record in MLflow, written and read; the only importer of mlflow."""

import logging
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
logging.getLogger("alembic").setLevel(logging.ERROR)  # it logs its plug-ins when it is imported

from sweep.tracking.fencing import fence_store
from sweep.tracking.links import (
    artifact_page,
    compare_page,
    finals_page,
    metric_page,
    run_page,
    trainings_page,
    trials_page,
)
from sweep.tracking.locks import Hooks
from sweep.tracking.open_run import recorded_run
from sweep.tracking.parents import ComparisonRun, FinalRuns, ParentRun, StudyRun, TrainingRuns, is_training
from sweep.tracking.reader import MlflowReader
from sweep.tracking.recorder import MlflowRecorder
from sweep.tracking.store import RECORD_FILE, Store, open_store
from sweep.tracking.ui import HOST, serving

__all__ = [
    "HOST",
    "RECORD_FILE",
    "ComparisonRun",
    "FinalRuns",
    "Hooks",
    "MlflowReader",
    "MlflowRecorder",
    "ParentRun",
    "Store",
    "StudyRun",
    "TrainingRuns",
    "artifact_page",
    "compare_page",
    "fence_store",
    "finals_page",
    "is_training",
    "metric_page",
    "open_store",
    "recorded_run",
    "run_page",
    "serving",
    "trainings_page",
    "trials_page",
]
