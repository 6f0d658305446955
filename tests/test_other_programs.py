"""Tests that other programs accept the files, and that changes of other programs are handled."""

import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from sweep.core import Rows
from sweep.tracking import MlflowRecorder
from tests.conftest import SMALL, Answer, start
from tests.test_main_job import history, runs

SEARCH = [*SMALL, "engine=serial", "sampler=random", "warmup=none", "study.name=mine", "study.n_trials=2"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the folder of a search of two trials."""
    folder = tmp_path_factory.mktemp("searched")
    process = start(folder, *SEARCH)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return folder


@pytest.fixture
def copied(searched: Path, folder: Path) -> Path:
    """Provide a copy of that folder as the working directory."""
    shutil.copytree(searched, folder, dirs_exist_ok=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.db")}


def set_version(database: Path, version: str) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.close()


MODES = {
    "search": SEARCH,
    "train": [*SMALL, "mode=train"],
    "compare": [*SMALL, "mode=compare", "compare.schedules=[constant,cosine]", "compare.trials=1", "compare.seeds=1"],
    "report": ["mode=report"],
    "ui": ["mode=ui"],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("version", "how"),
    [("b7e2c1a4d9f3", "mlflow db upgrade sqlite:///mlflow.db"), ("ffffffffffff", "has the tables of a newer MLflow")],
    ids=["older", "newer"],
)
def test_a_record_of_another_mlflow_is_refused(
    sweep: Callable[..., Answer], copied: Path, mode: str, version: str, how: str
) -> None:
    set_version(copied / "mlflow.db", version)
    before = contents(copied)
    answer = sweep(*MODES[mode])
    assert (answer.status, len(answer.err.splitlines())) == (2, 1), answer.err
    assert answer.err.startswith("sweep: tracking.uri=sqlite:///mlflow.db: has the tables of ")
    assert how in answer.err
    assert contents(copied) == before


@pytest.mark.parametrize(("mode", "status"), [("search", 2), ("compare", 2), ("report", 0)])
@pytest.mark.parametrize(
    ("version", "how"),
    [("v2.6.0.a", "optuna storage upgrade --storage sqlite:///optuna.db"), ("v99.0.0.a", "pip install -U optuna")],
    ids=["older", "newer"],
)
def test_a_study_of_another_optuna_is_refused_and_its_record_is_read(
    sweep: Callable[..., Answer], copied: Path, mode: str, status: int, version: str, how: str
) -> None:
    set_version(copied / "optuna.db", version)
    answer = sweep(*MODES[mode])
    assert answer.status == status, answer.err
    if status:
        assert len(answer.err.splitlines()) == 1
        assert answer.err.startswith(
            "sweep: study.storage=sqlite:///optuna.db: has tables of another version of Optuna"
        )
        assert how in answer.err


def test_a_queued_trial_that_is_none_of_the_search_is_said_and_the_search_continues(
    sweep: Callable[..., Answer], copied: Path
) -> None:
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{copied}/optuna.db")
    study.enqueue_trial({"schedule.decay_rate": 7.5})
    study.enqueue_trial({"schedule.decay_rate": 0.5})
    for _ in range(2):
        answer = sweep(*SEARCH, "study.n_trials=3")
        assert (answer.status, answer.err) == (0, "")
    assert [t.state.name for t in study.get_trials()] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert study.get_trials()[3].params["schedule.decay_rate"] == 0.5
    assert sorted(run.data.tags["sweep.trial"] for run in runs(copied, "trial")) == ["0", "1", "3"]


def test_a_folder_that_is_renamed_keeps_its_artifacts(
    sweep: Callable[..., Answer], searched: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = folder / "before", folder / "after"
    shutil.copytree(searched, before)
    with sqlite3.connect(before / "mlflow.db") as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(searched), str(before)))
    database.close()
    before.rename(after)
    monkeypatch.chdir(after)
    answer = sweep(*SEARCH, "study.n_trials=3")
    assert (answer.status, answer.err) == (0, "")
    assert "mlflow.db was moved or copied: the artifacts of 3 runs in it are now those in " in answer.out
    assert not before.exists()
    for run in runs(after, "trial"):
        assert (after / "mlruns" / "1" / run.info.run_id / "artifacts" / "config.yaml").exists()
        assert run.info.artifact_uri == str(after / "mlruns" / "1" / run.info.run_id / "artifacts")
    assert "was moved" not in sweep("mode=report").out


@pytest.mark.parametrize("what", ["trial", "study", "experiment"])
def test_a_search_continues_when_its_record_is_deleted_meanwhile(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    take = MlflowRecorder.record

    def delete_once(recorder: MlflowRecorder, rows: Rows) -> None:
        monkeypatch.setattr(MlflowRecorder, "record", take)
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        if what == "experiment":
            client.delete_experiment("1")
        else:
            client.delete_run(next(run.info.run_id for run in runs(folder, what)))
        take(recorder, rows)

    monkeypatch.setattr(MlflowRecorder, "record", delete_once)
    answer = sweep(*SEARCH)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.count("was deleted in MLflow while it is written to: it is restored") == 1
    assert "2 trials: 2 complete" in answer.out
    for run in runs(folder, "trial"):
        assert [step for step, _ in history(folder, run, "lr")] == list(range(40))
    assert len(runs(folder, "study")) == 1


def test_a_comparison_of_data_sets_with_any_name_ends(sweep: Callable[..., Answer], folder: Path) -> None:
    """The name is a part of the metric of the final runs, in which MLflow does not accept a +."""
    options = folder / "mine" / "dataset"
    options.mkdir(parents=True)
    digits = (Path(__file__).parent.parent / "conf" / "dataset" / "digits.yaml").read_text()
    (options / "blobs+v2.yaml").write_text(digits.replace("name: digits", "name: blobs+v2"))
    asked = ["compare.schedules=[constant,cosine]", "compare.trials=1", "compare.seeds=2", "engine=serial"]
    answer = sweep("--config-dir", "mine", *SMALL, "mode=compare", "dataset=blobs+v2", *asked)
    assert (answer.status, answer.err) == (0, "")
    (run,) = runs(folder, "comparison")
    keys = [key for key in run.data.metrics if key.startswith("test_loss/")]
    assert [key.rpartition(" ")[0] for key in sorted(keys)] == [
        "test_loss/blobs-v2/constant trial 0",
        "test_loss/blobs-v2/cosine trial 0",
    ]
    assert [step for step, _ in history(folder, run, keys[0])] == [1, 2]


def test_the_command_of_a_trial_with_long_values_trains_it_again(sweep: Callable[..., Answer], folder: Path) -> None:
    """600 knots are more than MLflow stores in a param."""
    knots = [",".join(f"[{i},{1 / (1 + i / scale):.15f}]" for i in range(600)) for scale in (7, 9)]
    options = [
        "train.steps=610",
        "train.eval_every=610",
        "model.hidden=[8]",
        "train.device=cpu",
        "schedule=interpolate",
    ]
    searched = f"schedule.knots=choice([{knots[0]}],[{knots[1]}])"
    answer = sweep(*options, "engine=serial", "sampler=grid", "space=none", "warmup=none", searched, "study.n_trials=2")
    assert (answer.status, answer.err) == (0, "")
    command = re.search(r"train the best again:\n  python -m sweep (.*)", answer.out)
    assert command is not None
    again = sweep(*shlex.split(command[1]))
    assert (again.status, again.err) == (0, "")
    best = min(run.data.metrics["val_loss"] for run in runs(folder, "trial"))
    assert [run.data.metrics["val_loss"] for run in runs(folder, "train")] == [best]
