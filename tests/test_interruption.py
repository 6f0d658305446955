"""Tests Ctrl-C, SIGTERM and SIGKILL during a search, and the resumed search."""

import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.conftest import SMALL, Answer, long
from tests.faults.harness import Command, Zygote

SEARCH = [*SMALL, "train.steps=300", "train.eval_every=50", "sampler.n_startup_trials=3", "study.n_trials=8"]


def trials(folder: Path) -> list[tuple[Any, ...]]:
    """Return Optuna's table without times."""
    storage = f"sqlite:///{folder}/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    stored = optuna.load_study(study_name=name, storage=storage).get_trials()
    return [(t.number, t.state.name, t.params, t.value, t.intermediate_values) for t in stored]


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute(query).fetchall()


def record(folder: Path) -> list[tuple[Any, ...]]:
    """Return all rows of all trials that are active in MLflow."""
    query = """
        SELECT CAST(tags.value AS INTEGER), key, step, metrics.value, is_nan FROM metrics
        JOIN runs USING (run_uuid) JOIN tags USING (run_uuid)
        WHERE tags.key = 'sweep.trial' AND runs.lifecycle_stage = 'active' ORDER BY 1, 2, 3
    """.replace("key, step", "metrics.key, metrics.step")
    return rows(folder, query)


@pytest.fixture(scope="module")
def uninterrupted(sweep_in: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert sweep_in(folder, *SEARCH).status == 0
    return folder


def interrupt(command: Command, number: int, after: int) -> None:
    """Send a signal once `after` trials have ended, and wait until the command has ended."""
    assert command.wait_for(f"\ntrial {after - 1:3d}  complete"), command.said
    command.signal(number)
    assert command.wait(60) is not None, command.said


@pytest.mark.parametrize(
    ("number", "moments"), [(signal.SIGINT, [1]), long(signal.SIGTERM, [4]), (signal.SIGKILL, [2, 5])], ids=str
)
def test_an_interrupted_search_equals_an_uninterrupted_one(
    sweep_in: Callable[..., Answer],
    zygote: Zygote,
    tmp_path: Path,
    uninterrupted: Path,
    number: int,
    moments: list[int],
) -> None:
    for after in moments:
        command = zygote.start(tmp_path, SEARCH)
        interrupt(command, number, after)
        if number == signal.SIGKILL:
            assert command.status == -signal.SIGKILL
            continue
        assert command.status == 130
        assert re.search(r"interrupted: \d of 8 trials are recorded; run the same command to resume", command.said)
        assert rows(tmp_path, "SELECT DISTINCT status FROM runs WHERE status = 'RUNNING'") == []
    assert sweep_in(tmp_path, *SEARCH).status == 0
    assert trials(tmp_path) == trials(uninterrupted)
    assert record(tmp_path) == record(uninterrupted)
    assert rows(tmp_path, "SELECT name FROM runs WHERE status = 'RUNNING'") == []
    doubled = "SELECT key, step FROM metrics GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
    assert rows(tmp_path, doubled) == []


def test_the_record_has_every_step_of_every_trial(uninterrupted: Path) -> None:
    lr = [(trial, step) for trial, key, step, _, _ in record(uninterrupted) if key == "lr"]
    assert lr == [(trial, step) for trial in range(8) for step in range(300)]
