"""The MLflow store: opened, or refused before anything is written."""

import atexit
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import overload
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import read_mlflow_creds
from requests.utils import get_netrc_auth

from sweep.config import TrackingConfig
from sweep.database import WriteAheadConnection, check_database, file_of, is_database
from sweep.tracking.bulk import Writer, writer_of
from sweep.validation import InvalidValueError

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)


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
