"""Tests that passwords are hidden, files are readable by their owner only, and no port is open to the network."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.errors import InvalidValueError
from sweep.passwords import without_passwords
from tests.conftest import ROOT, SMALL, Answer

SECRET = "hunter2-in-the-uri"


def written(folder: Path) -> bytes:
    """Return the names and contents of all files in a folder."""
    return b"".join(path.name.encode() + (path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:se/cr@et@h/db", "postgresql://u:***@h/db"),
        ("'http://u:secret@h'", "'http://u:***@h'"),
        ("https://token-1234@h/x", "https://***@h/x"),
        ("mysql://h/db?user=u&password=secret&x=1", "mysql://h/db?user=u&password=***&x=1"),
        ("https://h?access_token=secret", "https://h?access_token=***"),
        ("http://u:p%40ssword@h: p@ssword was refused", "http://u:***@h: *** was refused"),
        ("sqlite:///file.db", "sqlite:///file.db"),
        ("http://h/#/runs?searchFilter=a@b", "http://h/#/runs?searchFilter=a@b"),
    ],
)
def test_the_password_of_a_uri_is_not_shown(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_a_refusal_hides_it_in_value_and_reason() -> None:
    error = InvalidValueError("tracking.uri", f"http://u:{SECRET}@h", f"cannot be used: {SECRET} is wrong")
    assert SECRET not in str(error.under("x"))


@pytest.mark.parametrize(
    "arguments",
    [
        [f"tracking.uri=http://u:{SECRET}@127.0.0.1:9"],
        [f"tracking.uri=https://{SECRET}@127.0.0.1:9"],
        [f"tracking.uri=gopher://u:{SECRET}@h"],
        [f"tracking.uri=postgresql://u:{SECRET}@127.0.0.1:9/x"],
        [f"study.storage=postgresql://u:{SECRET}@127.0.0.1:9/x"],
        [f"study.storage=mysql://h/x?password={SECRET}"],
        [f"study.storage=nonsense://u:{SECRET}@h"],
        [f"tracking.uri=[http://u:{SECRET}@h"],
        [f"tracking.url=http://u:{SECRET}@h"],
        ["tracking.uri=${oc.env:SWEEP_URI}"],
        ["study.storage='postgresql://u:${oc.env:SWEEP_PASSWORD}@127.0.0.1:9/x'"],
    ],
)
def test_a_command_that_is_refused_neither_shows_nor_writes_it(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("SWEEP_URI", f"gopher://{SECRET}")
    monkeypatch.setenv("SWEEP_PASSWORD", SECRET)
    answer = sweep(*SMALL, *arguments)
    assert answer.status == 2
    assert answer.err.count("\n") == 1
    assert SECRET not in answer.out + answer.err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("flags", [("--cfg", "job"), ("--cfg", "job", "--resolve"), ("--help",), ("--info", "config")])
def test_hydras_information_does_not_show_it(
    sweep: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SWEEP_URI", f"http://{SECRET}:1")
    uris = [f"tracking.uri=https://u:{SECRET}@h", "study.storage=${oc.env:SWEEP_URI}"]
    answer = sweep(*flags, *uris)
    assert answer.status == 0
    assert SECRET not in answer.out + answer.err
    assert "uri: https://u:***@h" in answer.out or flags == ("--info", "config")


def test_a_search_and_a_preview_leave_files_of_their_owner_alone_without_what_was_hidden(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "kept").mkdir()
    monkeypatch.setenv("SWEEP_URI", f"sqlite:///kept/{SECRET}.db")
    os.umask(0o022)
    answer = sweep(*SMALL, "study.n_trials=2", "study.storage=${oc.env:SWEEP_URI}")
    assert answer.status == 0, answer.err
    preview = sweep("mode=preview", f"tracking.uri=https://u:{SECRET}@h")
    assert sweep(*SMALL, "mode=train").status == 0
    assert SECRET not in answer.out + answer.err + preview.out + preview.err
    assert (folder / "kept" / f"{SECRET}.db").exists()
    made = [path for path in folder.rglob("*") if path != folder / "kept"]
    assert {"mlflow.db", "mlruns", "reports", "checkpoints", "schedule.csv", "schedule.png"} <= {p.name for p in made}
    assert [path for path in made if path.stat().st_mode & 0o077] == []
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in made if path.is_file())


@pytest.mark.parametrize(
    ("uri", "environment"),
    [
        (f"http://u:{SECRET}@192.0.2.1", {}),
        (f"HTTP://u:{SECRET}@mlflow.example:5000", {}),
        (f"http://u:{SECRET}@127.0.0.1.example", {}),
        ("http://192.0.2.1", {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": SECRET}),
        ("http://192.0.2.1", {"MLFLOW_TRACKING_TOKEN": SECRET}),
    ],
)
def test_a_password_is_not_sent_in_clear_text(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    answer = sweep("mode=report", f"tracking.uri={uri}")
    assert answer.status == 2
    assert "would send a password in clear text to another machine" in answer.err
    assert SECRET not in answer.err


HOOK = """
import socket
class Noted(socket.socket):
    def listen(self, *backlog):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            with open({path!r}, "a") as file:
                file.write(str(self.getsockname()))
        super().listen(*backlog)
socket.socket = Noted
"""
"""Code that every Python process imports; it records the addresses on which the process listens, except local ones."""


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Record the addresses on which new processes listen; return the file with them."""
    addresses, hooks = tmp_path / "addresses", tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(HOOK.format(path=str(addresses)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hooks), str(ROOT)]))
    return addresses


def test_a_search_listens_to_nobody(tmp_path: Path, noted: Path) -> None:
    command = [sys.executable, "-m", "sweep", *SMALL, "study.n_trials=3"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert not noted.exists()


def test_that_listening_would_be_noted(noted: Path) -> None:
    listens = "import socket; socket.create_server(('127.0.0.1', 0)); socket.create_server(('::1', 0), family=10)"
    subprocess.run([sys.executable, "-c", listens], capture_output=True)
    assert noted.read_text().startswith("('127.0.0.1', ")
