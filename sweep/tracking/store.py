"""The MLflow store: opened, or refused before anything is written."""

import atexit
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Engine

from sweep.config import TrackingConfig
from sweep.database import (
    Cell,
    Patience,
    WriteAheadConnection,
    check_database,
    end_suspended,
    fence,
    file_of,
    is_database,
)
from sweep.tracking.bulk import Writer, writer_of
from sweep.validation import InvalidValueError

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)

IDLE = 30.0
"""Seconds after which a database may end a transaction whose process is suspended."""
LEASE_TAG = "sweep.lease"
"""Tag of a study's run: the mark of the lease whose holder alone may write."""


@dataclass(frozen=True)
class Store:
    """A client and the experiment it works in.

    Args:
        every: of the updates of a trial, the learning rate and loss of every so many-th are recorded.
    """

    client: MlflowClient
    experiment_id: str
    experiment: str
    every: int = 1

    @cached_property
    def writer(self) -> Writer:
        """How runs are written."""
        return writer_of(self.client)

    def holds(self, run_id: str) -> bool:
        """Whether the experiment has that run, and it is not deleted."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return False
        return run.info.experiment_id == self.experiment_id and run.info.lifecycle_stage == "active"

    def search(self, tags: Mapping[str, str]) -> list[Run]:
        """All active runs with these tags, newest first. MLflow has no way to quote an apostrophe in a value."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], wanted, ViewType.ACTIVE_ONLY, 1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs


def _check(config: TrackingConfig) -> None:
    """Refuse a tracking URI that cannot be used. A database that does not exist yet is not created.

    Raises:
        InvalidValueError: names tracking.uri.
    """
    if is_database(config.uri):
        check_database("tracking.uri", config.uri, table="experiments")
        return
    with _impatient():
        try:
            MlflowClient(tracking_uri=config.uri).search_experiments(max_results=1)
        except Exception as error:  # MLflow raises its own, requests' and the plug-ins' types
            raise InvalidValueError("tracking.uri", config.uri, f"cannot be used: {_reason(error)}") from error


@overload
def open_store(config: TrackingConfig) -> Store: ...
@overload
def open_store(config: TrackingConfig, *, create: bool) -> Store | None: ...
def open_store(config: TrackingConfig, *, create: bool = True) -> Store | None:
    """The store of a configuration, with its database and experiment.

    Args:
        create: whether to create what is missing; else None is given where it is missing.

    Raises:
        InvalidValueError: names tracking.uri or tracking.experiment.
    """
    _check(config)
    file = file_of(config.uri)
    if not create and file is not None and not file.exists():
        return None
    client = MlflowClient(tracking_uri=config.uri if file is None else f"sqlite:///{file.absolute()}")
    try:
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None and not create:
            return None
        experiment_id = client.create_experiment(config.experiment) if experiment is None else experiment.experiment_id
    except MlflowException as error:
        raise InvalidValueError("tracking.uri", config.uri, f"cannot be used: {error}") from error
    if experiment is not None and experiment.lifecycle_stage != "active":
        rule = "was deleted in MLflow; restore it (mlflow experiments restore) or name another"
        raise InvalidValueError("tracking.experiment", config.experiment, rule)
    if file is not None:
        atexit.register(
            client._tracking_client.store.engine.dispose
        )  # the last to close it takes the log into the file
    if create and file is not None:
        sqlite3.connect(file, factory=WriteAheadConnection).close()  # the file keeps the mode
    return Store(client, experiment_id, config.experiment, config.every)


def fence_store(
    store: Store,
    run_id: str,
    mark: str,
    error: Callable[[], Exception],
    patiently: Patience | None = None,
) -> Callable[[], None]:
    """Mark a run as this process's, and let the store write nothing more once the run has another mark.

    The fence is around all that this process writes to the database, of whatever run. A server's store is marked only:
    there a process that has lost its lease can still write.

    Args:
        mark: of a lease: its number, which only rises, and a token.
        error: what is raised if the mark is another one.
        patiently: waits for the database where it is locked.

    Returns:
        What lifts the fence. MLflow has one engine for all clients of a process: lift it, or the next command of this
        process finds it.

    Raises:
        Exception: `error`, if the run has the mark of a later lease.
    """
    tracking = store.client._tracking_client.store  # MLflow gives no other way to the engine that it writes with
    if not isinstance(tracking, SqlAlchemyStore):
        if _later(store.client.get_run(run_id).data.tags.get(LEASE_TAG), mark):
            raise error()
        store.client.set_tag(run_id, LEASE_TAG, mark)
        return lambda: None
    cell = Cell("tags", "value", {"run_uuid": run_id, "key": LEASE_TAG})
    patiently = patiently or Patience("tracking.uri")
    patiently(lambda: _mark(cell, tracking.engine, mark, error))
    end_suspended(tracking.engine, IDLE)
    return fence(tracking.engine, cell, lambda text: text == mark, error)


def _mark(cell: Cell, engine: Engine, mark: str, error: Callable[[], Exception]) -> None:
    """Write a mark, unless there is a later one: whoever was suspended before he could must not write it any more."""
    while (seen := cell.read(engine)) != mark:
        if _later(seen, mark):
            raise error()
        cell.swap(engine, seen, mark)


def _later(seen: str | None, mark: str) -> bool:
    """Whether a mark is of another lease, not of an earlier one."""
    return seen is not None and seen != mark and int(seen.split()[0]) >= int(mark.split()[0])


def _reason(error: Exception) -> str:
    """The innermost of the messages that HTTP clients nest in parentheses."""
    first_line = str(error).strip().splitlines()[0]
    return first_line.rpartition("Caused by ")[2].rstrip(")") if "Caused by " in first_line else first_line


@contextmanager
def _impatient() -> Iterator[None]:
    """MLflow retries for minutes by default; a server that is not there should be said at once."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    transport = logging.getLogger("urllib3")
    level = transport.level
    transport.setLevel(logging.ERROR)  # its warnings would say again what the refusal says
    try:
        yield
    finally:
        transport.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
