"""Addresses of pages in the MLflow UI."""

import json
from collections.abc import Sequence
from urllib.parse import quote

TRAINING = "workflowType=machine_learning"
"""Selects MLflow's pages about training; without it they have the menus for generative AI."""


def trials_page(base: str, experiment_id: str, run_id: str, metric: str, minimize: bool) -> str:
    """Return the address of the trials of a study, best first, and the curves of the first ten."""
    return _runs_page(base, experiment_id, f"tags.`mlflow.parentRunId` = '{run_id}'", metric, minimize)


def finals_page(base: str, experiment_id: str, run_id: str, metric: str, minimize: bool) -> str:
    """Return the address of the current final runs of a comparison, best first, and the curves of the first ten."""
    which = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`sweep.current` = 'true'"
    return _runs_page(base, experiment_id, which, metric, minimize)


def trainings_page(base: str, experiment_id: str, metric: str = "val_loss") -> str:
    """Return the address of the single trainings of an experiment, the lowest metric first, with ten curves."""
    return _runs_page(base, experiment_id, "tags.`sweep.kind` = 'train'", metric, minimize=True)


def _runs_page(base: str, experiment_id: str, which: str, metric: str, minimize: bool) -> str:
    """Return the address of runs in chart mode.

    Without the mode the page shows an overview without data; ordered by time it hides trials below their study.
    """
    query = {
        "compareRunsMode": "CHART",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": "true" if minimize else "false",
        "searchFilter": which,
    }
    return f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&{_encoded(query)}"


def run_page(base: str, experiment_id: str, run_id: str) -> str:
    """Return the address of the curves of one run; a study has the metric of each trial and the best so far."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}/model-metrics?{TRAINING}"


def artifact_page(base: str, experiment_id: str, run_id: str, name: str) -> str:
    """Return the address at which MLflow shows a file of a run."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(name)}?{TRAINING}"


def metric_page(base: str, experiment_id: str, run_ids: Sequence[str], metric: str) -> str:
    """Return the address of a chart of one metric of several runs. MLflow reads the runs only if they come first."""
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
    """Return the address of several runs side by side: parallel coordinates, scatter plot, parameters, metrics.

    The plot begins with the metric that the first run stores first. MLflow reads the runs only if they come first.
    """
    query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id])}
    return f"{base}/#/compare-runs?{_encoded(query)}&{TRAINING}"


def _encoded(query: dict[str, str]) -> str:
    return "&".join(f"{key}={quote(value)}" for key, value in query.items())
