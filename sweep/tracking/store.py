"""The MLflow store: opened, or refused before anything is written."""

import atexit
import logging
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import overload
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.credentials import read_mlflow_creds
from requests.utils import get_netrc_auth
from sqlalchemy import Engine

from sweep.config import TrackingConfig
from sweep.database import (
    Cell,
    WriteAheadConnection,
    check_database,
    end_suspended,
    fence,
    file_of,
    is_database,
)
from sweep.tracking.bulk import DatabaseWriter, Writer
from sweep.tracking.delivery import SPOOLED, SpooledWriter, spooled
from sweep.tracking.locks import Hooks, wait_for_locks
from sweep.tracking.rest import reason_of
from sweep.tracking.server import KEY, ClientWriter
from sweep.validation import InvalidValueError

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints a traceback of what is raised anyway

IDLE = 30.0
"""Seconds after which a database may end a transaction whose process is suspended."""
LEASE_TAG = "sweep.lease"
"""Tag of a study's run: the mark of the lease whose holder alone may write."""


@dataclass(frozen=True)
class Store:
    """A client and the experiment it works in.

    Args:
        every: of the updates of a trial, the learning rate and loss of every so many-th are recorded.
        hooks: for the time that the store cannot be written to.
        spool: what writes to a server through a folder.
    """

    client: MlflowClient
    experiment_id: str
    experiment: str
    every: int = 1
    hooks: Hooks = field(default_factory=Hooks)
    spool: SpooledWriter | None = None

    @cached_property
    def writer(self) -> Writer:
        """How runs are written: the fastest way there is, or through a folder."""
        if self.spool is not None:
            return self.spool
        store = self.client._tracking_client.store  # MLflow gives no other way to the engine that it writes with
        if isinstance(store, SqlAlchemyStore):
            return DatabaseWriter(self.client, store, self.hooks)
        return ClientWriter(self.client)

    @property
    def waiting(self) -> int:
        """How many changes wait in the folder; none where there is no folder."""
        return self.spool.waiting if self.spool else 0

    def settle(self, patience: float, interrupted: Callable[[], bool] = lambda: False) -> int:
        """Wait until everything is in the store; how many changes still wait. As SpooledWriter.settle."""
        return self.spool.settle(patience, interrupted) if self.spool else 0

    def resolve(self, run_id: str) -> str | None:
        """The id of a run, also where the writer gave a reference; None of a run that is not created yet."""
        return self.spool.resolve(run_id) if self.spool else run_id

    def drop_doubles(self, tags: Mapping[str, str]) -> None:
        """Of the runs with these tags that have the same key, keep the oldest; of equals one that has ended."""
        by_key: dict[str, list[Run]] = defaultdict(list)
        for run in self.search(tags):
            by_key[run.data.tags.get(KEY, run.info.run_id)].append(run)
        for runs in by_key.values():
            runs.sort(key=lambda run: (run.info.start_time, run.info.status == "RUNNING", run.info.run_id))
            for double in runs[1:]:
                self.writer.delete(double.info.run_id)

    def holds(self, run_id: str) -> bool:
        """Whether the experiment has that run, of an id or a reference, and it is not deleted."""
        if run_id.startswith(SPOOLED):
            return bool(self.search({KEY: run_id.removeprefix(SPOOLED)}))
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


def names_of(run: Run) -> frozenset[str]:
    """Its id, and what stood for it before it was created."""
    return frozenset({run.info.run_id, f"{SPOOLED}{run.data.tags.get(KEY)}"})


def _check_clear_text(uri: str) -> None:
    """Refuse to send a password over plain http to another machine: whoever is on the way could read it.

    Besides the URI, MLflow takes one from MLFLOW_TRACKING_* and ~/.mlflow/credentials, and requests from ~/.netrc.
    """
    parts = urlsplit(uri)
    if parts.scheme.lower() != "http" or _is_loopback(parts.hostname or ""):
        return
    token, (user, password) = os.environ.get("MLFLOW_TRACKING_TOKEN"), read_mlflow_creds()
    if "@" in parts.netloc or token or user or password or get_netrc_auth(uri):
        rule = "would send a password in clear text to another machine; use https, or give none"
        raise InvalidValueError("tracking.uri", uri, rule)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _check(config: TrackingConfig) -> None:
    """Refuse a tracking URI that cannot be used. A database that does not exist yet is not created.

    Raises:
        InvalidValueError: names tracking.uri.
    """
    if is_database(config.uri):
        check_database("tracking.uri", config.uri, table="experiments")
        return
    _check_clear_text(config.uri)
    with _impatient():
        try:
            MlflowClient(tracking_uri=config.uri).search_experiments(max_results=1)
        except Exception as error:  # MLflow raises its own, requests' and the plug-ins' types
            raise InvalidValueError("tracking.uri", config.uri, f"cannot be used: {reason_of(error)}") from error


@overload
def open_store(config: TrackingConfig, *, spool: Path | None = None, hooks: Hooks | None = None) -> Store: ...
@overload
def open_store(
    config: TrackingConfig, *, create: bool, spool: Path | None = None, hooks: Hooks | None = None
) -> Store | None: ...
def open_store(
    config: TrackingConfig, *, create: bool = True, spool: Path | None = None, hooks: Hooks | None = None
) -> Store | None:
    """The store of a configuration, with its database and experiment.

    Args:
        create: whether to create what is missing; else None is given where it is missing.
        spool: the folder that a server is written to through, of this server only; None to write to it directly.
            What waits there from an earlier command is being delivered before anything is read; `settle` waits for it.
        hooks: for the time that the store cannot be written to.

    Raises:
        InvalidValueError: names tracking.uri or tracking.experiment.
        UnavailableError: if another program has locked the database, and the command was interrupted.
        StorageFullError: if the disk is full.
        SpoolInUseError: if another command has opened the folder.
    """
    hooks, file = hooks or Hooks(), file_of(config.uri)
    patiently = hooks.patience(f"the database {file}")
    patiently(lambda: _check(config))
    if not create and file is not None and not file.exists():
        return None
    through = spooled(config.uri, spool, hooks) if spool and _is_server(config.uri) else None
    client = patiently(lambda: _client(config.uri, file))
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
    return Store(client, experiment_id, config.experiment, config.every, hooks, through)


def fence_store(store: Store, run_id: str, mark: str, error: Callable[[], Exception]) -> Callable[[], None]:
    """Mark a run as this process's, and let the store write nothing more once the run has another mark.

    The fence is around all that this process writes to the database, of whatever run. A server's store is marked only:
    there a process that has lost its lease can still write.

    Args:
        mark: of a lease: its number, which only rises, and a token.
        error: what is raised if the mark is another one.

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
    store.hooks.patience("tracking.uri")(lambda: _mark(cell, tracking.engine, mark, error))
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


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


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


@contextmanager
def _impatient() -> Iterator[None]:
    """MLflow retries for minutes by default; a server that is not there should be said at once."""
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",  # a second between two tries, at most
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }
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
