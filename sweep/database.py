"""Databases: check a URI before anything is created, retry while a database is locked, and fence writes."""

import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Select,
    and_,
    column,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    table,
    text,
    update,
)
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from sweep.errors import GivenUpError, InvalidValueError, LeaseLostError, StorageFullError, UnavailableError

BUSY_TIMEOUT_SECONDS = 1.0
"""Time that a connection itself waits for a lock. Python handles no signal meanwhile."""
NOTICE_AFTER_SECONDS = 5.0
"""Time of waiting for a lock after which the user is told."""
GRACE_SECONDS = 2.0
"""Time of waiting for a lock after a signal."""
RETRY_PAUSE_SECONDS = 0.1
LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's code for a lock that another transaction holds."""

T = TypeVar("T")


def file_of(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for any other URI."""
    if not is_database(uri) or make_url(uri).get_backend_name() != "sqlite":
        return None
    name = make_url(uri).database
    return Path(name) if name else None


def create_file(file: Path, create: Callable[[str], None]) -> None:
    """Create a SQLite file atomically, because no program can use one that a crash has left incomplete.

    If several threads or processes call this at once, one creates the file and the others wait.

    Args:
        create: creates the tables in the database of a URI, and closes it.
    """
    new = file.with_name(f"{file.name}.new")
    with os.fdopen(os.open(new, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as claimed:
        fcntl.flock(claimed, fcntl.LOCK_EX)
        if file.exists():  # another process has created it meanwhile
            new.unlink(missing_ok=True)
            return
        claimed.truncate(0)
        new.with_name(f"{new.name}-journal").unlink(missing_ok=True)
        create(f"sqlite:///{new}")
        for suffix in ("-wal", "-shm", "-journal"):  # of a deleted file: SQLite would apply them to this one
            file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
        os.replace(new, file)


def same_database(uri: str, other: str) -> bool:
    """Return whether two URIs are equal, or name the same SQLite file."""
    files = file_of(uri), file_of(other)
    return uri == other or (files[0] is not None and files[1] is not None and files[0].resolve() == files[1].resolve())


def is_database(uri: str) -> bool:
    """Return whether SQLAlchemy has a dialect for the URI."""
    try:
        make_url(uri).get_dialect()
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError):
        return False
    return True


class WriteAheadConnection(sqlite3.Connection):
    """A connection to a SQLite file with a write-ahead log. For the `factory` of `sqlite3.connect`.

    A transaction takes a tenth of the time, and readers do not wait for it. The file keeps the mode (journal_mode=WAL),
    and has FILE-wal and FILE-shm beside it while it is open. In this mode synchronous=NORMAL keeps the file consistent:
    a crash of the program loses nothing, a power failure the last transactions at most. If the mode cannot be set (the
    file is in use, or its file system has no shared memory), SQLite's defaults stay.
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
        key: the key of the configuration, for the message.
        uri: SQLAlchemy URI.
        table: a table that the database has if its owner has used it before.

    Raises:
        InvalidValueError: if it cannot be reached, is not a database, or is a SQLite file of another program.
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
        raise InvalidValueError(key, uri, f"{path} is a database of another program: it has no table {table}")


def schema_version(uri: str) -> str | None:
    """Return the schema version that Alembic has stored in a database; None if there is none.

    Raises:
        SQLAlchemyError: if the database is locked.
    """
    file = file_of(uri)
    if file is not None and not file.exists():
        return None
    engine = create_engine(make_url(uri), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return None if version is None else str(version)
    finally:
        engine.dispose()


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def tell_at_once(engine: Engine) -> None:
    """Let an engine raise `UnavailableError` when its database is locked or its connection broke."""

    @event.listens_for(engine, "handle_error")
    def convert(context: ExceptionContext) -> None:
        if context.is_disconnect or locked(context.original_exception):
            raise UnavailableError(_first_line(context.original_exception))


def end_suspended(engine: Engine, seconds: float) -> None:
    """Let PostgreSQL roll back a transaction that was idle for so long, as that of a suspended process.

    Otherwise it would keep its locks. Other databases have no such simple limit.
    """
    if engine.dialect.name != "postgresql":
        return

    @event.listens_for(engine, "connect")
    def limit(connection: Any, record: object) -> None:
        connection.cursor().execute(f"SET SESSION idle_in_transaction_session_timeout = {seconds * 1000:.0f}")
        connection.commit()

    engine.dispose()  # existing connections have no limit


def locked(error: BaseException) -> bool:
    """Return whether another process holds the lock: the transaction did nothing, and may be retried."""
    return any(_is_lock(cause) for cause in causes(error))


def refuse_full(error: BaseException, what: str) -> None:
    """Raise StorageFullError, which names the database, if an error says that the disk of a SQLite file is full."""
    full = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    if any(getattr(cause, "sqlite_errorcode", 0) & 0xFF in full for cause in causes(error)):
        raise StorageFullError(f"{what} cannot be written to: {_first_line(error)}; is the disk full?") from error


def lost_lease(error: BaseException) -> LeaseLostError | None:
    """Return the lost lease that caused an error, such as one that MLflow or Optuna raised; None if none did."""
    return next((cause for cause in causes(error) if isinstance(cause, LeaseLostError)), None)


def _is_lock(error: BaseException) -> bool:
    if isinstance(error, sqlite3.OperationalError):  # the lower 8 bits are the primary code
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return LOCK_NOT_AVAILABLE in (getattr(error, "sqlstate", None), getattr(error, "pgcode", None))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the error that it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


@dataclass
class LockRetry:
    """Retries calls while another program holds the lock of a database. Its hooks may be set later.

    Args:
        what: names the database in messages.
        say: shows a line to the user.
        interrupted: returns whether a signal came.
        limit: seconds after which a call fails.
    """

    what: str
    say: Callable[[str], None] = lambda line: None
    interrupted: Callable[[], bool] = lambda: False
    limit: float = 600.0
    _ends: float = field(default=math.inf, init=False)
    """The time of the clock at which calls fail after a signal; one time for all calls together."""

    @property
    def over(self) -> bool:
        """Return whether the time after a signal is over, so that no call is retried."""
        return time.monotonic() >= self._ends

    def __call__(self, call: Callable[[], T]) -> T:
        """Return the result of a call, which is retried while the database is locked.

        Args:
            call: one transaction, or several that may be repeated.

        Raises:
            UnavailableError: after `limit`, or GRACE_SECONDS after a signal.
            Exception: any other error of the call.
        """
        began, said = time.monotonic(), False
        until = began + self.limit
        while True:
            try:
                return call()
            except Exception as error:
                refuse_full(error, self.what)
                if not locked(error):
                    raise
                now = time.monotonic()
                if self.interrupted():
                    self._ends = min(self._ends, now + GRACE_SECONDS)
                if now >= min(until, self._ends):
                    kind = GivenUpError if now >= self._ends else UnavailableError
                    raise kind(f"{self.what} is locked by another program") from error
            if not said and now - began >= NOTICE_AFTER_SECONDS:
                self.say(f"{self.what} is locked by another program; waiting for it")
                said = True
            time.sleep(RETRY_PAUSE_SECONDS)


@dataclass(frozen=True)
class Cell:
    """One text in a database, changed by compare and swap: of several processes that have read it, one succeeds.

    Args:
        table, column: where the text is.
        row: the values of other columns that identify the row; a unique key of the table.
    """

    table: str
    column: str
    row: Mapping[str, Any]

    def read(self, engine: Engine) -> str | None:
        """Return the text; None if there is no row."""
        with engine.connect() as connection:
            return connection.execute(self.select()).scalar()

    def swap(self, engine: Engine, seen: str | None, new: str) -> bool:
        """Replace the text if it is still `seen`, in a transaction of its own, and return whether it was.

        Raises:
            SQLAlchemyError: nothing was changed; for a lock after BUSY_TIMEOUT_SECONDS.
        """
        try:
            with engine.begin() as connection:
                _limit_waiting(connection)
                if seen is None:
                    connection.execute(insert(self._table).values({**self.row, self.column: new}))
                    return True
                unchanged = and_(self._matches, self._table.c[self.column] == seen)
                changed = update(self._table).where(unchanged).values({self.column: new})
                return connection.execute(changed).rowcount == 1
        except IntegrityError:  # another process has inserted the row
            if seen is None:
                return False
            raise

    def select(self) -> Select[Any]:
        """Return a query for the text."""
        return select(self._table.c[self.column]).where(self._matches)

    @cached_property
    def _table(self) -> Any:
        return table(self.table, *map(column, [*self.row, self.column]))

    @property
    def _matches(self) -> Any:
        return and_(*(self._table.c[name] == value for name, value in self.row.items()))


def _limit_waiting(connection: Connection) -> None:
    """Let the transaction wait for locks no longer than BUSY_TIMEOUT_SECONDS."""
    if connection.dialect.name == "sqlite":
        connection.execute(text(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000:.0f}"))
    elif connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = {BUSY_TIMEOUT_SECONDS * 1000:.0f}"))


def fence(
    engine: Engine, cell: Cell, ours: Callable[[str | None], bool], error: Callable[[], Exception]
) -> Callable[[], None]:
    """Let an engine commit only while a cell of the same database allows it.

    The cell is read in the transaction that is to be committed, and stays locked until the commit: in PostgreSQL and
    MySQL its row (FOR SHARE), in SQLite the database, which every writer locks. So a commit comes before a change of
    the cell or not at all, even if the process is suspended between the two.

    Args:
        ours: returns whether the text of the cell allows a commit.
        error: creates the error that is raised otherwise; the transaction is rolled back.

    Returns:
        A function that removes the fence.
    """
    query = cell.select().with_for_update(read=True)

    def check(connection: Connection) -> None:
        if not ours(connection.execute(query).scalar()):
            connection.connection.rollback()  # SQLAlchemy would do so only when the connection returns to its pool
            raise error()

    event.listen(engine, "commit", check)
    return lambda: event.remove(engine, "commit", check)
