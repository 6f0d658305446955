"""Tests that searches with all engines have the same record."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SMALL, Answer
from tests.faults.harness import Zygote
from tests.test_interruption import interrupt, record, rows, trials
from tests.test_main_job import runs

EXACT = [*SMALL, "train.precision=float64", "train.steps=60", "sampler=random", "study.n_trials=10"]
FUSED = ["engine=fused", "engine.slots=4", "train.compile=false"]


def assert_same_record(found: Path, expected: Path) -> None:
    """Assert that two records have every step of every trial once, equal up to rounding, and equal Optuna tables."""
    left, right = record(found), record(expected)
    assert [row[:3] for row in left] == [row[:3] for row in right]
    np.testing.assert_allclose([row[3] for row in left], [row[3] for row in right], rtol=1e-8)
    for one, other in zip(trials(found), trials(expected), strict=True):
        assert one[:3] == other[:3]
        assert one[3] == pytest.approx(other[3], rel=1e-8)
        assert one[4] == pytest.approx(other[4], rel=1e-8)


def account(folder: Path) -> dict[str, object]:
    """Return the statistics of the engine in the study's run."""
    (study,) = runs(folder, "study")
    said: dict[str, object] = json.loads(study.data.tags["sweep.engine"])
    return said


@pytest.fixture(scope="module")
def one_by_one(sweep_in: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial")
    answer = sweep_in(folder, *EXACT, "engine=serial")
    assert answer.status == 0, answer.err
    assert "engine: serial (as asked for)" in answer.out
    return folder


def test_a_fused_search_records_what_a_serial_one_does(
    sweep: Callable[..., Answer], folder: Path, one_by_one: Path
) -> None:
    answer = sweep(*EXACT, *FUSED)
    assert answer.status == 0, answer.err
    assert "engine: fused, 4 trials at once (as asked for; ready after" in answer.out
    assert_same_record(folder, one_by_one)
    said = account(folder)
    assert (said["name"], said["slots"], said["compiled"], said["updates"]) == ("fused", 4, False, 600)
    assert 0 < said["busy"] <= 1  # how full the slots are is for the benchmark: a busy machine is late with trials
    assert 0 <= said["waited"] < said["seconds"]
    assert account(one_by_one)["updates"] == 600


def test_an_engine_changes_no_name_and_no_configuration_of_a_study(
    sweep: Callable[..., Answer], folder: Path, one_by_one: Path
) -> None:
    """This runs half of the search with one engine and the rest with the other."""
    assert sweep(*EXACT, *FUSED, "study.n_trials=5").status == 0
    answer = sweep(*EXACT, "engine=serial")
    assert answer.status == 0, answer.err
    assert "5 of 10 trials done" in answer.out
    assert_same_record(folder, one_by_one)


def test_a_fused_search_that_is_interrupted_goes_on_with_either_engine(
    sweep_in: Callable[..., Answer], zygote: Zygote, tmp_path: Path, one_by_one: Path
) -> None:
    slow = [*EXACT, *FUSED, "model.hidden=[8]"]
    interrupt(zygote.start(tmp_path, slow), signal.SIGINT, 1)
    killed = zygote.start(tmp_path, slow)
    assert killed.wait_for("\nengine: fused"), killed.said
    killed.wait(0.2)
    killed.signal(signal.SIGKILL)
    killed.wait(60)
    last = sweep_in(tmp_path, *EXACT, "engine=serial")
    assert last.status == 0, last.err
    assert_same_record(tmp_path, one_by_one)
    assert rows(tmp_path, "SELECT name FROM runs WHERE status = 'RUNNING'") == []


def test_the_engine_s_process_goes_when_the_search_is_killed(zygote: Zygote, tmp_path: Path) -> None:
    command = zygote.start(tmp_path, [*SMALL, *FUSED, "train.steps=200000", "sampler=random"])
    assert command.wait_for("\nengine: fused"), command.said
    of_search = [pid for pid in _descendants(command.pid) if pid != command.pid]
    assert of_search
    command.signal(signal.SIGKILL)
    command.wait(60)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(_is_alive(pid) for pid in of_search):
        time.sleep(0.2)
    assert not any(_is_alive(pid) for pid in of_search)


def _descendants(pid: int) -> list[int]:
    """Return a process and its descendants, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_auto_says_what_it_chose_and_why(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SMALL, "study.n_trials=2")
    assert "engine: serial (2 trials are too few to train several at once: its sampler learns from each)" in answer.out
    answer = sweep(*SMALL, "study.n_trials=6", "sampler=random")
    assert "engine: serial (240 updates are done sooner than another engine could be tried)" in answer.out
    answer = sweep(*SMALL, "study.n_trials=6", "sampler=random", "engine.slots=3", "optimizer=lion")
    assert "engine: serial (Lion has no update rule for many trials at once" in answer.out


@pytest.mark.parametrize("engine", ["serial", "fused"])
def test_a_pruner_beside_trials_that_are_asked_ahead(sweep: Callable[..., Answer], folder: Path, engine: str) -> None:
    often = ["train.steps=60", "train.eval_every=5", "pruner=median", "sampler=random", "study.n_trials=24"]
    answer = sweep(*SMALL, *often, f"engine={engine}", "train.compile=false")
    assert answer.status == 0, answer.err
    ended = [run.data.tags["sweep.status"] for run in runs(folder, "trial")]
    assert len(ended) == 24
    assert {"complete", "pruned"} == set(ended)


def test_final_runs_of_a_comparison_fill_slots_too(sweep: Callable[..., Answer], folder: Path) -> None:
    compared = ["mode=compare", "compare.schedules=[constant,cosine]", "compare.trials=2", "compare.seeds=3"]
    answer = sweep(*SMALL, *compared, *FUSED)
    assert answer.status == 0, answer.err
    assert answer.out.count("engine: fused, 4 trials at once") == 4
    finals = runs(folder, "final")
    assert len(finals) == 6
    assert all("test_loss" in run.data.metrics for run in finals)
