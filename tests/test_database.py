"""Databases: what a URI names, and SQLite files that are written ahead."""

import sqlite3
from pathlib import Path

import pytest

from sweep.database import WriteAheadConnection, file_of, same_database


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
