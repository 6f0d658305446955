"""Open an MLflow store, or refuse it before anything is written."""

import atexit
import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH
from mlflow.version import VERSION
from sqlalchemy.exc import NoResultFound

from sweep.config import TrackingConfig
from sweep.database import (
    WriteAheadConnection,
    causes,
    check_database,
    create_file,
    file_of,
    is_database,
    schema_version,
)
from sweep.errors import InvalidValueError, LeaseLostError, RemovedError, UnavailableError
from sweep.tracking.bulk import Change, DatabaseWriter, Files, Texts
from sweep.tracking.clear_text import check_clear_text
from sweep.tracking.locks import Hooks, wait_for_locks
from sweep.tracking.relocation import ROOT, relocate_artifacts
from sweep.tracking.replica import MARK, RECORD_TAG, Replica
from sweep.tracking.server import NoAnswerError, Server, reason_of
from sweep.tracking.texts import joined_run, run_name, split

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints a traceback of what is raised anyway


T = TypeVar("T")

RECORD_FILE = "record.db"
"""The database of a local record, in its folder."""


@dataclass(frozen=True)
class Store:
    """An MLflow client and its experiment.

    With a tracking server, the client is that of the local record, and the server is its replica.

    Args:
        every: learning rate and loss are recorded for updates whose number is a multiple of this.
        hooks: called while the store cannot be written to.
        replica: the tracking server that is brought up to date with this store.
        tags: tags of every new run.
    """

    client: MlflowClient
    experiment_id: str
    experiment: str
    every: int = 1
    hooks: Hooks = field(default_factory=Hooks)
    replica: Replica | None = None
    tags: Texts = field(default_factory=dict)

    @cached_property
    def writer(self) -> DatabaseWriter:
        """Writes runs. A server has none: it is written to through a local record."""
        store = self.client._tracking_client.store  # MLflow gives no other way to the engine that it writes with
        assert isinstance(store, SqlAlchemyStore), "a tracking server is written to through a local record"
        return DatabaseWriter(self.client, store, self.hooks, MARK if self.replica else None)

    def public_id(self, run_id: str) -> str:
        """Return the id of a run for users: on the server where it is there, else in this store."""
        return self.replica.server_id(run_id) if self.replica else run_id

    def own_id(self, run_id: str) -> str:
        """Return the id that a run has in this store, given one that `public_id` returned, now or earlier."""
        return self.replica.local_id(run_id) if self.replica else run_id

    @property
    def public_experiment_id(self) -> str:
        """The id of the experiment for users: on the server if there is one."""
        return self.replica.experiment_id if self.replica else self.experiment_id

    def holds(self, run_id: str) -> bool:
        """Return whether the experiment has a run that is not deleted."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return False
        return run.info.experiment_id == self.experiment_id and run.info.lifecycle_stage == "active"

    def steps(self, run_id: str, since: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return the recorded steps of each metric of a run, int64 [n] in any order.

        Args:
            since: key -> the first step to return; all steps of metrics that it does not name.
        """
        return self.writer.steps(run_id, since)

    def create(self, name: str, tags: Texts, params: Texts, files: Files | None = None, removed: str = "") -> str:
        """Create a run with the tags of the store and these, with texts of any length, and return its id.

        A deleted experiment is restored before.

        Args:
            removed: id of a run that this one replaces; it was removed from the database. The new run gets the same id.

        Raises:
            RemovedError: if the experiment was removed, or `removed` cannot be replaced.
        """
        name, params = run_name(name), split(params, MAX_PARAM_VAL_LENGTH)
        tags = split({**self.tags, **tags}, MAX_TAG_VAL_LENGTH)
        of_run = (self.experiment_id, name, tags, params, files)
        if not removed:
            return self._restoring(lambda: self.writer.create(*of_run), self._restore_experiment)
        return self._restoring(lambda: self.writer.create(*of_run, run_id=removed), self._restore_experiment)

    def write(self, changes: Sequence[Change]) -> None:
        """Write changes, with texts of any length. A run that was deleted in MLflow is restored before; that is said.

        Raises:
            RemovedError: if a run does not exist any more; nothing is written.
        """
        changes = [replace(change, tags=split(change.tags, MAX_TAG_VAL_LENGTH)) for change in changes]
        runs = [change.run_id for change in changes]
        self._restoring(lambda: self.writer.write(changes), lambda: self._restore_runs(runs))

    def attach(self, run_id: str, files: Files) -> None:
        """Store files as artifacts of a run; they replace those of the same name.

        Raises:
            RemovedError: if the run does not exist any more.
        """
        self._restoring(lambda: self.writer.attach(run_id, files), lambda: self._restore_runs([run_id]))

    def _restoring(self, call: Callable[[], T], restore: Callable[[], bool]) -> T:
        """Call a function; if it fails and `restore` restores something, call it once more."""
        try:
            return call()
        except (MlflowException, NoResultFound) as error:
            if any(isinstance(cause, LeaseLostError | UnavailableError) for cause in causes(error)) or not restore():
                raise
        return call()

    def _restore_runs(self, run_ids: Sequence[str]) -> bool:
        """Restore the runs that were deleted; return whether there were any.

        Raises:
            RemovedError: names the first run that does not exist any more.
        """
        deleted = []
        for run_id in run_ids:
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                    raise
                raise RemovedError(run_id) from error
            if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
                deleted.append(run)
        if deleted and self._restore_experiment():
            return True  # with all its runs
        for run in deleted:
            self.client.restore_run(run.info.run_id)
            self.hooks.say(f"run {run.info.run_name} was deleted in MLflow while it is written to: it is restored")
        return bool(deleted)

    def _restore_experiment(self) -> bool:
        """Restore the experiment and its runs if it was deleted; return whether it was.

        Raises:
            RemovedError: if it does not exist any more.
        """
        try:
            experiment = self.client.get_experiment(self.experiment_id)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            raise RemovedError(self.experiment, "experiment") from error
        if experiment.lifecycle_stage == LifecycleStage.ACTIVE:
            return False
        self.client.restore_experiment(self.experiment_id)
        self.hooks.say(f"experiment {self.experiment} was deleted in MLflow while it is written to: it is restored")
        return True

    def run(self, run_id: str) -> Run:
        """Return a run, with its params and tags as they were given to `create` and `write`."""
        return joined_run(self.client.get_run(run_id))

    def search(self, tags: Mapping[str, str]) -> list[Run]:
        """Return all active runs with these tags, newest first. MLflow cannot quote an apostrophe in a value."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], wanted, ViewType.ACTIVE_ONLY, 1000, page_token=token)
            runs += map(joined_run, page)
            token = page.token
            if not token:
                return runs


def numbered(runs: Iterable[Run], key: str) -> list[tuple[int, Run]]:
    """Return runs with the number that each has in a tag; without those whose tag was edited and is no number."""
    return [(int(run.data.tags[key]), run) for run in runs if run.data.tags.get(key, "").isdecimal()]


def _check(config: TrackingConfig) -> None:
    """Refuse a tracking URI that cannot be used. A database that does not exist yet is not created.

    Raises:
        InvalidValueError: names tracking.uri.
    """
    if is_database(config.uri):
        check_database("tracking.uri", config.uri, table="experiments")
        _check_version(config.uri)
        return
    check_clear_text(config.uri)
    try:
        _ask_thrice(config.uri)
    except Exception as error:  # MLflow raises its own, requests' and the plug-ins' types
        raise InvalidValueError("tracking.uri", config.uri, f"cannot be used: {reason_of(error)}") from error


def _ask_thrice(uri: str) -> None:
    """Send a server a request. MLflow's client would retry for minutes."""
    server = Server(uri)
    for tries_left in (2, 1, 0):
        try:
            server.ask(lambda store: store.search_experiments(max_results=1))
            return
        except NoAnswerError:
            if not tries_left:
                raise


@cache
def _our_versions() -> tuple[str, ...]:
    """Return all versions that the tables of MLflow have had, the newest first, which is that of this MLflow."""
    scripts = ScriptDirectory.from_config(_get_alembic_config("sqlite://"))  # type: ignore[no-untyped-call]
    return tuple(script.revision for script in scripts.walk_revisions())


def _check_version(uri: str) -> None:
    """Refuse a database that another version of MLflow has written. MLflow would upgrade some of them without asking.

    Raises:
        InvalidValueError: names tracking.uri, and how to upgrade the database.
    """
    version = schema_version(uri)
    if version is None or version == (ours := _our_versions()[0]):
        return
    if version in _our_versions():
        how = f"make a copy of it, then upgrade it with: mlflow db upgrade {uri}"
        rule = f"has the tables of an older MLflow (version {version}; MLflow {VERSION} has {ours}); {how}"
    else:
        how = "install that MLflow, or choose another tracking.uri"
        rule = f"has the tables of a newer MLflow (version {version}; MLflow {VERSION} has {ours}); {how}"
    raise InvalidValueError("tracking.uri", uri, rule)


@overload
def open_store(config: TrackingConfig, *, record: Path | None = None, hooks: Hooks | None = None) -> Store: ...
@overload
def open_store(
    config: TrackingConfig, *, create: bool, record: Path | None = None, hooks: Hooks | None = None
) -> Store | None: ...
def open_store(
    config: TrackingConfig, *, create: bool = True, record: Path | None = None, hooks: Hooks | None = None
) -> Store | None:
    """Open the store of a configuration, with its database and experiment.

    Args:
        create: whether to create what is missing; else None is returned where it is missing.
        record: the folder of the local record of a server; ignored for a database. Without it, a server can only be
            read. With `create`, the store has a Replica, which is neither compared nor started yet; without, the store
            is that of the local record if there is one, else that of the server.
        hooks: for the time during which the store cannot be written to.

    Raises:
        InvalidValueError: names tracking.uri or tracking.experiment.
        UnavailableError: if another program has locked the database, and the command was interrupted.
        StorageFullError: if the disk is full.
        RecordInUseError: if another process uses the local record.
    """
    if record is not None and not is_database(config.uri):
        return _open_record(config, create, record, hooks or Hooks())
    return _open(config, create, hooks or Hooks())


def _open_record(config: TrackingConfig, create: bool, folder: Path, hooks: Hooks) -> Store | None:
    """Open the local record of a server."""
    file = folder.resolve() / RECORD_FILE
    known = file.exists()
    server = _open(config, create, hooks)  # refused before anything is created here
    if not create and not known:
        return server
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    local = _open(replace(config, uri=f"sqlite:///{file}"), True, hooks, artifacts=file.parent / ROOT)
    if server is None or local is None or not create:
        return local
    store = local.client._tracking_client.store
    replica = Replica(Server(config.uri), server.experiment_id, store, local.writer, local.experiment_id, folder, hooks)
    return replace(local, replica=replica)


def _open(config: TrackingConfig, create: bool, hooks: Hooks, artifacts: Path | None = None) -> Store | None:
    """Open a database or a server.

    Args:
        artifacts: the folder for the artifacts of a new experiment; None for MLflow's default.
    """
    file = file_of(config.uri)
    patiently = hooks.lock_retry(f"the database {file}")
    patiently(lambda: _check(config))
    if not create and file is not None and not file.exists():
        return None
    if file is not None and file.exists() and (moved := patiently(lambda: relocate_artifacts(file))):
        hooks.say(moved)
    try:
        client = patiently(lambda: _client(config.uri, file))
        if file is not None:
            wait_for_locks(client._tracking_client.store, hooks)
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None and not create:
            return None
        if experiment is None:
            experiment_id = _create(client, config.experiment, artifacts)
        else:
            experiment_id = experiment.experiment_id
    except (MlflowException, CommandError) as error:
        if any(isinstance(cause, UnavailableError) for cause in causes(error)):
            raise
        raise InvalidValueError("tracking.uri", config.uri, f"cannot be used: {reason_of(error)}") from error
    if experiment is not None and experiment.lifecycle_stage != "active":
        rule = "was deleted in MLflow; restore it (mlflow experiments restore) or name another"
        raise InvalidValueError("tracking.experiment", config.experiment, rule)
    if create and file is not None:
        sqlite3.connect(file, factory=WriteAheadConnection).close()  # the file keeps the mode
    return Store(client, experiment_id, config.experiment, config.every, hooks, tags=config.tags or {})


def _create_database(file: Path) -> None:
    """Create a database with MLflow's tables."""
    create_file(file, lambda uri: MlflowClient(tracking_uri=uri)._tracking_client.store.engine.dispose())


def _client(uri: str, file: Path | None) -> MlflowClient:
    """Return a client with an open store. MLflow creates the tables of a database that has none."""
    if file is None:
        return MlflowClient(tracking_uri=uri)
    created = not file.exists()
    if created:
        _create_database(file)
    client = MlflowClient(tracking_uri=f"sqlite:///{file.absolute()}")
    if created:  # MLflow keeps the engine of a path: its connections may be to a file that was deleted since
        client._tracking_client.store.engine.dispose()
    atexit.register(client._tracking_client.store.engine.dispose)  # the last to close it takes the log into the file
    return client


def _create(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    """Create an experiment. MLflow's client retries after a lost reply: the experiment may exist already.

    Args:
        artifacts: where the experiment of a local record keeps artifacts; it also gets the id of the record.
    """
    try:
        if artifacts is not None:
            return str(client.create_experiment(name, str(artifacts / "0"), {RECORD_TAG: uuid.uuid4().hex}))
        return str(client.create_experiment(name))
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)
