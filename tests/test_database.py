"""Tests databases: URIs, SQLite's write-ahead log, waiting for locks, fencing."""

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from sweep.database import (
    GRACE,
    Cell,
    LockRetry,
    WriteAheadConnection,
    create_file,
    fence,
    file_of,
    locked,
    same_database,
)
from sweep.errors import GivenUpError, LeaseLostError, UnavailableError
from sweep.proposals.cached_study import CachedStudy
from sweep.proposals.store import _storage


def connect(file: Path, timeout: float = 5.0) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=timeout, factory=WriteAheadConnection)


def pragma(connection: sqlite3.Connection, name: str) -> str | int:
    value: str | int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def test_a_file_is_the_same_by_whatever_path(tmp_path: Path) -> None:
    assert file_of(f"sqlite:///{tmp_path}/a.db") == tmp_path / "a.db"
    assert file_of("postgresql+psycopg://user@host/db") is None
    assert same_database(f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/../{tmp_path.name}/a.db")
    assert not same_database(f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db")


def test_of_several_threads_one_creates_the_tables_of_a_study(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/optuna.db"
    with ThreadPoolExecutor(8) as threads:
        stores = [store.result() for store in [threads.submit(_storage, uri) for _ in range(8)]]
    assert [store.get_all_studies() for store in stores] == [[]] * 8
    for store in stores:
        store.engine.dispose()
    assert [file.name for file in tmp_path.iterdir()] == ["optuna.db"]


def test_a_file_whose_creation_failed_is_not_there_and_can_be_created_again(tmp_path: Path) -> None:
    def fails(uri: str) -> None:
        made = sqlite3.connect(uri.removeprefix("sqlite:///"))
        made.execute("CREATE TABLE t (x)")
        made.close()
        raise RuntimeError("killed")

    def creates(uri: str) -> None:
        made = sqlite3.connect(uri.removeprefix("sqlite:///"))
        made.execute("CREATE TABLE t (x)")  # which would be refused if the first one were still there
        made.close()

    file = tmp_path / "a.db"
    with pytest.raises(RuntimeError, match="killed"):
        create_file(file, fails)
    assert not file.exists()
    create_file(file, creates)
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]


def test_what_a_deleted_file_left_is_not_written_into_the_new_one(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/optuna.db"
    before = _storage(uri)
    optuna.create_study(study_name="old", storage=before)
    (tmp_path / "optuna.db").unlink()
    assert (tmp_path / "optuna.db-wal").exists()
    after = _storage(uri)
    assert after.get_all_studies() == []
    for store in (before, after):
        store.engine.dispose()


def test_a_file_that_is_written_ahead_stays_so_and_is_whole_alone_once_closed(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    connection = connect(file)
    assert (pragma(connection, "journal_mode"), pragma(connection, "synchronous")) == ("wal", 1)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("INSERT INTO t VALUES (7)")
    connection.commit()
    connection.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    plain = sqlite3.connect(file)
    assert (pragma(plain, "journal_mode"), pragma(plain, "synchronous")) == ("wal", 2)
    assert plain.execute("SELECT x FROM t").fetchall() == [(7,)]


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    writer = connect(tmp_path / "a.db")
    writer.execute("CREATE TABLE t (x)")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO t VALUES (7)")
    assert sqlite3.connect(tmp_path / "a.db", timeout=0).execute("SELECT x FROM t").fetchall() == []
    writer.commit()


@pytest.mark.parametrize("why", ["in use", "not to be written"])
def test_where_a_file_cannot_be_written_ahead_the_defaults_stay(tmp_path: Path, why: str) -> None:
    file = tmp_path / "a.db"
    plain = sqlite3.connect(file)
    plain.execute("CREATE TABLE t (x)")
    plain.execute("BEGIN")
    plain.execute("SELECT x FROM t").fetchall()
    if why == "in use":
        other = connect(file, timeout=0)
    else:
        other = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, factory=WriteAheadConnection, timeout=0)
    assert (pragma(other, "journal_mode"), pragma(other, "synchronous")) == ("delete", 2)
    assert other.execute("SELECT x FROM t").fetchall() == []


class Locked:
    """Provide a study in a SQLite file that another connection has locked."""

    def __init__(self, folder: Path) -> None:
        file = folder / "optuna.db"
        self.study = optuna.create_study(storage=_storage(f"sqlite:///{file}"), study_name="mine")
        self.other = sqlite3.connect(file, check_same_thread=False)
        self.lines: list[str] = []
        self.signals: list[int] = []
        patiently = LockRetry(str(file), self.lines.append, lambda: bool(self.signals))
        self.cached = CachedStudy(self.study, patiently)

    def lock(self, seconds: float | None = None) -> None:
        self.other.execute("BEGIN IMMEDIATE")
        if seconds is not None:
            threading.Timer(seconds, self.other.rollback).start()

    def stored(self) -> list[FrozenTrial]:
        return optuna.load_study(study_name="mine", storage=self.study._storage).get_trials()


@pytest.fixture
def locked_study(tmp_path: Path) -> Locked:
    return Locked(tmp_path)


def took(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_a_locked_database_is_waited_for_and_everything_is_written_once(locked_study: Locked, tmp_path: Path) -> None:
    cached, live = locked_study.cached, []
    for seconds in (6.5, 2.0):
        live.append(cached.study.ask())
        live[-1].suggest_float("x", 0, 1)
        locked_study.lock(seconds)
        assert seconds <= took(lambda: cached.keep(live[-1].number)) < seconds + 2
    locked_study.lock(2.0)
    live[0].report(0.5, 10)
    live[0].set_user_attr("one", 1)
    cached.study.tell(live[0], 0.5)
    cached.keep(0)
    first, second = locked_study.stored()
    assert (first.number, first.value, first.intermediate_values) == (0, 0.5, {10: 0.5})
    assert (first.user_attrs, first.params) == ({"one": 1}, live[0].params)
    assert (second.number, second.params, second.state.name) == (1, live[1].params, "RUNNING")
    assert locked_study.lines == [f"{tmp_path}/optuna.db is locked by another program; waiting for it"]


def test_a_signal_ends_the_wait_for_a_locked_database(locked_study: Locked) -> None:
    number = locked_study.cached.study.ask().number
    locked_study.lock()
    threading.Timer(0.5, lambda: locked_study.signals.append(2)).start()

    def keep() -> None:
        with pytest.raises(UnavailableError, match="is locked by another program") as raised:
            locked_study.cached.keep(number)
        assert locked(raised.value)
        assert isinstance(raised.value, GivenUpError)

    assert GRACE < took(keep) < GRACE + 2.5
    locked_study.other.rollback()
    locked_study.cached.keep(number)
    assert [trial.number for trial in locked_study.stored()] == [0]


def test_a_trial_that_was_written_after_all_is_not_written_again(locked_study: Locked) -> None:
    """This imitates a database that has committed a transaction and reports that it has not."""
    cached = locked_study.cached
    insert, tries = cached._tables.insert, []

    def written_yet_failed(trial: FrozenTrial) -> int:
        tries.append(insert(trial))
        locked_study.lock()
        try:
            locked_study.study.set_user_attr("one", 1)
        finally:
            locked_study.other.rollback()
        return 0

    cached._tables.insert = written_yet_failed  # type: ignore[method-assign]
    number = cached.study.ask().number
    cached.keep(number)
    assert len(tries) == len(locked_study.stored()) == 1


def test_only_a_lock_is_waited_for() -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))

    with pytest.raises(OperationalError):
        LockRetry("a database")(fail)
    assert len(tries) == 1


def test_patience_ends() -> None:
    def fail() -> None:
        with sqlite3.connect("file:memory?mode=memory&cache=shared", uri=True) as first:
            first.execute("CREATE TABLE IF NOT EXISTS t (x)")
            first.execute("INSERT INTO t VALUES (1)")
            sqlite3.connect("file:memory?mode=memory&cache=shared", uri=True, timeout=0).execute("DELETE FROM t")

    with pytest.raises(UnavailableError, match="a database is locked by another program"):
        LockRetry("a database", limit=0.3)(fail)


def test_a_cell_is_swapped_by_one_of_those_who_have_seen_the_same(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)"))
    cell = Cell("t", "v", {"k": "one"})
    assert cell.read(engine) is None
    assert not cell.swap(engine, "a", "b")
    assert cell.swap(engine, None, "a")
    assert not cell.swap(engine, None, "b")
    assert cell.swap(engine, "a", "b")
    assert not cell.swap(engine, "a", "c")
    assert cell.read(engine) == "b"


def test_a_fence_lets_nothing_be_committed_and_can_be_lifted(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)"))
    cell = Cell("t", "v", {"k": "one"})
    lift = fence(engine, cell, lambda text: text == "mine", lambda: LeaseLostError("somebody else's"))
    with pytest.raises(LeaseLostError):
        cell.swap(engine, None, "not mine")
    assert cell.read(engine) is None
    assert cell.swap(engine, None, "mine")
    with pytest.raises(LeaseLostError):
        cell.swap(engine, "mine", "not mine")
    assert cell.read(engine) == "mine"
    lift()
    assert cell.swap(engine, "mine", "not mine")
