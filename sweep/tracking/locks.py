"""Wait for a SQLite file that another program has locked, in every statement of MLflow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from sweep.database import BUSY_TIMEOUT_SECONDS, LockRetry, causes
from sweep.errors import StorageFullError, UnavailableError


@dataclass
class Hooks:
    """Callbacks for the time during which a store waits.

    Args:
        say: told once of each wait that takes longer than a few seconds.
        interrupted: asked while something is waited for.
    """

    say: Callable[[str], None] = lambda text: None
    interrupted: Callable[[], bool] = lambda: False
    _retries: dict[str, LockRetry] = field(default_factory=dict, init=False)

    def lock_retry(self, what: str) -> LockRetry:
        """Return the retry loop of a database, which is the same for all calls with this name."""
        return self._retries.setdefault(what, LockRetry(what, self.say, self.interrupted))


_HOOKS: WeakKeyDictionary[Engine, Hooks] = WeakKeyDictionary()
"""Of the engines that wait; MLflow keeps one engine for each database, however often it is opened."""


def name_of(store: SqlAlchemyStore) -> str:
    """A database, for messages: its file, or its name."""
    return f"the database {store.engine.url.database}"


def wait_for_locks(store: SqlAlchemyStore, hooks: Hooks) -> None:
    """Let each statement of a store of MLflow wait, in Python, for a SQLite file that is locked.

    MLflow itself waits 20 s in C, where no signal is heard, and then gives up. Its sessions raise a full disk, and a
    wait that was interrupted, by their own names.
    """
    known = _HOOKS.get(store.engine)
    _HOOKS[store.engine] = hooks
    if known is None:
        _listen(store.engine, name_of(store))
    if not getattr(store.ManagedSessionMaker, "plain", False):
        store.ManagedSessionMaker = _plain(store.ManagedSessionMaker)


def _listen(engine: Engine, what: str) -> None:
    def connected(connection: Any, record: object) -> None:
        """Set what MLflow's sessions set in each transaction."""
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000:.0f}")

    def execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        retry = _HOOKS[engine].lock_retry(what)
        if statement.startswith("PRAGMA busy_timeout"):  # MLflow sets it in every session
            busy = 0.0 if retry.over else BUSY_TIMEOUT_SECONDS
            statement = f"PRAGMA busy_timeout = {busy * 1000:.0f}"
        retry(lambda: cursor.execute(statement, parameters))
        return True  # carried out

    def execute_many(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        """SQLite takes the lock at the first row and keeps it: what was refused has written nothing."""
        _HOOKS[engine].lock_retry(what)(lambda: cursor.executemany(statement, parameters))
        return True

    event.listen(engine, "connect", connected)
    engine.dispose()  # connections that were opened before have other settings
    event.listen(engine, "do_execute", execute)
    event.listen(engine, "do_executemany", execute_many)


def _plain(sessions: Callable[..., Any]) -> Callable[..., Any]:
    """MLflow's sessions, without its wrapping of what a person has to know."""

    @contextmanager
    def session(read_only: bool = True) -> Iterator[Session]:
        try:
            with sessions(read_only=read_only) as opened:
                yield opened
        except MlflowException as error:
            for cause in causes(error):
                if isinstance(cause, UnavailableError | StorageFullError):
                    raise type(cause)(*cause.args) from error
            raise

    session.plain = True  # type: ignore[attr-defined]
    return session
