"""Runs written at once: as MLflow would have written them, whole or not at all."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy import select

from sweep.tracking import MlflowReader, MlflowRecorder, Store, bulk
from sweep.tracking.bulk import Change, DatabaseWriter, Points
from sweep.tracking.server import ClientWriter
from tests.tracking.test_recorder import describe, study_run, train, trial

ODD = [0.1, -0.0, 5e-324, np.nan, np.inf, -np.inf, 1.7e308, np.nan]


def points(key: str, steps: Sequence[int], values: Sequence[float], time: int = 1000) -> Points:
    return Points(key, np.array(steps), np.full(len(steps), time), np.array(values, dtype=np.float64))


def history(store: Store, run_id: str, key: str) -> list[tuple[int, int, str]]:
    """Step, time and value, in full, of each point; by MLflow's own client."""
    found = store.client.get_metric_history(run_id, key)
    return sorted((m.step, m.timestamp, float(m.value).hex()) for m in found)


def tables(store: Store, run_id: str) -> dict[str, list[dict[str, object]]]:
    """All that stands in MLflow's tables of a run, but for its id and what time it was."""
    engine = store.client._tracking_client.store.engine
    found = {}
    for table in (bulk.RUNS, bulk.TAGS, bulk.PARAMS, bulk.METRICS, bulk.LATEST):
        with engine.connect() as connection:
            rows = connection.execute(select(table).where(table.c.run_uuid == run_id)).mappings().all()
        plain = [{name: str(value).replace(run_id, "RUN") for name, value in row.items()} for row in rows]
        for row in plain:
            for name in ("start_time", "end_time"):
                row[name] = "some time" if row.get(name, "None") != "None" else "None"
        found[table.name] = sorted(plain, key=str)
    return found


def test_a_run_is_what_mlflow_would_have_made_of_it(database: Store) -> None:
    tags, params = {"sweep.kind": "trial", "mlflow.user": "me"}, {f"a.p{i}": str(i) for i in range(120)}
    client = database.client
    one = client.create_run(database.experiment_id, run_name="012 lr=0.1", tags=tags).info.run_id
    for first in (0, 100):
        client.log_batch(one, params=[Param(*p) for p in list(params.items())[first : first + 100]])
    other = database.writer.create(database.experiment_id, "012 lr=0.1", tags, params)
    assert tables(database, other) == tables(database, one)
    client.log_batch(one, metrics=[Metric("lr", 0.5, 7, 0), Metric("lr", 0.25, 8, 1), Metric("loss", np.nan, 7, 0)])
    client.log_batch(one, tags=[RunTag("sweep.kind", "final"), RunTag("sweep.status", "complete")])
    client.set_terminated(one, "FINISHED")
    lr = Points("lr", np.array([0, 1]), np.array([7, 8]), np.array([0.5, 0.25]))
    status = {"sweep.kind": "final", "sweep.status": "complete"}
    database.writer.write([Change(other, [lr, points("loss", [0], [np.nan], 7)], status, "FINISHED")])
    assert tables(database, other) == tables(database, one)
    run = client.get_run(other)
    assert run.info.end_time >= run.info.start_time > 1.7e12


@pytest.mark.parametrize("at_once", [20_000, 3])
def test_any_number_at_any_step_is_read_back_as_from_log_batch(
    database: Store, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(bulk, "ROWS_AT_ONCE", at_once)
    given = [
        points("in order", range(8), ODD),
        points("backwards", range(8)[::-1], ODD),
        points("at one step", [5] * 8, ODD),
        points("twice", [0, 1, 0, 1, 1, 2, 2, 2], [0.5, np.nan, 0.5, np.nan, 0.0, 3.0, 2.0, 3.0]),
        points("ends without a number", [0, 1], [1.0, np.nan]),
        points("none", [], []),
    ]
    runs = []
    for writer in (database.writer, ClientWriter(database.client)):
        run_id = database.writer.create(database.experiment_id, "odd", {}, {})
        writer.write([Change(run_id, given)])
        runs.append(run_id)
    for one in given:
        found = history(database, runs[0], one.key)
        assert found == history(database, runs[1], one.key)
        assert len(found) == len(set(found))
    bulk_run, batched_run = (database.client.get_run(run_id).data.metrics for run_id in runs)
    assert {key: float(value).hex() for key, value in bulk_run.items()} == {
        key: float(value).hex() for key, value in batched_run.items()
    }
    assert len(history(database, runs[0], "in order")) == 8


def test_the_last_value_is_that_of_the_greatest_step_then_time_then_value(store: Store) -> None:
    run_id = store.writer.create(store.experiment_id, "latest", {}, {})

    def last(*steps_times_values: tuple[int, int, float]) -> float:
        steps, times, values = (np.array(column) for column in zip(*steps_times_values, strict=True))
        store.writer.write([Change(run_id, [Points("m", steps, times, values.astype(np.float64))])])
        return float(store.client.get_run(run_id).data.metrics["m"])

    assert last((3, 1, 0.3), (5, 1, 0.5), (4, 9, 0.4)) == 0.5
    assert last((4, 99, 7.0)) == 0.5
    assert last((5, 2, 0.1)) == 0.1
    assert last((5, 2, 0.2), (5, 1, 9.0)) == 0.2
    assert np.isnan(last((6, 0, np.nan)))


def test_a_tag_is_replaced_and_the_others_stay(store: Store) -> None:
    run_id = store.writer.create(store.experiment_id, "name", {"a": "1", "b": "2"}, {})
    store.writer.write([Change(run_id, tags={"a": "3", "c": "4"})])
    tags = store.client.get_run(run_id).data.tags
    assert tags == {"a": "3", "b": "2", "c": "4", "mlflow.runName": "name"}


@pytest.mark.parametrize("params", [{"k" * 251: "v"}, {"what?": "v"}])
def test_what_mlflow_does_not_take_is_refused(store: Store, params: dict[str, str]) -> None:
    with pytest.raises(MlflowException):
        store.writer.create(store.experiment_id, "name", {}, params)
    run_id = store.writer.create(store.experiment_id, "name", {}, {})
    (key,) = params
    with pytest.raises(MlflowException):
        store.writer.write([Change(run_id, [points(key, [0], [1.0])])])
    with pytest.raises(MlflowException):
        store.writer.write([Change(run_id, tags=params)])


def test_a_long_param_is_what_mlflow_makes_of_it(store: Store) -> None:
    run_id = store.writer.create(store.experiment_id, "name", {}, {"k": "v" * 6001})
    assert store.client.get_run(run_id).data.params["k"] == "v" * 6000


def test_a_run_that_was_deleted_is_not_written_to(store: Store) -> None:
    run_id = store.writer.create(store.experiment_id, "name", {}, {})
    store.client.delete_run(run_id)
    with pytest.raises(MlflowException, match="active"):
        store.writer.write([Change(run_id, [points("lr", [0], [1.0])], status="FINISHED")])


def test_a_run_ends_and_goes_on(store: Store) -> None:
    """MLflow has no request that takes the end of a run away: that of one that goes on is kept by a server."""
    run_id = store.writer.create(store.experiment_id, "name", {}, {})
    for status in ("FAILED", "RUNNING", "KILLED", "RUNNING", "FINISHED"):
        store.writer.write([Change(run_id, status=status)])
        info = store.client.get_run(run_id).info
        assert info.status == status
        if status != "RUNNING":
            assert info.end_time >= info.start_time
        elif isinstance(store.writer, DatabaseWriter):
            assert info.end_time is None


@pytest.mark.parametrize(("status", "left"), [("RUNNING", "KILLED"), ("FAILED", "FAILED")])
def test_a_run_that_must_not_count_is_deleted_and_does_not_run(store: Store, status: str, left: str) -> None:
    run_id = store.writer.create(store.experiment_id, "name", {}, {})
    store.writer.write([Change(run_id, status=status)])
    store.writer.delete(run_id)
    info = store.client.get_run(run_id).info
    assert (info.lifecycle_stage, info.status) == ("deleted", left)
    assert info.end_time is not None


def test_of_a_long_run_no_more_steps_are_read_than_are_asked_for(database: Store) -> None:
    run_id = database.writer.create(database.experiment_id, "name", {}, {})
    many = [points(key, range(1000), [0.5] * 1000) for key in ("lr", "loss")]
    database.writer.write([Change(run_id, [*many, points("late", [0, 7], [1, 2])])])
    found = database.steps(run_id, {"lr": 995, "loss": 1000, "new": 3})
    assert {key: sorted(steps.tolist()) for key, steps in found.items()} == {
        "lr": [995, 996, 997, 998, 999],
        "loss": [],
        "late": [0, 7],
    }


def test_a_server_gets_its_rows_in_batches_and_a_database_in_one(store: Store) -> None:
    expected = ClientWriter if store.client.tracking_uri.startswith("http") else DatabaseWriter
    assert type(store.writer) is expected


def failing(after: int, function: Callable[..., None]) -> Callable[..., None]:
    """The function, until it has been called so often."""
    calls = []

    def call(*given: object) -> None:
        calls.append(given)
        if len(calls) > after:
            raise RuntimeError("in the middle")
        function(*given)

    return call


@pytest.mark.parametrize(("step", "after"), [("_write_latest", 0), ("_write_tags", 0), ("_write_tags", 1)])
def test_a_trial_is_ended_in_the_record_or_nothing_of_its_end_is(
    database: Store, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    """Whatever of its end fails: rows, last values, tags, its study's values."""
    recorder = MlflowRecorder(database, describe, study_run(database))
    with monkeypatch.context() as patch:
        patch.setattr(bulk, step, failing(after, getattr(bulk, step)))
        with pytest.raises(RuntimeError, match="in the middle"):
            train(recorder, 0)
    run, parent = database.client.get_run(recorder.run_id(trial(0))), study_run(database)
    assert (run.info.status, run.info.end_time) == ("RUNNING", None)
    assert run.data.metrics == {}
    assert [history(database, run.info.run_id, key) for key in ("lr", "loss", "val_loss")] == [[], [], []]
    assert "sweep.status" not in run.data.tags
    assert parent.values("val_loss") == {}
    recorder.interrupt(trial(0))
    assert database.client.get_run(run.info.run_id).info.status == "KILLED"
    train(MlflowRecorder(database, describe, parent), 0)
    (trained,) = database.search({"sweep.kind": "trial"})
    assert trained.data.tags["sweep.status"] == "complete"
    assert len(MlflowReader(database).rows(trained.info.run_id).lr) == 1500
    assert study_run(database).values("val_loss") == {0: 0.5}


def test_one_that_writes_waits_for_another(database: Store, uris: dict[str, str]) -> None:
    run_id = database.writer.create(database.experiment_id, "name", {}, {})
    file = uris["database"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(file, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.5, other.rollback).start()
        database.writer.write([Change(run_id, [points("lr", [0], [1.0])])])
    assert len(history(database, run_id, "lr")) == 1


def test_a_database_file_is_written_ahead(database: Store, uris: dict[str, str]) -> None:
    with closing(sqlite3.connect(uris["database"].removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_files_of_a_run_are_replaced(store: Store, tmp_path: Path) -> None:
    run_id = store.writer.create(store.experiment_id, "name", {}, {}, {"a.txt": b"1", "b.txt": b"2"})
    store.writer.attach(run_id, {"a.txt": b"3"})
    for name, content in (("a.txt", b"3"), ("b.txt", b"2")):
        assert Path(store.client.download_artifacts(run_id, name, str(tmp_path))).read_bytes() == content
    assert {file.path for file in store.client.list_artifacts(run_id)} == {"a.txt", "b.txt"}
