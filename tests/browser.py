"""Provides Debian's Chromium for tests with `pytest_plugins = ["tests.browser"]`. It is never downloaded."""

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

Opened = Callable[..., "tuple[Page, list[str]]"]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A browser for the tests of a module.

    Not for the whole session: while Playwright runs, no test in this process can run an asyncio loop.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        except sync_api.Error as error:
            pytest.skip(f"chromium does not start: {error.message.splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Opened]:
    """Opens an address: the page, and its complaints so far (errors and warnings on the console, exceptions).

    Further arguments are those of the browser's context: viewport, color_scheme and the like.
    """
    contexts = []

    def open_page(address: str, **options: Any) -> "tuple[Page, list[str]]":
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        levels = ("error", "warning", "trace")  # Plotly warns by console.trace
        page.on("console", lambda said: complaints.append(_complaint(said)) if said.type in levels else None)
        page.goto(address)
        return page, complaints

    yield open_page
    for context in contexts:
        context.close()


def _complaint(said: "ConsoleMessage") -> str:
    """What was said, and where: a resource that cannot be loaded is named nowhere else."""
    return f"{said.text} ({said.location['url']})"
