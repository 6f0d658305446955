"""Tests the pages of MLflow that mode=ui links to, in Chromium: the curves of the final runs, and the report."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SMALL, Answer, start
from tests.tracking.conftest import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser import Opened

pytest_plugins = ["tests.browser"]

SCHEDULES = ["constant", "cosine", "linear"]


@pytest.fixture(scope="module")
def links(sweep_in: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Provide the links that mode=ui prints for a small comparison, title -> address, while it serves."""
    folder = tmp_path_factory.mktemp("compared")
    asked = ["mode=compare", f"compare.schedules=[{','.join(SCHEDULES)}]", "compare.trials=2", "compare.seeds=2"]
    assert sweep_in(folder, *SMALL, *asked).status == 0
    process = start(folder, "mode=ui", f"ui.port={free_port()}")
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line.strip())
        if "compare-runs" in line:
            break
    yield {title: address for title, address in pairwise(said) if address.startswith("http")}
    process.terminate()
    assert process.wait(20) == 0


def own(complaints: list[str]) -> list[str]:
    """Leave out MLflow's question for a user, which a server without accounts answers by 404, and notes on speed."""
    others = ("/mlflow/users/current", "GL Driver Message (OpenGL, Performance")
    return [complaint for complaint in complaints if not any(other in complaint for other in others)]


def pointed_at(page: "Page") -> str:
    """Return the hover text in the middle of a chart of MLflow."""
    area = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    assert area is not None
    for part in (0.4, 0.5):
        page.mouse.move(area["x"] + part * area["width"], area["y"] + 0.5 * area["height"])
    said = page.get_by_text(re.compile(r"^Step$")).locator("..").locator("..").last
    said.wait_for()
    return said.inner_text()


@pytest.mark.parametrize("metric", ["lr", "loss"])
def test_the_links_open_the_curves_of_the_finals(opened: "Opened", links: dict[str, str], metric: str) -> None:
    page, complaints = opened(
        links[f"{metric} of the final runs, one seed each"], viewport={"width": 1800, "height": 900}
    )
    curves = page.locator(".js-plotly-plot .scatterlayer .trace")
    curves.first.wait_for(state="attached", timeout=60_000)
    assert curves.count() >= len(SCHEDULES)
    legend = page.locator("body").inner_text()
    assert all(f"digits {schedule} seed 1" in legend for schedule in SCHEDULES)
    said = pointed_at(page)
    assert all(f"digits {schedule} seed 1" in said for schedule in SCHEDULES)
    assert own(complaints) == []


def test_the_page_that_compares_runs_begins_with_the_metric_that_they_are_judged_by(
    opened: "Opened", links: dict[str, str]
) -> None:
    page, complaints = opened(links["comparison of the final runs, one seed each"])
    axes = page.locator(".pcp-plot .axis-title")
    axes.first.wait_for(state="attached", timeout=60_000)
    assert axes.all_text_contents()[-1] == "test_loss"
    assert own(complaints) == []


def test_mlflow_shows_the_report_with_its_charts(opened: "Opened", links: dict[str, str]) -> None:
    page, complaints = opened(links["the report"], viewport={"width": 1800, "height": 900})
    report = page.frame_locator("iframe")
    report.locator("#ranking-0 .scatterlayer .trace").first.wait_for(timeout=60_000)
    assert report.locator("#lr-0 .scatterlayer .trace").count() == len(SCHEDULES)
    assert own(complaints) == []
