"""Take the pictures of docs/comparing.md: a comparison's report, and its final runs in the MLflow UI.

The script runs the comparison of the page in a temporary folder. It needs Chromium.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).parent
COMPARE = ["mode=compare", "compare.schedules=[constant,exponential,cosine,linear,wsd]", "compare.trials=20"]
COLOURS = 128
"""Number of colours of a picture: enough for lines and text, at a quarter of the size."""


def main() -> None:
    """Run the comparison, then take pictures of its pages."""
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        subprocess.run([sys.executable, "-m", "sweep", *COMPARE, "compare.seeds=10"], cwd=folder, check=True)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        (report,) = folder.glob("reports/*/report.html")
        take_report(browser, report.as_uri())
        take_finals(browser, folder)
        browser.close()


def take_report(browser: Browser, address: str) -> None:
    """Save the upper part of the report."""
    page = browser.new_page(viewport={"width": 1160, "height": 2060})
    page.goto(address)
    page.locator("#loss-0 .scatterlayer .trace").first.wait_for(state="attached")
    save(page.screenshot(), DOCS / "report.png")


def take_finals(browser: Browser, folder: Path) -> None:
    """Save the page that mode=ui links to: the learning rates of the final runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = [sys.executable, "-u", "-m", "sweep", "mode=ui", f"ui.port={port}"]
    server = subprocess.Popen(serve, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = next(line.strip() for line in server.stdout if "metric=%22lr%22" in line)
    page = browser.new_page(viewport={"width": 1160, "height": 620})
    page.goto(address)
    close_assistant(page)
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(state="attached")
    area = page.locator(".js-plotly-plot .nsewdrag").bounding_box()
    assert area is not None
    for part in (0.4, 0.5):
        page.mouse.move(area["x"] + part * area["width"], area["y"] + 0.5 * area["height"])
    page.wait_for_timeout(1000)
    save(page.screenshot(), DOCS / "mlflow-finals.png")
    server.terminate()
    server.wait()


def close_assistant(page: Page) -> None:
    """Close the panel that MLflow opens in a new browser."""
    page.get_by_role("button", name="Close").click()


def save(picture: bytes, path: Path) -> None:
    """Save a picture as a small PNG."""
    Image.open(BytesIO(picture)).convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main()
