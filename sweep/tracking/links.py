"""Addresses in the MLflow UI that open a page with something on it."""

import json
from collections.abc import Sequence
from urllib.parse import quote

TRAINING = "workflowType=machine_learning"
"""Asks for MLflow's pages about training; without it they come with the menus for generative AI."""


def runs_page(base: str, experiment_id: str) -> str:
    """All trainings of an experiment, best validation loss first, and the curves of the first ten.

    The plain address would open an overview without data. Trials are folded below their study while the order is the
    default, by time; any other order lists them flat. The studies themselves would only be in the way then.
    """
    query = {
        "compareRunsMode": "CHART",
        "orderByKey": "metrics.`val_loss`",
        "orderByAsc": "true",
        "searchFilter": "tags.`sweep.kind` != 'study'",
    }
    return f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&{_encoded(query)}"


def run_page(base: str, experiment_id: str, run_id: str) -> str:
    """The curves of one run; for the parent of a study, the metric of each trial and the best so far."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}/model-metrics?{TRAINING}"


def metric_page(base: str, experiment_id: str, run_ids: Sequence[str], metric: str) -> str:
    """One metric of several runs against the step, in one chart. MLflow reads the runs only where they come first."""
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
    """Several runs side by side: parallel coordinates, scatter, box and contour plots, parameters, metrics.

    MLflow reads the runs only where they come first.
    """
    query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id])}
    return f"{base}/#/compare-runs?{_encoded(query)}&{TRAINING}"


def _encoded(query: dict[str, str]) -> str:
    return "&".join(f"{key}={quote(value)}" for key, value in query.items())
