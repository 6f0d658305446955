"""Database URIs, looked at before anything is created in them."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from sweep.validation import InvalidValueError

T = TypeVar("T")

BUSY_MS = 1000
"""How long SQLite may wait for a lock by itself: nothing hears a signal meanwhile."""
SAID_AFTER = 5.0
"""Seconds of waiting after which it is said what is waited for."""
GIVEN_UP_AFTER = 3.0
"""Seconds that are still waited after an interrupt."""


class DatabaseLockedError(RuntimeError):
    """Another program holds the lock of a database, and the command was interrupted while it waited."""


class StorageFullError(OSError):
    """There is no place left to write to."""


def patiently(call: Callable[[], T], what: str, say: Callable[[str], None], interrupted: Callable[[], bool]) -> T:
    """Do what a locked SQLite file refuses, again and again until it works.

    Args:
        call: a statement or a whole transaction: where it was refused, it has written nothing.
        what: the database, for messages.
        say: told once, after five seconds, what is waited for.
        interrupted: asked between tries.

    Raises:
        DatabaseLockedError: if the file is still locked three seconds after an interrupt.
        StorageFullError: if the disk is full; nothing is tried again.
    """
    began, until, said = time.monotonic(), float("inf"), False
    while True:
        try:
            return call()
        except (DatabaseLockedError, StorageFullError):
            raise
        except Exception as error:
            refuse_full(error, what)
            if not _is(error, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() >= until:
                raise DatabaseLockedError(
                    f"{what} is locked by another program; gave up after the interrupt"
                ) from error
        if not said and time.monotonic() - began >= SAID_AFTER:
            say(f"{what} is locked by another program; waiting until it is free, nothing is lost")
            said = True
        if interrupted():
            until = min(until, time.monotonic() + GIVEN_UP_AFTER)
        time.sleep(0.05)


def refuse_full(error: BaseException, what: str) -> None:
    """Raise what a full disk makes of a SQLite file by its own name.

    Raises:
        StorageFullError: names the database; if that is what the error says.
    """
    if _is(error, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        raise StorageFullError(f"{what} cannot be written to: {_first_line(error)}; is the disk full?") from error


def _is(error: BaseException, *codes: int) -> bool:
    """Whether an error, or one that it was raised from, is one of SQLite's."""
    return any(getattr(one, "sqlite_errorcode", 0) & 0xFF in codes for one in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def file_of(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other."""
    if not is_database(uri) or make_url(uri).get_backend_name() != "sqlite":
        return None
    name = make_url(uri).database
    return Path(name) if name else None


def same_database(uri: str, other: str) -> bool:
    """Whether two URIs are equal, or name the same SQLite file."""
    files = file_of(uri), file_of(other)
    return uri == other or (files[0] is not None and files[1] is not None and files[0].resolve() == files[1].resolve())


def is_database(uri: str) -> bool:
    """Whether SQLAlchemy knows what kind of database the URI names."""
    try:
        make_url(uri).get_dialect()
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError):
        return False
    return True


class WriteAheadConnection(sqlite3.Connection):
    """A connection to a SQLite file that is written ahead: a transaction takes a tenth of the time, and readers do not
    wait for it. For the `factory` of `sqlite3.connect`.

    The file keeps the mode (journal_mode=WAL). Beside it lie FILE-wal and FILE-shm while it is open: the three belong
    together. In this mode synchronous=NORMAL is enough to keep the file whole, whatever happens; a crash of the program
    loses nothing, a power cut the last transactions at most. Where the mode cannot be set (the file is in use, or its
    file system has no shared memory), SQLite's defaults stay.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            (mode,) = self.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError:
            return
        if mode == "wal":
            self.execute("PRAGMA synchronous=NORMAL")


def check_database(key: str, uri: str, table: str) -> None:
    """Refuse a database that cannot be used, without creating or changing anything.

    Args:
        key: of the configuration, for the message.
        uri: SQLAlchemy URI.
        table: one that the database has if its owner has used it before.

    Raises:
        InvalidValueError: if it cannot be reached, is no database, or is a SQLite file of something else.
    """
    try:
        url = make_url(uri)
        if url.get_backend_name() == "sqlite":
            _check_sqlite(key, uri, url, table)
            return
        engine = create_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except (ArgumentError, NoSuchModuleError):
        raise InvalidValueError(key, uri, "is no database URI, such as sqlite:///file.db") from None
    except ModuleNotFoundError as error:
        raise InvalidValueError(key, uri, f"needs the Python package {error.name}") from error
    except SQLAlchemyError as error:
        raise InvalidValueError(key, uri, f"cannot be reached: {_first_line(error)}") from error


def _check_sqlite(key: str, uri: str, url: URL, table: str) -> None:
    if not url.database or url.database == ":memory:":
        raise InvalidValueError(key, uri, "must name a file, such as sqlite:///file.db")
    path = Path(url.database)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InvalidValueError(key, uri, f"{path} must be a file in a folder that exists")
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise InvalidValueError(key, uri, f"{path} cannot be read as a SQLite database: {error}") from error
    if tables and table not in tables:
        raise InvalidValueError(key, uri, f"{path} is a database of something else: it has no table {table}")


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
