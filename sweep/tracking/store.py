"""The MLflow store: opened, or refused before anything is written."""

import atexit
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import overload

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from sweep.config import TrackingConfig
from sweep.database import WriteAheadConnection, check_database, file_of, is_database, patiently
from sweep.tracking.bulk import DatabaseWriter, Writer
from sweep.tracking.locks import Hooks, wait_for_locks
from sweep.tracking.server import ClientWriter
from sweep.validation import InvalidValueError

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints a traceback of what is raised anyway


@dataclass(frozen=True)
class Store:
    """A client and the experiment it works in.

    Args:
        every: of the updates of a trial, the learning rate and loss of every so many-th are recorded.
        hooks: for the time that the store cannot be written to.
    """

    client: MlflowClient
    experiment_id: str
    experiment: str
    every: int = 1
    hooks: Hooks = field(default_factory=Hooks)

    @cached_property
    def writer(self) -> Writer:
        """How runs are written: the fastest way there is."""
        store = self.client._tracking_client.store  # MLflow gives no other way to the engine that it writes with
        if isinstance(store, SqlAlchemyStore):
            return DatabaseWriter(self.client, store, self.hooks)
        return ClientWriter(self.client)

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
def open_store(config: TrackingConfig, *, hooks: Hooks | None = None) -> Store: ...
@overload
def open_store(config: TrackingConfig, *, create: bool, hooks: Hooks | None = None) -> Store | None: ...
def open_store(config: TrackingConfig, *, create: bool = True, hooks: Hooks | None = None) -> Store | None:
    """The store of a configuration, with its database and experiment.

    Args:
        create: whether to create what is missing; else None is given where it is missing.
        hooks: for the time that the store cannot be written to.

    Raises:
        InvalidValueError: names tracking.uri or tracking.experiment.
        DatabaseLockedError: if another program has locked the database, and the command was interrupted.
        StorageFullError: if the disk is full.
    """
    hooks, file = hooks or Hooks(), file_of(config.uri)
    patiently(lambda: _check(config), f"the database {file}", hooks.say, hooks.interrupted)
    if not create and file is not None and not file.exists():
        return None
    client = patiently(lambda: _client(config.uri, file), f"the database {file}", hooks.say, hooks.interrupted)
    if file is not None:
        wait_for_locks(client._tracking_client.store, hooks)
    try:
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None and not create:
            return None
        experiment_id = _create(client, config.experiment) if experiment is None else experiment.experiment_id
    except MlflowException as error:
        raise InvalidValueError("tracking.uri", config.uri, f"cannot be used: {error}") from error
    if experiment is not None and experiment.lifecycle_stage != "active":
        rule = "was deleted in MLflow; restore it (mlflow experiments restore) or name another"
        raise InvalidValueError("tracking.experiment", config.experiment, rule)
    if create and file is not None:
        sqlite3.connect(file, factory=WriteAheadConnection).close()  # the file keeps the mode
    return Store(client, experiment_id, config.experiment, config.every, hooks)


def _client(uri: str, file: Path | None) -> MlflowClient:
    """A client whose store is open: MLflow creates the tables of a database that has none."""
    if file is None:
        return MlflowClient(tracking_uri=uri)
    client = MlflowClient(tracking_uri=f"sqlite:///{file.absolute()}")
    atexit.register(client._tracking_client.store.engine.dispose)  # the last to close it takes the log into the file
    return client


def _create(client: MlflowClient, name: str) -> str:
    """A new experiment. Its client asks a server again whose reply was lost: the experiment may be there already."""
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


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
