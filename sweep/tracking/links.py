"""Addresses in the MLflow UI that open a page with something on it."""

import json
from collections.abc import Sequence
from urllib.parse import quote


def runs_page(base: str, experiment_id: str) -> str:
    """The training runs of an experiment. The plain address would open an overview without data."""
    return base + f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def run_page(base: str, experiment_id: str, run_id: str) -> str:
    """The curves of one run; for the parent of a study, the metric of each trial and the best so far."""
    return base + f"/#/experiments/{experiment_id}/runs/{run_id}/model-metrics"


def metric_page(base: str, experiment_id: str, run_ids: Sequence[str], metric: str) -> str:
    """One metric of several runs against the step, in one chart."""
    query = {
        "runs": json.dumps(list(run_ids)),
        "metric": json.dumps(metric),
        "experiments": json.dumps([experiment_id]),
        "plot_metric_keys": json.dumps([metric]),
        "plot_layout": "{}",
        "x_axis": "step",
    }
    return f"{base}/#/metric?" + "&".join(f"{key}={quote(value)}" for key, value in query.items())


def compare_page(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """Several runs side by side: parallel coordinates, scatter, box and contour plots, parameters, metrics."""
    runs, experiments = quote(json.dumps(list(run_ids))), quote(json.dumps([experiment_id]))
    return f"{base}/#/compare-runs?runs={runs}&experiments={experiments}"
