"""Tests that the documentation shows what the code produces."""

import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import sweep
from sweep.requests.build import run_config
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import DECAYS, WARMUPS
from tests.conftest import ROOT

PNG = b"\x89PNG"


@pytest.mark.long
def test_the_picture_of_all_schedules_can_be_drawn(tmp_path: Path) -> None:
    register_resolvers()
    drawing = runpy.run_path(str(ROOT / "docs" / "schedules.py"))
    drawing["draw"](tmp_path / "schedules.png")
    drawn, kept = (tmp_path / "schedules.png").read_bytes(), (ROOT / "docs" / "schedules.png").read_bytes()
    assert drawn.startswith(PNG)
    assert drawn[16:24] == kept[16:24], "run python docs/schedules.py: it has more panels or fewer"


def test_the_picture_of_generated_digits_can_be_drawn(tmp_path: Path) -> None:
    register_resolvers()
    drawing = runpy.run_path(str(ROOT / "docs" / "gan.py"))
    for overrides in drawing["TRAININGS"].values():
        assert run_config(Composer().compose(overrides)).critic is not None
    sheet = drawing["real"]()
    assert sheet.shape == (8 * 34, 8 * 34, 4)
    drawing["draw"](dict.fromkeys(["digits", *drawing["TRAININGS"]], sheet), tmp_path / "gan.png")
    drawn, kept = (tmp_path / "gan.png").read_bytes(), (ROOT / "docs" / "gan.png").read_bytes()
    assert drawn.startswith(PNG)
    assert drawn[16:24] == kept[16:24]


def test_the_list_of_all_schedules_is_that_of_their_docstrings_and_files() -> None:
    written = (ROOT / "docs" / "schedules.md").read_text()
    assert written == runpy.run_path(str(ROOT / "docs" / "schedules.py"))["describe"](), "run python docs/schedules.py"
    for name in (*DECAYS, *WARMUPS):
        assert f"\n### {name}\n" in written


def test_the_notebook_runs_and_shows_tables_and_pictures(folder: Path) -> None:
    """The kernel runs in an empty folder; progress is shown as HTML, and no cell writes to standard error."""
    notebook = nbformat.read(ROOT / "docs" / "library.ipynb", as_version=4)
    names = {name for name in sweep.__all__ if f"sweep.{name}(" in str(notebook)}
    assert names == {"search", "compare", "preview", "load", "schedule", "interval", "loguniform", "choice"}
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    shown = [output.data for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 2
    html = "\n".join(data["text/html"] for data in shown if "text/html" in data)
    assert "seed   5  complete" in html
    assert html.count("<table") == 2
    assert "<progress" not in html  # the bar goes when the trainings are done
