"""Pages of MLflow in a terminal: as named links or addresses, and opened in a browser."""

import io
import re
import webbrowser
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from sweep.cli import records
from sweep.cli.show import MlflowUi
from sweep.config import UiConfig
from sweep.terminal import browser
from sweep.terminal.console import has_hyperlinks, say_pages

PAGES = {"the report": "http://127.0.0.1:5000/#/a?" + "x" * 200, "all trials": "http://127.0.0.1:5000/#/b"}
UI = MlflowUi("http://127.0.0.1:5000", "start it with: mode=ui", linked=True)


class Screen(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Sets the environment of a desktop's terminal, with changes."""

    def change(changes: dict[str, str]) -> None:
        for name in ("CI", "BROWSER", "SSH_CONNECTION", "STY", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "COLORTERM"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", **changes}.items():
            monkeypatch.setenv(name, value)

    return change


def on(file: io.StringIO, **options: Any) -> Console:
    return Console(file=file, width=100, highlight=False, **options)


def test_a_link_is_a_title_with_its_address_behind_it() -> None:
    file = Screen()
    say_pages(on(file, force_terminal=True, color_system="256"), PAGES, linked=True)
    found = re.findall(r"\x1b]8;id=\d+;([^\x1b]*)\x1b\\\x1b\[4m([^\x1b]*)\x1b\[0m\x1b]8;;\x1b\\", file.getvalue())
    assert {title.strip(): address for address, title in found} == PAGES


def test_an_address_is_printed_whole_on_a_line_of_its_own() -> None:
    file = io.StringIO()
    say_pages(on(file), PAGES, linked=False)
    expected = [line for title, address in PAGES.items() for line in (f"  {title}", f"    {address}")]
    assert file.getvalue().splitlines() == expected


@pytest.mark.parametrize(
    ("changes", "has"),
    [
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "linux"}, False),
        ({"TERM_PROGRAM": "Apple_Terminal"}, False),
        ({"STY": "1.pts"}, False),
        ({"TERM_PROGRAM": "tmux", "TERM_PROGRAM_VERSION": "3.3a"}, False),
        ({"TERM_PROGRAM": "tmux", "TERM_PROGRAM_VERSION": "3.4"}, True),
        ({"NO_COLOR": "1"}, True),
    ],
)
def test_terminals_that_are_known_to_show_no_links_get_addresses(
    environment: Callable[[dict[str, str]], None], changes: dict[str, str], has: bool
) -> None:
    environment(changes)
    assert has_hyperlinks(on(Screen(), force_terminal=True)) is has


def test_a_file_gets_addresses_even_if_it_is_to_get_colours(environment: Callable[[dict[str, str]], None]) -> None:
    environment({"FORCE_COLOR": "1"})
    assert not has_hyperlinks(on(io.StringIO()))


@pytest.mark.parametrize(
    ("changes", "name", "at_hand"),
    [
        ({}, "firefox", True),
        ({}, "/usr/bin/w3m", False),
        ({}, None, False),
        ({"CI": "true"}, "firefox", False),
        ({"SSH_CONNECTION": "1"}, "firefox", False),
        ({"SSH_CONNECTION": "1", "BROWSER": "helper"}, "helper", True),
    ],
)
def test_a_browser_is_at_hand_where_the_person_sees_it(
    environment: Callable[[dict[str, str]], None],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    name: str | None,
    at_hand: bool,
) -> None:
    def get() -> webbrowser.BaseBrowser:
        if name is None:
            raise webbrowser.Error("could not locate runnable browser")
        return webbrowser.GenericBrowser(name)

    environment(changes)
    monkeypatch.setattr(webbrowser, "get", get)
    assert browser.is_at_hand() is at_hand


@pytest.mark.parametrize("kind", [Screen, io.StringIO])
@pytest.mark.parametrize("at_hand", [True, False])
@pytest.mark.parametrize("asked", ["auto", True, False])
def test_the_first_page_is_opened_if_asked_for_or_from_a_terminal_with_a_browser(
    monkeypatch: pytest.MonkeyPatch, asked: bool | str, at_hand: bool, kind: type[io.StringIO]
) -> None:
    opened: list[str] = []

    def open_new_tab(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(browser, "is_at_hand", lambda: at_hand)
    monkeypatch.setattr(webbrowser, "open_new_tab", open_new_tab)
    records._show(on(kind()), PAGES, UI, UiConfig(5000, "auto", asked))
    expected = kind is Screen and at_hand if asked == "auto" else asked
    assert opened == ([PAGES["the report"]] if expected else [])


def test_it_is_said_if_no_browser_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(webbrowser, "open_new_tab", lambda address: False)
    records._show(on(file), PAGES, UI, UiConfig(5000, "auto", True))
    assert file.getvalue().endswith("ui.open: no browser could be started\n")
