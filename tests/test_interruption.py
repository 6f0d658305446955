"""Ctrl-C, SIGTERM and SIGKILL in the middle of a search, and the search that goes on."""

import re
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.conftest import SMALL, start

SEARCH = [*SMALL, "train.steps=300", "train.eval_every=50", "sampler.n_startup_trials=3", "study.n_trials=8"]


def finish(folder: Path) -> str:
    """Run the search to its end; what it printed."""
    process = start(folder, *SEARCH)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def trials(folder: Path) -> list[tuple[Any, ...]]:
    """Optuna's table, without what tells one time from another."""
    storage = f"sqlite:///{folder}/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    stored = optuna.load_study(study_name=name, storage=storage).get_trials()
    return [(t.number, t.state.name, t.params, t.value, t.intermediate_values) for t in stored]


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute(query).fetchall()


def record(folder: Path) -> list[tuple[Any, ...]]:
    """Every row of every trial that is active in MLflow."""
    query = """
        SELECT CAST(tags.value AS INTEGER), key, step, metrics.value, is_nan FROM metrics
        JOIN runs USING (run_uuid) JOIN tags USING (run_uuid)
        WHERE tags.key = 'sweep.trial' AND runs.lifecycle_stage = 'active' ORDER BY 1, 2, 3
    """.replace("key, step", "metrics.key, metrics.step")
    return rows(folder, query)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(folder)
    return folder


def interrupt(folder: Path, process: "subprocess.Popen[str]", number: int, after: int) -> str:
    """Send a signal once `after` trials have ended; the rest of what is printed."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"trial {after - 1:3d}  complete"):
            break
    process.send_signal(number)
    return process.communicate(timeout=60)[0]


@pytest.mark.parametrize(
    ("number", "moments"), [(signal.SIGINT, [1]), (signal.SIGTERM, [4]), (signal.SIGKILL, [2, 5])], ids=str
)
def test_an_interrupted_search_equals_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: Path, number: int, moments: list[int]
) -> None:
    for after in moments:
        process = start(tmp_path, *SEARCH)
        said = interrupt(tmp_path, process, number, after)
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
            continue
        assert process.returncode == 130
        assert re.search(r"interrupted: \d of 8 trials are recorded; the same command goes on", said)
        assert rows(tmp_path, "SELECT DISTINCT status FROM runs WHERE status = 'RUNNING'") == []
    finish(tmp_path)
    assert trials(tmp_path) == trials(uninterrupted)
    assert record(tmp_path) == record(uninterrupted)
    assert rows(tmp_path, "SELECT name FROM runs WHERE status = 'RUNNING'") == []
    doubled = "SELECT key, step FROM metrics GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
    assert rows(tmp_path, doubled) == []


def test_the_record_has_every_step_of_every_trial(uninterrupted: Path) -> None:
    lr = [(trial, step) for trial, key, step, _, _ in record(uninterrupted) if key == "lr"]
    assert lr == [(trial, step) for trial in range(8) for step in range(300)]
