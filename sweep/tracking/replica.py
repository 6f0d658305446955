"""Brings a tracking server up to date with a local record, in a thread, and restores the record from the server."""

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunStatus, RunTag, ViewType
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH
from sqlalchemy import Engine, text

from sweep.database import lost_lease
from sweep.errors import RecordInUseError, UnavailableError
from sweep.folder_lock import FolderLockedError, locked_folder
from sweep.plurals import plural
from sweep.tracking.bulk import Change, DatabaseWriter, Points, now_ms
from sweep.tracking.locks import Hooks
from sweep.tracking.server import NoAnswerError, RefusedError, Server, text_batches
from sweep.tracking.texts import joined, split

T = TypeVar("T")
Request = Callable[[Any], T]
"""One request of one of MLflow's stores, which have no types."""

RECORD_TAG = "sweep.record"
"""Tag of a run on the server: the id of the local record that wrote it last, and the id that the run has there."""
RUN_ID = re.compile(r"[0-9a-f]{32}")

TABLE = """CREATE TABLE IF NOT EXISTS sweep_replica (
    run_uuid VARCHAR(32) PRIMARY KEY,
    version INTEGER NOT NULL DEFAULT 1,
    sent INTEGER NOT NULL DEFAULT 0,
    server_run VARCHAR(32),
    points INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT '{}'
)"""
"""For each run of the local record: how often it was changed; the version that the server has; its id on the server;
the `rowid` of the last point that the server has; the tags, status, params and files that the server has."""
MARK = text(
    "INSERT INTO sweep_replica (run_uuid) VALUES (:of) ON CONFLICT (run_uuid) DO UPDATE SET version = version + 1"
)
ENTRIES = text("SELECT run_uuid, version, sent, server_run, points, state FROM sweep_replica ORDER BY rowid")
CHANGED = text("SELECT run_uuid, version FROM sweep_replica WHERE version > sent ORDER BY rowid")
SAVE = text(
    "INSERT INTO sweep_replica VALUES (:run_id, :version, :sent, :server_run, :points, :state) ON CONFLICT (run_uuid)"
    " DO UPDATE SET sent = :sent, server_run = :server_run, points = :points, state = :state"
)
POINTS = text(
    "SELECT rowid, key, value, timestamp, step, is_nan FROM metrics"
    " WHERE run_uuid = :of AND rowid > :after ORDER BY rowid LIMIT 1000"
)
LAST_POINT = text("SELECT max(rowid) FROM metrics WHERE run_uuid = :of")
LATEST = text("SELECT run_uuid, key, step FROM latest_metrics")
ROOTS = text(
    "SELECT run_uuid, value FROM tags WHERE key = 'sweep.kind'"
    " AND run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId')"
)
TIMES = text("UPDATE runs SET status = :status, start_time = :start, end_time = :end WHERE run_uuid = :of")
PURGES = [
    text(f"DELETE FROM {name} WHERE run_uuid = :of") for name in ("latest_metrics", "metrics", "params", "tags", "runs")
]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0
"""Between two tries; the pause doubles after each."""
SETTLING_PAUSE_SECONDS = 1.0
"""The longest pause while someone waits."""
POLL_SECONDS = 0.1
"""Between two looks for runs that have changed."""
SAID_AFTER_SECONDS = 5.0
"""Without an answer, after which a message says so."""
START_PATIENCE_SECONDS = 60.0
"""How long a server may not answer while the local record is compared with it."""
LOCK_PATIENCE_SECONDS = 5.0
"""In which a process that was killed may end."""


@dataclass
class _Entry:
    """A run of the local record, and what is known of it on the server.

    Args:
        points: `rowid` of the last row of the table `metrics` that the server has.
        state: what the server has: `tags`, `status`, `params` (whether), `files` (name -> size and time of change).
    """

    run_id: str
    version: int = 1
    sent: int = 0
    server_run: str | None = None
    points: int = 0
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, object]:
        """The parameters of SAVE."""
        return {**vars(self), "state": json.dumps(self.state)}

    def forget_server(self) -> None:
        """Compare everything with the server again."""
        self.sent, self.points, self.state = -1, 0, {}


class Replica:
    """A tracking server as the replica of a local record.

    Every change of the local record marks its run in the same transaction. A thread sends what the server lacks of a
    marked run: what is not known to be there. After a request without an answer, and after a restart, it asks for the
    points that the server has of the run and sends the others, so that each step is recorded once. A run is found again
    by the tag RECORD_TAG before it is created again. If a request that was given up creates a run later, that run is
    deleted, when the caller waits for the end or at the next start.

    A run on the server belongs to the record that wrote it last. `pull` imports the runs that another record wrote, and
    all runs where the local record is missing.

    Run ids differ on the server; `server_id` and `local_id` translate them, and so does what is sent.

    Args:
        server: the replica.
        experiment_id: on the server.
        local: MLflow's store of the local record.
        writer: of the local record, without MARK: what the server has is not sent to it.
        local_experiment: its experiment in the local record.
        folder: of the local record; one process at a time uses it.
        hooks: told when the server does not answer, when it answers again, and what it refuses.

    Raises:
        RecordInUseError: if another process uses the folder.
    """

    def __init__(
        self,
        server: Server,
        experiment_id: str,
        local: Any,
        writer: DatabaseWriter,
        local_experiment: str,
        folder: Path,
        hooks: Hooks,
    ) -> None:
        self.server, self.experiment_id, self.folder = server, experiment_id, folder
        self._local, self._writer, self._local_experiment, self.hooks = local, writer, local_experiment, hooks
        self._engine: Engine = local.engine
        self.record_id = local.get_experiment(local_experiment).tags[RECORD_TAG]
        self._lock = ExitStack()
        try:
            self._lock.enter_context(locked_folder(folder, LOCK_PATIENCE_SECONDS))
        except FolderLockedError as error:
            rule = "and brings the tracking server up to date; wait until it ends, or stop it"
            raise RecordInUseError(f"{error} uses the local record in {folder} {rule}") from error
        with self._engine.begin() as connection:
            connection.execute(text(TABLE))
            rows = connection.execute(ENTRIES).all()
        self._entries = {
            run_id: _Entry(run_id, version, sent, server_run, points, json.loads(state))
            for run_id, version, sent, server_run, points, state in rows
        }
        self._local_ids = {entry.server_run: entry.run_id for entry in self._entries.values() if entry.server_run}
        self._checks: list[Callable[[], None]] = []
        self._refused: dict[str, int] = {}
        """Runs of which something was refused, with the version that was sent; they are tried again once changed."""
        self._asked: set[str] = set()
        """Runs that this process has asked the server to create."""
        self._doubtful: set[str] = set()
        """Runs of them that may be created twice, because a request had no answer."""
        self._unchecked: set[str] = set()
        """Runs of which it is to be checked whether they were created twice."""
        self._certain: set[str] = set()
        """Runs whose `points` is exact: no request with points of them is without an answer."""
        self._on_server: dict[str, dict[str, set[int]]] = {}
        """Of other runs: the steps of each metric that the server has."""
        self._tried = 0
        """Requests without an answer since the last answer."""
        self._silent_since: float | None = None
        self._progress = time.monotonic()
        self._said = self._settling = False
        self._closed, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # Called by the owner of the record

    def start(self) -> None:
        """Start to send what the server lacks."""
        self._unchecked |= self._doubtful  # of an earlier process
        self._thread = threading.Thread(target=self._work, name="replica", daemon=True)
        self._thread.start()

    def fence(self, check: Callable[[], None]) -> Callable[[], None]:
        """Call `check` before each request; if it raises LeaseLostError, nothing more is sent by this process.

        Returns:
            A function that removes the check.
        """
        self._checks.append(check)
        return lambda: self._checks.remove(check)

    def server_id(self, run_id: str) -> str:
        """Return the id of a run on the server; the local id where the run is not there yet."""
        entry = self._entries.get(run_id)
        return run_id if entry is None or entry.server_run is None else entry.server_run

    def local_id(self, server_run: str) -> str:
        """Return the local id of a run on the server; the argument itself if it is no such run."""
        return self._local_ids.get(server_run, server_run)

    @property
    def waiting(self) -> int:
        """Return the number of runs that the server lacks, or has in an older state; without those that it refuses."""
        return len(self._changed())

    def settle(self, patience: float, interrupted: Callable[[], bool] = lambda: False) -> int:
        """Wait until the server is up to date; return how many runs are not.

        Args:
            patience: seconds without any progress after which to stop waiting.
            interrupted: asked meanwhile; if true, stop waiting.
        """
        self._unchecked |= self._doubtful  # a late request may have been carried out since
        self._progress, self._settling = time.monotonic(), True
        self._wake.set()
        while (left := self.waiting) or self._unchecked:
            if self._closed.is_set() or interrupted() or time.monotonic() - self._progress > patience:
                break
            self._closed.wait(0.05)
        self._settling = False
        return left

    def close(self) -> None:
        """Stop sending, and let another process use the record. A request in progress ends in the background."""
        self._closed.set()
        self._wake.set()
        if self._thread is None:
            self._lock.close()
        else:
            self._thread.join(5)

    def pull(self, kind: str, wanted: Callable[[Run], bool], interrupted: Callable[[], bool] = lambda: False) -> None:
        """Compare the local record with the server, before `start`: import what others wrote, and what is missing here.

        A run that was deleted on the server is deleted here. A run that the server does not have any more, or of which
        it has less than it was sent, is sent again.

        Args:
            kind: of the runs without a parent (tag `sweep.kind`).
            wanted: which of them belong to the record; so do all runs below them.

        Raises:
            UnavailableError: if the server does not answer.
        """

        def ask(call: Request[T]) -> T:
            return self._insist(call, interrupted)

        listed, queue = [], [run for run in self._list(ask, f"tags.`sweep.kind` = '{kind}'") if wanted(run)]
        while queue:
            listed.append(run := queue.pop(0))
            if run.data.tags.get("sweep.kind") in ("study", "comparison"):
                queue += self._list(ask, f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
        own, used = dict[str, str](), set[str]()
        for run in listed:
            run_id = self._own_id(run)
            taken = run_id not in self._entries and run_id in used  # a late request created one of the two
            own[run.info.run_id] = run.info.run_id if taken else run_id
            used.add(run_id)
        self._local_ids = own | self._local_ids
        steps: dict[str, dict[str, int]] = {}
        with self._engine.connect() as connection:
            for run_id, key, step in connection.execute(LATEST):
                steps.setdefault(run_id, {})[key] = step
        foreign = [run for run in listed if self._reconcile(run, own[run.info.run_id], steps, ask)]
        if len(foreign) > 1:
            self.hooks.say(f"importing {plural(len(foreign), 'run')} from {self.server.name} into {self.folder}")
        for run in foreign:
            self._import(run, own[run.info.run_id], ask)
        self._local_ids = {entry.server_run: entry.run_id for entry in self._entries.values() if entry.server_run}
        for entry in self._entries.values():
            if entry.server_run and entry.server_run not in own and entry.sent >= 0:
                self._check_exists(entry, ask)

    def pull_known(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Compare all of the local record with the server, as `pull` does."""
        with self._engine.connect() as connection:
            roots = {str(run_id): str(kind) for run_id, kind in connection.execute(ROOTS)}
        for kind in sorted(set(roots.values())):
            self.pull(kind, lambda run: self._own_id(run) in roots, interrupted)

    # Comparing the record with the server

    def _own_id(self, run: Run) -> str:
        """Return the id that a run of the server has, or would have, in the local record."""
        _, _, named = run.data.tags.get(RECORD_TAG, "").partition(" ")
        default = named if RUN_ID.fullmatch(named) else run.info.run_id
        return self._local_ids.get(run.info.run_id, default)

    def _reconcile(self, run: Run, run_id: str, steps: dict[str, dict[str, int]], ask: Callable[..., Any]) -> bool:
        """Compare a run with the local one; return whether it is to be imported."""
        entry, tags = self._entries.get(run_id), run.data.tags
        mine = tags.get(RECORD_TAG, "").startswith(f"{self.record_id} ")
        deleted = run.info.lifecycle_stage != LifecycleStage.ACTIVE
        if entry is None:
            return not deleted
        if entry.server_run is None and not deleted:  # created by a request whose answer was lost
            entry.server_run = run.info.run_id
            entry.forget_server()
            self._save(entry)
        if entry.server_run != run.info.run_id:
            if mine and not deleted:  # created twice, by a request that was carried out late
                self._doubtful.add(run_id)
            return False
        clean = entry.sent >= entry.version
        there = {metric.key: metric.step for metric in run.data._metric_objs}
        here = steps.get(run_id, {})
        ahead = any(key not in here or step > here[key] for key, step in there.items())
        if mine and not deleted:
            lost = entry.state.get("tags", {}).keys() - tags.keys()
            if clean and (lost or any(key not in there or step > there[key] for key, step in here.items())):
                entry.forget_server()
                self._save(entry)
            return clean and ahead  # a copy of this record has written it
        if not clean and "sweep.status" in self._local.get_run(run_id).data.tags and "sweep.status" not in tags:
            return False  # it has ended here, and the other process did not know
        if deleted:
            self._writer.delete(run_id)
            return False
        return bool(ahead or tags != entry.state.get("tags"))

    def _check_exists(self, entry: _Entry, ask: Callable[..., Any]) -> None:
        """Send a run again if the server does not have it any more."""
        server_run = entry.server_run
        try:
            ask(lambda store: store.get_run(server_run))
        except RefusedError:
            self._recreate(entry)

    def _import(self, run: Run, run_id: str, ask: Callable[..., Any]) -> None:
        """Replace a run of the local record by the one of the server, in one transaction."""
        points = []
        for key in run.data.metrics:
            history = self._history(ask, run.info.run_id, key)
            columns = [(point.step, point.timestamp) for point in history]
            at, when = np.array(columns, dtype=np.int64).reshape(-1, 2).T
            points.append(Points(key, at, when, np.array([point.value for point in history], dtype=np.float64)))
        texts = {key: _translated(text, self.local_id) for key, text in joined(run.data.tags).items()}
        tags = split({key: text for key, text in texts.items() if key != RECORD_TAG}, MAX_TAG_VAL_LENGTH)
        status, name = run.info.status, run.info.run_name
        known = {"tags": dict(run.data.tags), "status": [status, run.info.end_time], "params": True}
        with self._engine.begin() as connection:
            for purge in PURGES:
                connection.execute(purge, {"of": run_id})
            self._writer.insert_run(connection, self._local_experiment, run_id, name, tags, run.data.params)
            self._writer.apply(connection, [Change(run_id, points)])
            times = {"status": status, "start": run.info.start_time, "end": run.info.end_time}
            connection.execute(TIMES, {"of": run_id, **times})
            last = connection.execute(LAST_POINT, {"of": run_id}).scalar() or 0
            version = self._entries[run_id].version if run_id in self._entries else 1
            entry = _Entry(run_id, version, version, run.info.run_id, last, known)
            connection.execute(SAVE, entry.row)
            self._entries[run_id] = entry

    def _list(self, ask: Callable[..., Any], wanted: str) -> list[Run]:
        """Return all runs of a search, also deleted ones."""
        found: list[Run] = []
        token = None
        while True:
            at = token
            page = ask(lambda store: store.search_runs([self.experiment_id], wanted, ViewType.ALL, 1000, [], at))  # noqa: B023
            found += page
            token = page.token
            if not token:
                return found

    def _history(self, ask: Callable[..., Any], server_run: str, key: str) -> list[Metric]:
        return list(ask(lambda store: store.get_metric_history(server_run, key)))

    def _insist(self, call: Request[T], interrupted: Callable[[], bool]) -> T:
        """Ask until there is an answer.

        Raises:
            UnavailableError: after START_PATIENCE_SECONDS without one.
            KeyboardInterrupt: if interrupted.
        """
        pause, began = FIRST_PAUSE_SECONDS, time.monotonic()
        while True:
            try:
                return self._ask(call)
            except NoAnswerError as error:
                if interrupted():
                    raise KeyboardInterrupt from error
                if time.monotonic() - began > START_PATIENCE_SECONDS:
                    raise UnavailableError(f"{self.server.name} does not answer: {error}") from error
                time.sleep(pause)
                pause = min(2 * pause, SETTLING_PAUSE_SECONDS)

    # Sending, in the thread

    def _work(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        try:
            while not self._closed.is_set():
                try:
                    busy = self._send_next()
                except Exception as error:  # no answer, or trouble with the local record: waiting loses nothing
                    if (lost := lost_lease(error)) is not None:
                        self.hooks.say(f"{lost}; this process sends nothing more to {self.server.name}")
                        break
                    self._report_silence(error)
                    self._wake.clear()
                    self._wake.wait(min(pause, SETTLING_PAUSE_SECONDS) if self._settling else pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                else:
                    pause = FIRST_PAUSE_SECONDS
                    if not busy:
                        self._closed.wait(POLL_SECONDS)
        finally:
            self._closed.set()
            self._lock.close()

    def _changed(self) -> list[tuple[str, int]]:
        """Run and version of what is to be sent, in the order in which the runs were created."""
        with self._engine.connect() as connection:
            rows = [(str(run_id), int(version)) for run_id, version in connection.execute(CHANGED)]
        return [(run_id, version) for run_id, version in rows if self._refused.get(run_id) != version]

    def _send_next(self) -> bool:
        """Send one run, or check one; return whether there was anything to do."""
        changed = self._changed()
        if changed:
            for run_id, _ in changed:
                self._entries.setdefault(run_id, _Entry(run_id))
            new = (of for of in changed if self._entries[of[0]].server_run is None)
            self._send(*next(new, changed[0]))  # new ones first: tags name runs by their ids on the server
            return True
        if self._unchecked:
            run_id = next(iter(self._unchecked))
            self._delete_duplicates(self._entries[run_id])
            self._unchecked.discard(run_id)
            return True
        return False

    def _send(self, run_id: str, version: int) -> None:
        entry = self._entries[run_id]
        run = self._local.get_run(run_id)  # before the points: they are at least as many as when it was so
        try:
            if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
                for server_run in [entry.server_run] if entry.server_run else self._found(entry):
                    self._delete(server_run)
            elif entry.server_run is None:
                self._create(entry, run)
                return
            else:
                self._send_content(entry, run)
            entry.sent = version
        except RefusedError as error:
            if not self._restored(entry, run.info.run_name):
                self._refused[run_id] = version
                where = f"which is only in {self.folder}"
                self.hooks.say(f"{self.server.name} refuses run {run.info.run_name}, {where}: {error}")
        finally:
            self._save(entry)

    def _send_content(self, entry: _Entry, run: Run) -> None:
        """Send what the server lacks: points first, the tags last, so that a run that has `sweep.status` is whole."""
        tags = self._outgoing(run)
        known = entry.state.setdefault("tags", {})
        if known.get(RECORD_TAG) != tags[RECORD_TAG]:  # claim the run before anything of it is changed
            self._send_tags(entry, {RECORD_TAG: tags[RECORD_TAG]})
        changed = {key: text for key, text in tags.items() if known.get(key) != text}
        last = {key: changed.pop(key) for key in ("sweep.status",) if key in changed}
        refused: RefusedError | None = None
        steps: list[Callable[..., None]] = [self._send_params, self._send_points, self._send_files, self._send_status]
        for send in [*steps, lambda *given: self._send_tags(entry, changed)]:
            try:
                send(entry, run)
            except RefusedError as error:
                refused = refused or error
        if refused is not None:
            raise refused
        self._send_tags(entry, last)

    def _outgoing(self, run: Run) -> dict[str, str]:
        """Return the tags of a run as the server is to have them.

        Raises:
            RefusedError: if its parent could not be created there.
        """
        parent = run.data.tags.get("mlflow.parentRunId")
        if parent in self._entries and self._entries[parent].server_run is None:
            raise RefusedError("its parent could not be created")
        texts = {key: _translated(text, self.server_id) for key, text in joined(run.data.tags).items()}
        return {**split(texts, MAX_TAG_VAL_LENGTH), RECORD_TAG: f"{self.record_id} {run.info.run_id}"}

    def _create(self, entry: _Entry, run: Run) -> None:
        found: list[str] = []
        if entry.run_id in self._asked:
            self._doubtful.add(entry.run_id)
            found = self._found(entry)
        self._asked.add(entry.run_id)
        self._certain.add(entry.run_id)
        tags, info = {key: text for key, text in self._outgoing(run).items() if key != "sweep.status"}, run.info
        if found:
            entry.server_run = found[0]
        else:
            of_run = (info.user_id, info.start_time, [RunTag(*tag) for tag in tags.items()], info.run_name)
            created = self._request(lambda store: store.create_run(self.experiment_id, *of_run))
            entry.server_run = str(created.info.run_id)
        entry.state = {"tags": tags, "status": ["RUNNING", None]}
        self._local_ids[entry.server_run] = entry.run_id

    def _found(self, entry: _Entry) -> list[str]:
        """Return the active runs on the server that were created for a run, the oldest first."""
        wanted = f"tags.`{RECORD_TAG}` = '{self.record_id} {entry.run_id}'"
        found = self._request(
            lambda store: store.search_runs([self.experiment_id], wanted, ViewType.ACTIVE_ONLY, 100, [], None)
        )
        return [run.info.run_id for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))]

    def _send_params(self, entry: _Entry, run: Run) -> None:
        if not entry.state.get("params"):
            for batch in text_batches(run.data.params):
                self._log(entry, params=[Param(*param) for param in batch.items()])
            entry.state["params"] = True

    def _send_status(self, entry: _Entry, run: Run) -> None:
        status = [run.info.status, run.info.end_time]
        if entry.state.get("status") != status:
            given = (entry.server_run, RunStatus.from_string(run.info.status), run.info.end_time, None)
            self._request(lambda store: store.update_run_info(*given))
            entry.state["status"] = status

    def _send_points(self, entry: _Entry, run: Run) -> None:
        run_id = entry.run_id
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(POINTS, {"of": run_id, "after": entry.points}).all()
            if not rows:
                break
            metrics = [Metric(key, np.nan if nan else value, at, step) for _, key, value, at, step, nan in rows]
            if run_id not in self._certain:
                there = self._on_server.setdefault(run_id, {})
                for key in {metric.key for metric in metrics} - there.keys():
                    there[key] = {point.step for point in self._history(self._request, str(entry.server_run), key)}
                metrics = [metric for metric in metrics if metric.step not in there[metric.key]]
            if metrics:
                try:
                    self._log(entry, metrics=metrics)
                except Exception:
                    self._certain.discard(run_id)
                    self._on_server.pop(run_id, None)
                    raise
                for metric in metrics:
                    if run_id in self._on_server:
                        self._on_server[run_id].setdefault(metric.key, set()).add(metric.step)
            entry.points = rows[-1][0]
        self._certain.add(run_id)
        self._on_server.pop(run_id, None)

    def _send_files(self, entry: _Entry, run: Run) -> None:
        folder = Path(local_file_uri_to_path(run.info.artifact_uri))  # type: ignore[no-untyped-call]
        known = entry.state.setdefault("files", {})
        place = ""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name, about = file.relative_to(folder).as_posix(), file.stat()
            if known.get(name) != [about.st_size, about.st_mtime_ns]:
                place = place or self._request(lambda store: store.get_run(entry.server_run)).info.artifact_uri
                self._check_fences()
                self.server.put(place, name, file, self._tried)
                self._heard()
                known[name] = [about.st_size, about.st_mtime_ns]

    def _send_tags(self, entry: _Entry, tags: dict[str, str]) -> None:
        for batch in text_batches(tags):
            self._log(entry, tags=[RunTag(*tag) for tag in batch.items()])
            entry.state["tags"].update(batch)

    def _log(
        self, entry: _Entry, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        self._request(lambda store: store.log_batch(entry.server_run, metrics, params, tags))

    def _restored(self, entry: _Entry, name: str) -> bool:
        """Restore a run that was deleted on the server while it is written to; return whether it was deleted."""
        server_run = entry.server_run
        if server_run is None:
            return False
        try:
            found = self._request(lambda store: store.get_run(server_run))
        except RefusedError:  # removed for good
            self._recreate(entry)
            self.hooks.say(f"run {name} was removed from {self.server.name}; it is created again from the local record")
            return True
        if found.info.lifecycle_stage == LifecycleStage.ACTIVE:
            return False
        self._request(lambda store: store.restore_run(server_run))
        self.hooks.say(f"run {name} was deleted in MLflow while it is written to: it is restored")
        return True

    def _recreate(self, entry: _Entry) -> None:
        """Let a run that the server has lost be created again, and the tags that name it be sent again."""
        lost, entry.server_run = str(entry.server_run), None
        entry.forget_server()
        self._save(entry)
        for other in self._entries.values():
            if any(lost in text for text in other.state.get("tags", {}).values()):
                other.sent = -1
                self._save(other)

    def _delete_duplicates(self, entry: _Entry) -> None:
        for server_run in self._found(entry):
            if server_run != entry.server_run:
                self._delete(server_run)

    def _delete(self, server_run: str) -> None:
        """Delete a run on the server if it is not deleted; a RUNNING one is ended as KILLED before."""
        info = self._request(lambda store: store.get_run(server_run)).info
        if info.lifecycle_stage == LifecycleStage.ACTIVE:
            if info.status == "RUNNING":
                self._request(lambda store: store.update_run_info(server_run, RunStatus.KILLED, now_ms(), None))
            self._request(lambda store: store.delete_run(server_run))

    def _save(self, entry: _Entry) -> None:
        with self._engine.begin() as connection:
            connection.execute(SAVE, entry.row)

    # Requests

    def _request(self, call: Request[T]) -> T:
        """Send one request of the thread, and note whether the server answers."""
        try:
            result = self._ask(call)
        except RefusedError:
            self._heard()
            raise
        self._heard()
        return result

    def _ask(self, call: Request[T]) -> T:
        self._check_fences()
        return self.server.ask(call, self._tried)

    def _check_fences(self) -> None:
        for check in list(self._checks):
            check()

    def _heard(self) -> None:
        self._silent_since, self._tried, self._progress = None, 0, time.monotonic()
        if self._said:
            self._said = False
            self.hooks.say(f"{self.server.name} answers again; {plural(self.waiting, 'run')} to bring up to date")

    def _report_silence(self, error: Exception) -> None:
        now = time.monotonic()
        self._silent_since, self._tried = self._silent_since or now, self._tried + 1
        if not self._said and now - self._silent_since >= SAID_AFTER_SECONDS:
            self._said = True
            kept = f"{plural(self.waiting, 'run')} in {self.folder} will be sent when it answers"
            self.hooks.say(f"{self.server.name} does not answer ({error}); {kept}")


def _translated(content: str, translate: Callable[[str], str]) -> str:
    """Translate the run ids in a text."""
    return RUN_ID.sub(lambda found: translate(found[0]), content)
