"""A SQLite file that another program has locked, or that has no room to grow."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from sweep import database as waiting
from sweep.config import TrackingConfig
from sweep.errors import StorageFullError, UnavailableError
from sweep.tracking import MlflowReader, MlflowRecorder, Store, open_store
from sweep.tracking.bulk import Change, Points
from sweep.tracking.locks import Hooks
from tests.tracking.test_recorder import describe, study_run, train, trial

LONG = os.environ.get("SWEEP_FAULTS") == "long"
LOCKED = 23.0 if LONG else 2.5
"""Seconds: longer than MLflow's own patience, or than SQLite's here."""


class Heard:
    """What was said; interrupted when told so."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.interrupt = threading.Event()
        self.hooks = Hooks(self.said.append, self.interrupt.is_set)


@pytest.fixture
def file(uris: dict[str, str]) -> Path:
    return Path(uris["database"].removeprefix("sqlite:///"))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def store(uris: dict[str, str], request: pytest.FixtureRequest, heard: Heard) -> Store:
    return open_store(TrackingConfig(uris["database"], request.node.name), hooks=heard.hooks)


@contextmanager
def locked(file: Path, seconds: float = 3600.0) -> Iterator[None]:
    """The file locked by another connection, for so long at most."""
    with closing(sqlite3.connect(file, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(seconds, other.rollback)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            other.rollback()


def test_what_is_recorded_while_the_database_is_locked_is_read_back_whole(
    store: Store, file: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "NOTICE_AFTER_SECONDS", 1.0)
    recorder = MlflowRecorder(store, describe, study_run(store))
    recorder.open(trial(0))
    recorder.interrupt(trial(0))
    with locked(file, LOCKED):
        began = time.monotonic()
        train(recorder, 0)
        assert time.monotonic() - began > LOCKED - 1
    rows = MlflowReader(store).rows(recorder.run_id(trial(0)))
    assert np.array_equal(rows.steps, np.arange(1500))
    assert np.array_equal(rows.loss, 1.0 + rows.steps / 7)
    (run,) = store.search({"sweep.kind": "trial"})
    assert run.info.status == "FINISHED"
    assert heard.said == [f"the database {file} is locked by another program; waiting for it"]


def test_mlflow_own_requests_wait_as_well(store: Store, file: Path) -> None:
    run_id = store.writer.create(store.experiment_id, "name", {}, {})
    with locked(file, 1.5):
        store.client.set_tag(run_id, "a", "b")
    with locked(file, 1.5):
        store.client.set_terminated(run_id, "KILLED")
    assert store.client.get_run(run_id).data.tags["a"] == "b"


def test_an_interrupt_ends_the_wait(store: Store, file: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "GRACE_SECONDS", 0.5)
    run_id = store.writer.create(store.experiment_id, "name", {}, {})
    points = Points("lr", np.arange(3), np.arange(3), np.ones(3))
    with locked(file):
        heard.interrupt.set()
        for call in (
            lambda: store.writer.write([Change(run_id, [points])]),
            lambda: store.client.set_tag(run_id, "a", "b"),
        ):
            began = time.monotonic()
            with pytest.raises(UnavailableError, match=f"{file} is locked by another program"):
                call()
            assert time.monotonic() - began < 4
    heard.interrupt.clear()
    store.writer.write([Change(run_id, [points])])
    assert len(store.client.get_metric_history(run_id, "lr")) == 3


def test_a_full_disk_is_said_and_not_waited_for(store: Store, file: Path) -> None:
    engine = store.client._tracking_client.store.engine
    run_id = store.writer.create(store.experiment_id, "name", {}, {})
    many = Points("lr", np.arange(100_000), np.arange(100_000), np.ones(100_000))
    engine.dispose()  # the next connection is the only one: the limit is a connection's own
    with engine.connect() as connection:
        (pages,) = connection.exec_driver_sql("PRAGMA page_count").one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 10}")
    for call in (
        lambda: store.writer.write([Change(run_id, [many])]),
        lambda: [store.client.set_tag(run_id, f"tag{number}", "x" * 4000) for number in range(1000)],
    ):
        with pytest.raises(StorageFullError, match=f"{file} cannot be written to"):
            call()
    engine.dispose()
    assert store.client.get_metric_history(run_id, "lr") == []
    store.writer.write([Change(run_id, [many])])
    assert len(MlflowReader(store).rows(run_id).lr) == 100_000
