"""One zygote for all tests of faults in a process, and a table of what they did."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import optuna
import pytest
from mlflow import MlflowClient

from tests.faults.harness import Bench, Zygote

COLUMNS = ("what", "search", "how often", "commands", "seconds", "a minute", "held")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-table", metavar="PATH", help="write what the tests of faults did there, as Markdown")


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, zygote: Zygote) -> Iterator[Bench]:
    """Folders are made in memory, where there is a file system in it: no test here turns off the power."""
    memory = "/dev/shm"
    base = Path(mkdtemp(prefix="sweep-faults-", dir=memory if os.access(memory, os.W_OK) else None))
    databases = base / "databases"
    databases.mkdir()
    client = MlflowClient(f"sqlite:///{databases}/mlflow.db")
    client.search_experiments()
    client._tracking_client.store.engine.dispose()
    optuna.storages.RDBStorage(f"sqlite:///{databases}/optuna.db").engine.dispose()
    failed = request.session.testsfailed
    yield Bench(base, zygote, databases)
    if request.session.testsfailed == failed:
        shutil.rmtree(base)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep for the table: what was done to which search, and how often."""
    bench: Bench | None = request.getfixturevalue("bench") if "bench" in request.fixturenames else None

    def started() -> int:
        return bench.zygote.started if bench else 0

    commands, began = started(), time.monotonic()

    def keep(what: str, search: str, often: int) -> None:
        seconds = time.monotonic() - began
        entry = (what, search, often, started() - commands, round(seconds), round(60 * often / seconds))
        request.node.user_properties.append(("faults", entry))

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and write it where that was asked for."""
    entries = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, entry in getattr(report, "user_properties", []):
                if name == "faults" and report.when == "call":
                    entries.append((*entry, "yes" if outcome == "passed" else "no"))
    if not entries:
        return
    lines = [COLUMNS, ("---",) * len(COLUMNS), *entries]
    text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
    terminalreporter.section("faults")
    terminalreporter.write(text)
    if path := config.getoption("--faults-table", None):
        Path(path).write_text(text)
