"""Addresses in the MLflow UI, as its pages read them."""

import json
from urllib.parse import parse_qs

import pytest

from sweep.tracking import compare_page, metric_page, run_page, trainings_page, trials_page

BASE = "http://127.0.0.1:5000"


def taken_apart(link: str) -> tuple[str, dict[str, str]]:
    path, _, query = link.partition("?")
    return path, {key: values[0] for key, values in parse_qs(query).items()}


@pytest.mark.parametrize(
    ("link", "page"),
    [
        (metric_page(BASE, "7", ["a", "b"], "lr"), "metric"),
        (compare_page(BASE, "7", ["a", "b"]), "compare-runs"),
    ],
)
def test_pages_of_several_runs_name_them_first(link: str, page: str) -> None:
    path, query = taken_apart(link)
    assert path == f"{BASE}/#/{page}"
    assert next(iter(query)) == "runs"  # MLflow reads them nowhere else
    assert json.loads(query["runs"]) == ["a", "b"]
    assert json.loads(query["experiments"]) == ["7"]
    assert query["workflowType"] == "machine_learning"


def test_the_metric_page_draws_against_the_step() -> None:
    _, query = taken_apart(metric_page(BASE, "7", ["a"], "loss"))
    assert (json.loads(query["metric"]), json.loads(query["plot_metric_keys"])) == ("loss", ["loss"])
    assert query["x_axis"] == "step"


def test_trials_are_listed_flat_best_first_with_their_curves() -> None:
    path, query = taken_apart(trials_page(BASE, "7", "parent", "val_accuracy", minimize=False))
    assert path == f"{BASE}/#/experiments/7/runs"
    assert query["searchFilter"] == "tags.`mlflow.parentRunId` = 'parent'"
    assert (query["orderByKey"], query["orderByAsc"]) == ("metrics.`val_accuracy`", "false")
    assert query["compareRunsMode"] == "CHART"
    assert "sweep.kind` = 'train'" in taken_apart(trainings_page(BASE, "7"))[1]["searchFilter"]


def test_a_run_opens_at_its_curves() -> None:
    assert taken_apart(run_page(BASE, "7", "run"))[0] == f"{BASE}/#/experiments/7/runs/run/model-metrics"
