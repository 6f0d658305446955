"""Return addresses of pages in the MLflow UI."""

import json
from collections.abc import Sequence
from urllib.parse import quote

TRAINING = "workflowType=machine_learning"
"""Asks for MLflow's pages about training; without it they come with the menus for generative AI."""


def trials_page(base: str, experiment_id: str, run_id: str, metric: str, minimize: bool) -> str:
    """Return the page with the trials of a study, best first, and the curves of the first ten."""
    return _runs_page(base, experiment_id, f"tags.`mlflow.parentRunId` = '{run_id}'", metric, minimize)


def finals_page(base: str, experiment_id: str, run_id: str, metric: str, minimize: bool) -> str:
    """Return the page with the current final runs of a comparison, best first, and the curves of the first ten."""
    which = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`sweep.current` = 'true'"
    return _runs_page(base, experiment_id, which, metric, minimize)


def trainings_page(base: str, experiment_id: str, metric: str = "val_loss") -> str:
    """Return the page with the single trainings of an experiment, lowest metric first, and the first ten curves."""
    return _runs_page(base, experiment_id, "tags.`sweep.kind` = 'train'", metric, minimize=True)


def _runs_page(base: str, experiment_id: str, which: str, metric: str, minimize: bool) -> str:
    """The plain address would open an overview without data; ordered by time, trials are folded below their study."""
    query = {
        "compareRunsMode": "CHART",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": "true" if minimize else "false",
        "searchFilter": which,
    }
    return f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&{_encoded(query)}"


def run_page(base: str, experiment_id: str, run_id: str) -> str:
    """Return the page with the curves of a run; of a study: the metric of each trial and the best so far."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}/model-metrics?{TRAINING}"


def artifact_page(base: str, experiment_id: str, run_id: str, name: str) -> str:
    """Return the page that shows an artifact of a run."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(name)}?{TRAINING}"


def metric_page(base: str, experiment_id: str, run_ids: Sequence[str], metric: str) -> str:
    """Return the page with one metric of several runs in one chart. MLflow requires the runs to come first."""
    query = {
        "runs": json.dumps(list(run_ids)),
        "metric": json.dumps(metric),
        "experiments": json.dumps([experiment_id]),
        "plot_metric_keys": json.dumps([metric]),
        "plot_layout": "{}",
        "x_axis": "step",
    }
    return f"{base}/#/metric?{_encoded(query)}&{TRAINING}"


def compare_page(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the page that compares several runs. MLflow requires the runs to come first in the address."""
    query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id])}
    return f"{base}/#/compare-runs?{_encoded(query)}&{TRAINING}"


def _encoded(query: dict[str, str]) -> str:
    return "&".join(f"{key}={quote(value)}" for key, value in query.items())
