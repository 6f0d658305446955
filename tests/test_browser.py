"""Tests report.html in Chromium: charts, hover texts, zoom, on a phone, in dark mode, in a sandboxed frame."""

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sweep.comparison import compare
from sweep.report.page import comparison_page, study_page
from tests.report import records

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser import Opened

pytest_plugins = ["tests.browser"]

CHARTS = {
    "ranking-0": 5,
    "lr-0": 5,
    "loss-0": 10,  # a line and a band each
    "validation-0": 10,
    "best-of-k-0": 5,
    "importance-0": 5,
    "profile": 5,
}
"""Maps charts to their traces."""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = records.comparison_record(("digits", "breast_cancer"))
    page = comparison_page(record, compare(record), records.rows_of_finals(record), records.importances(record))
    path = tmp_path_factory.mktemp("comparison") / "report.html"
    path.write_text(page)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    record = records.study_record(schedules=("exponential", "cosine", "natural_exponential"), trials=60)
    importances = {"exponential": records.shares(record.searched[1:]), "choice": {"schedule": 1.0}}
    path = tmp_path_factory.mktemp("study") / "report.html"
    path.write_text(study_page(record, records.rows_of_best(record), importances))
    return path


def drawn(page: "Page", chart: str) -> int:
    """Return the visible traces of a chart."""
    return page.locator(f"#{chart} .scatterlayer .trace, #{chart} .barlayer .trace").count()


def axis(page: "Page", chart: str) -> list[float]:
    """Return the ends of the x axis."""
    ends: list[float] = page.evaluate(f"document.getElementById('{chart}')._fullLayout.xaxis.range")
    return ends


def point_at(page: "Page", chart: str) -> "Locator":
    """Return the hover text in the middle of a chart."""
    middle = box(page, chart)
    page.mouse.move(middle["x"] + 0.5 * middle["width"], middle["y"] + 0.5 * middle["height"], steps=3)
    return page.locator(f"#{chart} .hoverlayer .legend")


def box(page: "Page", chart: str) -> dict[str, float]:
    """Scroll a chart into view and return its plotting area."""
    area = page.locator(f"#{chart} .nsewdrag")
    area.scroll_into_view_if_needed()
    found = area.bounding_box()
    assert found is not None
    return {**found}


def test_every_chart_of_a_comparison_is_drawn_without_a_complaint(opened: "Opened", comparison: Path) -> None:
    page, complaints = opened(comparison.as_uri())
    assert {chart: drawn(page, chart) for chart in CHARTS} == CHARTS
    landscapes = page.locator("[id^=landscape-0]")
    assert landscapes.count() == 2
    for i in range(2):
        assert landscapes.nth(i).locator(".scatterlayer .trace").count() >= 5  # points, ring, lines
        assert "half-life" in (landscapes.nth(i).text_content() or "")
    assert complaints == []


def test_every_chart_of_a_study_is_drawn_without_a_complaint(opened: "Opened", study: Path) -> None:
    page, complaints = opened(study.as_uri())
    assert {chart: drawn(page, chart) for chart in ("history", "lr", "loss", "importance")} == {
        "history": 4,  # the line, complete, pruned, diverged
        "lr": 10,
        "loss": 10,
        "importance": 2,
    }
    assert page.locator("[id^=landscape]").count() == 2
    assert complaints == []


def test_no_chart_leaves_its_card(opened: "Opened", comparison: Path) -> None:
    page, _ = opened(comparison.as_uri())
    for figure in page.locator("figure").all():
        outer, inner = figure.bounding_box(), figure.locator(".main-svg").first.bounding_box()
        assert outer is not None
        assert inner is not None
        assert outer["x"] < inner["x"]
        assert inner["x"] + inner["width"] < outer["x"] + outer["width"]


def test_pointing_at_the_rates_tells_step_family_and_seed(opened: "Opened", comparison: Path) -> None:
    page, complaints = opened(comparison.as_uri())
    said = point_at(page, "lr-0")
    said.get_by_text(re.compile(r"^step 1[45]\d$")).wait_for()
    for schedule in records.SCHEDULES:
        assert re.search(rf"{schedule} : [\d.]+ \(seed 1\)", said.text_content() or "")
    assert complaints == []


def test_dragging_zooms_and_a_double_click_goes_back(opened: "Opened", comparison: Path) -> None:
    page, complaints = opened(comparison.as_uri())
    before, area = axis(page, "lr-0"), box(page, "lr-0")
    middle = area["y"] + area["height"] / 2
    page.mouse.move(area["x"] + 0.25 * area["width"], middle)
    page.mouse.down()
    page.mouse.move(area["x"] + 0.5 * area["width"], middle, steps=5)
    page.mouse.up()
    page.wait_for_function("document.getElementById('lr-0')._fullLayout.xaxis.range[1] < 160")
    low, high = axis(page, "lr-0")
    assert 65 < low < 85
    assert 140 < high < 160
    page.wait_for_timeout(400)  # else the next click is the second of the drag's
    page.mouse.dblclick(area["x"] + 0.5 * area["width"], middle)
    page.wait_for_function("document.getElementById('lr-0')._fullLayout.xaxis.range[1] > 290")
    assert axis(page, "lr-0") == pytest.approx(before)
    assert complaints == []


def test_a_family_can_be_hidden_and_shown_again(opened: "Opened", comparison: Path) -> None:
    page, complaints = opened(comparison.as_uri())
    key = page.locator("figure", has=page.locator("#loss-0")).get_by_role("button", name="linear")
    for shown, traces in (("false", 8), ("true", 10)):
        key.click()
        assert key.get_attribute("aria-pressed") == shown
        assert drawn(page, "loss-0") == traces
    assert drawn(page, "lr-0") == 5
    assert complaints == []


@pytest.mark.parametrize("name", ["comparison", "study"])
def test_on_a_phone_the_page_does_not_scroll_sideways(
    opened: "Opened", name: str, request: pytest.FixtureRequest
) -> None:
    page, complaints = opened(request.getfixturevalue(name).as_uri(), **PHONE)
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    plots = page.locator(".nsewdrag").all()
    assert plots
    assert page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.dragmode") is False  # a finger scrolls
    for plot in plots:
        area = plot.bounding_box()
        assert area is not None
        assert area["width"] > 120
        assert area["x"] + area["width"] < 390
    assert complaints == []


@pytest.mark.parametrize(("scheme", "light"), [("dark", True), ("light", False)])
def test_text_of_charts_follows_the_colour_scheme(opened: "Opened", comparison: Path, scheme: str, light: bool) -> None:
    page, _ = opened(comparison.as_uri(), color_scheme=scheme)
    point_at(page, "lr-0").wait_for()
    for text in (".xtick text", ".g-ytitle text", ".hoverlayer text"):
        fill = page.locator(f"#lr-0 {text}").first.evaluate("element => getComputedStyle(element).fill")
        red, green, blue = map(int, re.findall(r"\d+", fill)[:3])
        assert (min(red, green, blue) > 150) if light else (max(red, green, blue) < 100), text
    style = "element => [getComputedStyle(element).fill, getComputedStyle(element).fillOpacity]"
    fill, opacity = page.locator("#lr-0 .hoverlayer .bg").first.evaluate(style)
    assert (int(re.findall(r"\d+", fill)[0]) < 100) == light
    assert opacity == "1"


def framed(report: Path, folder: Path) -> str:
    """Return the address of a page that shows a report as MLflow does, in a frame that may only run scripts."""
    outer = folder / "outer.html"
    frame = f'<iframe sandbox="allow-scripts" width="900" height="700" srcdoc="{html.escape(report.read_text())}">'
    outer.write_text(f'<!doctype html><meta charset="utf-8">{frame}</iframe>')
    return outer.as_uri()


def test_it_works_in_a_frame_that_may_only_run_scripts(opened: "Opened", comparison: Path, tmp_path: Path) -> None:
    page, complaints = opened(framed(comparison, tmp_path))
    inside = page.frame_locator("iframe")
    inside.locator("#profile .scatterlayer .trace").first.wait_for(state="attached")
    assert inside.locator("#lr-0 .scatterlayer .trace").count() == 5
    assert complaints == []


@pytest.mark.parametrize("in_frame", [False, True])
def test_a_command_is_copied(opened: "Opened", study: Path, tmp_path: Path, in_frame: bool) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    page, complaints = opened(framed(study, tmp_path) if in_frame else study.as_uri(), permissions=allowed)
    within = page.frames[-1]
    within.get_by_role("button", name="copy").first.click()
    within.get_by_role("button", name="copied").wait_for()
    command = within.locator(".command code").first.text_content()
    assert command is not None
    assert command.startswith("python -m sweep mode=train")
    assert page.evaluate("navigator.clipboard.readText()") == command
    assert complaints == []


def test_a_command_that_cannot_be_copied_is_selected(opened: "Opened", study: Path) -> None:
    page, _ = opened(study.as_uri())
    page.evaluate("() => { document.execCommand = () => false }")
    page.get_by_role("button", name="copy").first.click()
    assert page.evaluate("getSelection().toString()") == page.locator(".command code").first.text_content()
    assert page.get_by_role("button", name="copied").count() == 0
