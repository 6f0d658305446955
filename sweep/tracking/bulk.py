"""Runs written at once: into a database, in one transaction with its own bulk insert."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, RunStatus, SourceType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.tracking.dbmodels.models import (
    SqlExperiment,
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER
from mlflow.utils.uri import append_to_uri_path
from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag
from sqlalchemy import Connection, Executable, bindparam, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from sweep.tracking.locks import Hooks, name_of

T = TypeVar("T")

ROWS_AT_ONCE = 20_000
"""Rows that are Python objects at the same time, on their way from an array into a database."""

HIGHEST = float(np.finfo(np.float64).max)
"""What MLflow stores of infinity in a database."""

EXPERIMENTS, RUNS, TAGS, PARAMS = SqlExperiment.__table__, SqlRun.__table__, SqlTag.__table__, SqlParam.__table__
METRICS, LATEST = SqlMetric.__table__, SqlLatestMetric.__table__
COLUMNS = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")

# Built once: it takes SQLAlchemy longer to build a statement than SQLite to carry it out.
EXPERIMENT = select(EXPERIMENTS).where(EXPERIMENTS.c.experiment_id == bindparam("of"))
STAGE = select(RUNS.c.lifecycle_stage).where(RUNS.c.run_uuid == bindparam("of"))
PLACE = select(RUNS.c.artifact_uri).where(RUNS.c.run_uuid == bindparam("of"))
KEYS = select(LATEST.c.key).where(LATEST.c.run_uuid == bindparam("of"))
STEPS = select(METRICS.c.step).where(
    METRICS.c.run_uuid == bindparam("of"), METRICS.c.key == bindparam("which"), METRICS.c.step >= bindparam("first")
)
LAST = select(LATEST).where(LATEST.c.run_uuid == bindparam("of")).with_for_update()
ADD_RUN, ADD_TAGS, ADD_PARAMS, ADD_LATEST = map(insert, (RUNS, TAGS, PARAMS, LATEST))
OF_RUN = update(RUNS).where(RUNS.c.run_uuid == bindparam("of"))
SET_STATUS = OF_RUN.values(status=bindparam("is"), end_time=bindparam("at"))
KILL = OF_RUN.where(RUNS.c.status == "RUNNING").values(status="KILLED", end_time=bindparam("at"))
DELETE = OF_RUN.values(lifecycle_stage=LifecycleStage.DELETED, deleted_time=bindparam("at"))
DROP_TAG = delete(TAGS).where(TAGS.c.run_uuid == bindparam("of"), TAGS.c.key == bindparam("which"))
DROP_LATEST = delete(LATEST).where(LATEST.c.run_uuid == bindparam("of"), LATEST.c.key == bindparam("which"))

Latest = tuple[int, int, float, bool]
"""Step, time, value of a metric's last point; whether it is no number."""

Texts = Mapping[str, str]
Files = Mapping[str, bytes]
"""Name -> contents."""


@dataclass(frozen=True)
class Points:
    """Points of one metric.

    Args:
        key: its name.
        steps: int64 [n].
        times: int64 [n], milliseconds since 1970.
        values: float64 [n]; NaN is kept as NaN, infinity as the largest number.
    """

    key: str
    steps: np.ndarray
    times: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps, times, values."""
        return self.steps, self.times, self.values

    def at(self, index: np.ndarray | slice) -> "Points":
        """Some of the points."""
        return Points(self.key, self.steps[index], self.times[index], self.values[index])


def point(key: str, step: int, at: int, value: float) -> Points:
    """Return one point of a metric."""
    return Points(key, np.array([step]), np.array([at]), np.array([value], dtype=np.float64))


def joined(parts: Sequence[Points]) -> Points:
    """Points of one metric after one another."""
    columns = zip(*(part.columns for part in parts), strict=True)
    return Points(parts[0].key, *map(np.concatenate, columns))


@dataclass(frozen=True)
class Change:
    """What is written of a run.

    Args:
        points: at most one of each metric; none of them is in the record yet.
        tags: replace those of the same name.
        status: MLflow's. FINISHED, FAILED and KILLED end the run, now; RUNNING opens it again: it has no end.
    """

    run_id: str
    points: Sequence[Points] = ()
    tags: Texts = field(default_factory=dict)
    status: str | None = None


class DatabaseWriter:
    """Writes MLflow's own tables with SQLAlchemy Core: `log_batch` makes an object of every row, at 70 µs each.

    Each call is one transaction on MLflow's own engine: all of it is written, or nothing. The tables contain what
    `create_run`, `log_batch`, `set_terminated`, `set_tag` and `delete_run` would leave. MLflow's session is not used,
    because it executes three PRAGMA statements in each transaction; `wait_for_locks` sets them once per connection.

    Args:
        store: of the client.
        hooks: for the time during which another program has locked the database.
        mark: statement with the parameter `of`, which every transaction executes for each run that it changes.

    Each call raises UnavailableError if it was interrupted while it waited, StorageFullError if the disk is full.
    """

    def __init__(
        self,
        client: MlflowClient,
        store: SqlAlchemyStore,
        hooks: Hooks | None = None,
        mark: Executable | None = None,
    ) -> None:
        self._client, self._engine, self._hooks = client, store.engine, hooks or Hooks()
        self._name, self._mark = name_of(store), mark
        self._insert = insert(METRICS).compile(dialect=store.engine.dialect)

    def create(
        self,
        experiment_id: str,
        name: str,
        tags: Texts,
        params: Texts,
        files: Files | None = None,
        run_id: str | None = None,
    ) -> str:
        """Create a run with status RUNNING and return its id.

        Args:
            run_id: its id; None for a new one.
        """
        of_run = run_id or uuid.uuid4().hex
        uri = self._transact([of_run], lambda to: self.insert_run(to, experiment_id, of_run, name, tags, params))
        if files:
            self._keep(of_run, uri, files)
        return of_run

    def insert_run(
        self, connection: Connection, experiment_id: str, run_id: str, name: str, tags: Texts, params: Texts
    ) -> str:
        """Insert a run in a transaction of the caller and return the location of its artifacts."""
        checked = [_validate_param(*param) for param in params.items()]  # type: ignore[no-untyped-call]
        found = connection.execute(EXPERIMENT, {"of": int(experiment_id)}).one()
        _refuse_deleted("experiment", experiment_id, found.lifecycle_stage)
        run = {
            "run_uuid": run_id,
            "name": name,
            "source_type": SourceType.to_string(SourceType.UNKNOWN),
            "source_name": "",
            "entry_point_name": "",
            "user_id": tags.get(MLFLOW_USER, "unknown"),
            "status": RunStatus.to_string(RunStatus.RUNNING),
            "start_time": now_ms(),
            "source_version": "",
            "lifecycle_stage": LifecycleStage.ACTIVE,
            "artifact_uri": append_to_uri_path(  # type: ignore[no-untyped-call]
                found.artifact_location, run_id, SqlAlchemyStore.ARTIFACTS_FOLDER_NAME
            ),
            "experiment_id": found.experiment_id,
        }
        connection.execute(ADD_RUN, run)
        of_run = {**tags, MLFLOW_RUN_NAME: name}
        connection.execute(ADD_TAGS, [_row(run_id, key=k, value=v) for k, v in of_run.items()])
        if checked:
            connection.execute(ADD_PARAMS, [_row(run_id, key=p.key, value=p.value) for p in checked])
        return str(run["artifact_uri"])

    def write(self, changes: Sequence[Change]) -> None:
        """Write changes of active runs, each of a different run."""
        self._transact([change.run_id for change in changes], lambda connection: self.apply(connection, changes))

    def apply(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Write changes in a transaction of the caller."""
        for change in changes:
            stage = connection.execute(STAGE, {"of": change.run_id}).scalar_one()
            _refuse_deleted("run", change.run_id, stage)
            if change.status is not None:
                at = None if change.status == "RUNNING" else now_ms()
                connection.execute(SET_STATUS, {"of": change.run_id, "is": change.status, "at": at})
            stored = [_stored(points) for points in change.points if len(points)]
            self._write_points(connection, change.run_id, stored)
            _write_latest(connection, change.run_id, {one.points.key: one.latest for one in stored})
            _write_tags(connection, change.run_id, change.tags)

    def _transact(self, run_ids: Sequence[str], transaction: Callable[[Connection], T]) -> T:
        """Execute one transaction and mark its runs; it is started again while the database is locked.

        Raises:
            MlflowException: from the error of the database.
        """
        retry = self._hooks.lock_retry(self._name)

        def once() -> T:
            try:
                with self._engine.begin() as connection:
                    if retry.over and self._engine.dialect.name == "sqlite":
                        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
                    result = transaction(connection)
                    if self._mark is not None and run_ids:
                        connection.execute(self._mark, [{"of": run_id} for run_id in run_ids])
                    return result
            except SQLAlchemyError as error:
                raise MlflowException(str(error)) from error

        return retry(once)

    def attach(self, run_id: str, files: Files) -> None:
        """Store files as artifacts of a run; they replace those of the same name."""
        uri = self._transact([], lambda connection: connection.execute(PLACE, {"of": run_id}).scalar_one())
        self._keep(run_id, uri, files)

    def delete(self, run_id: str) -> None:
        """Delete a run that must not count; a RUNNING one is ended as KILLED."""

        def transaction(connection: Connection) -> None:
            connection.execute(KILL, {"of": run_id, "at": now_ms()})
            connection.execute(DELETE, {"of": run_id, "at": now_ms()})

        self._transact([run_id], transaction)

    def steps(self, run_id: str, since: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return the recorded steps of each metric; see Store.steps."""

        def transaction(connection: Connection) -> dict[str, np.ndarray]:
            found = {}
            for key in connection.execute(KEYS, {"of": run_id}).scalars().all():
                of = {"of": run_id, "which": key, "first": since.get(key, 0)}
                found[key] = np.array(connection.execute(STEPS, of).scalars().all(), dtype=np.int64)
            return found

        return self._transact([], transaction)

    def _keep(self, run_id: str, uri: str, files: Files) -> None:
        """Store the files of a run.

        Raises:
            OSError: names the location if the disk is full.
        """
        try:
            self._log(uri, files)
        except OSError as error:
            error.filename = error.filename or uri
            raise
        if self._mark is not None:
            self._transact([run_id], lambda connection: None)

    def _log(self, uri: str, files: Files) -> None:
        repository = get_artifact_repository(uri, tracking_uri=self._client.tracking_uri)
        if isinstance(repository, LocalArtifactRepository):
            for name, content in files.items():
                folder, _, file = name.rpartition("/")
                repository.log_artifact_from_stream(BytesIO(content), file, folder or None)
        else:
            with folder_of(files) as folder:
                repository.log_artifacts(folder)  # type: ignore[no-untyped-call]

    def _write_points(self, connection: Connection, run_id: str, stored: Sequence["_Stored"]) -> None:
        """Given to the driver as they are: there is nothing in them that SQLAlchemy would have to convert."""
        names = self._insert.positiontup or COLUMNS
        rows = chain.from_iterable(part for one in stored for part in one.rows(run_id, names))
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            given = batch if self._insert.positional else [dict(zip(names, row, strict=True)) for row in batch]
            connection.exec_driver_sql(str(self._insert), given)


def now_ms() -> int:
    """MLflow's time: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class _Stored:
    """Points as they stand in a database: once each, with a number where there is none.

    Args:
        nan: bool [n]; there the value is 0.
    """

    points: Points
    nan: np.ndarray

    def rows(self, run_id: str, names: Sequence[str]) -> Iterator[Iterator[tuple[Any, ...]]]:
        """Yield the rows of the table metrics in blocks, with its columns in this order."""
        for first in range(0, len(self.points), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            points = self.points.at(part)
            columns = {
                "key": repeat(points.key),
                "value": points.values.tolist(),
                "timestamp": points.times.tolist(),
                "step": points.steps.tolist(),
                "is_nan": self.nan[part].tolist(),
                "run_uuid": repeat(run_id),
            }
            yield zip(*(columns[name] for name in names), strict=False)

    @property
    def latest(self) -> Latest:
        """MLflow's rule: the greatest step, of these the greatest time, of these the greatest value."""
        points = self.points
        last = np.lexsort((points.values, points.times, points.steps))[-1]
        row = (points.steps[last], points.times[last], points.values[last], self.nan[last])
        step, at, value, nan = (entry.item() for entry in row)
        return step, at, value, nan


def _stored(points: Points) -> _Stored:
    _validate_metric(points.key, float(points.values[0]), int(points.times.min()), int(points.steps[0]))  # type: ignore[no-untyped-call]
    nan = np.isnan(points.values)
    values = np.nan_to_num(points.values, nan=0.0, posinf=HIGHEST, neginf=-HIGHEST)
    clean = Points(points.key, points.steps, points.times, values)
    if (np.diff(points.steps) > 0).all():
        return _Stored(clean, nan)
    rows = np.rec.fromarrays([points.steps, points.times, values, nan])
    first = np.sort(np.unique(rows, return_index=True)[1])
    return _Stored(clean.at(first), nan[first])


def _write_latest(connection: Connection, run_id: str, latest: Mapping[str, Latest]) -> None:
    """Take the latest point of each metric, where it is later than the one that is known."""
    found = connection.execute(LAST, {"of": run_id}) if latest else ()
    known = {row.key: (row.step, row.timestamp, row.value) for row in found}
    newer = {key: row for key, row in latest.items() if key not in known or row[:3] > known[key]}
    if newer:
        if replaced := newer.keys() & known.keys():
            connection.execute(DROP_LATEST, [{"of": run_id, "which": key} for key in sorted(replaced)])
        names = ("step", "timestamp", "value", "is_nan")
        rows = [_row(run_id, key=key, **dict(zip(names, row, strict=True))) for key, row in newer.items()]
        connection.execute(ADD_LATEST, rows)


def _write_tags(connection: Connection, run_id: str, tags: Texts) -> None:
    checked = [_validate_tag(*tag) for tag in tags.items()]  # type: ignore[no-untyped-call]
    if checked:
        connection.execute(DROP_TAG, [{"of": run_id, "which": tag.key} for tag in checked])
        connection.execute(ADD_TAGS, [_row(run_id, key=tag.key, value=tag.value) for tag in checked])


def _row(run_id: str, **columns: Any) -> dict[str, Any]:
    return {"run_uuid": run_id, **columns}


def _refuse_deleted(what: str, which: str, stage: str) -> None:
    if stage != LifecycleStage.ACTIVE:
        raise MlflowException(f"The {what} {which} must be active to be written to; it is {stage}.")


@contextmanager
def folder_of(files: Files) -> Iterator[str]:
    """A folder with these files for the duration of a with block."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield folder
