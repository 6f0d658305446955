"""Runs written to a server that may not be there: kept in a folder first, delivered by a thread of its own."""

import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

from sweep.errors import LeaseLostError
from sweep.plurals import plural
from sweep.tracking.bulk import Change, Files, Points, Texts, now_ms
from sweep.tracking.locks import Hooks
from sweep.tracking.rest import RefusedError, Server, metrics_of, texts_of
from sweep.tracking.server import KEY
from sweep.tracking.spool import Blob, DamagedError, Operation, Spool

SPOOLED = "spooled:"
REFERENCE = re.compile(rf"{SPOOLED}([\w.-]+)")
"""What stands for the id of a run that is not created yet, by its key; also in tags."""
COLUMNS = (np.dtype(np.int64), np.dtype(np.int64), np.dtype(np.float64))
"""Of points, on the disk: steps, times, values."""

CREATION_WAIT = 2.0
"""Seconds that a new run is waited for where the server answers."""
BACKLOG = 10
"""Operations before it, at most, that a new run is waited for behind."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds between two tries; twice as long after each."""
SETTLING_PAUSE = 1.0
"""The longest of them while someone waits."""
SAID_AFTER = 5.0
"""Seconds without an answer after which it is said."""

Request = Callable[[int], None]
"""One request, told how often it was tried before."""


class SpooledWriter:
    """A tracking server that is written to in the background, through a folder.

    Every call is on the disk when it returns, and is delivered in the order of the calls: by this process, or by the
    next that opens the folder. A request is tried until it is answered, alone and in its place; one that was carried
    out though its answer was lost changes nothing the second time: points have their times already, and a run is
    looked for by its tag `sweep.key` before it is created again. A run that such a request creates all the same, later,
    is deleted when all is delivered, or at the next start. What MLflow refuses for good is put aside and said.

    Of what waits, one batch at a time is in memory.

    Args:
        server: where it is delivered.
        folder: of this server and of one command at a time; what waits there from an earlier one comes first.
        hooks: told, from a thread, when the server has not answered for some seconds, when it answers again, and what
            is put aside.

    Raises:
        SpoolInUseError: if another process has opened the folder.
        StorageFullError: if the disk is full; so does every call that writes.
    """

    def __init__(self, server: Server, folder: Path, hooks: Hooks | None = None) -> None:
        self._server, self._spool, self.hooks = server, Spool(folder), hooks or Hooks()
        self._changed = threading.Condition()
        self._appending = threading.Lock()
        self._checks: list[Callable[[], None]] = []
        self._pending = deque(self._spool.numbers())
        self._earlier = frozenset(self._pending)
        """Operations that an earlier process may have tried."""
        recorded = self._spool.runs()
        self._outdated = set() if self._pending else set(recorded)
        """Runs that nothing which waits is of."""
        self._runs: dict[str, str] = {key: about["run_id"] for key, about in recorded.items() if about["run_id"]}
        self._doubtful = {key: about["experiment_id"] for key, about in recorded.items() if about["doubtful"]}
        """Runs that were asked for more than once, with their experiment."""
        self._unchecked = set(self._doubtful)
        for key in self._outdated - self._doubtful.keys():
            self._forget(key)
        self._silent_since: float | None = None
        self._said = self._settling = self._closed = self._hurry = False
        self._patient = True
        """Whether an answer to a new run is worth waiting for."""
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)
        self._thread.start()

    def fence(self, check: Callable[[], None]) -> Callable[[], None]:
        """Let nothing be kept or delivered from here on where a check raises.

        Args:
            check: of a lease; asked before each call that writes and, in a thread, before each request. Where it
                raises LeaseLostError there, the writer delivers no more; what waits stays for the next process.

        Returns:
            What lifts the fence.
        """
        self._checks.append(check)
        return lambda: self._checks.remove(check)

    def _check_fences(self) -> None:
        for check in list(self._checks):
            check()

    # What the recorder calls

    def create(self, experiment_id: str, name: str, tags: Texts, params: Texts, files: Files | None = None) -> str:
        """Keep a new run; its id, or a reference where the server does not answer at once."""
        key = tags.get(KEY) or uuid.uuid4().hex
        if not REFERENCE.fullmatch(f"{SPOOLED}{key}"):
            raise ValueError(f"{KEY} must consist of letters, digits, '.', '_' and '-', not {key!r}")
        _check_texts(tags, params)
        about = {"experiment_id": experiment_id, "name": name, "params": dict(params)}
        about["tags"] = self._all_named({**tags, KEY: key})
        self._append({"do": "create", "start": now_ms(), **about}, files or {})
        with self._changed:
            if len(self._pending) <= BACKLOG:
                known = self._changed.wait_for(lambda: key in self._runs or not self._patient, CREATION_WAIT)
                self._patient = self._patient and known
            return self._runs.get(key, f"{SPOOLED}{key}")

    def write(self, changes: Sequence[Change]) -> None:
        now, blobs, kept = now_ms(), list[Blob](), []
        for change in changes:
            points = [one for one in change.points if len(one)]
            _check_texts(change.tags, {})
            for one in points:
                _validate_metric(one.key, float(one.values[0]), int(one.times.min()), int(one.steps[0]))  # type: ignore[no-untyped-call]
                blobs += _columns(one)
            end = None if change.status in (None, "RUNNING") else now
            about = {"run_id": self._named(change.run_id), "status": change.status, "end": end}
            tags, keys = self._all_named(change.tags), [one.key for one in points]
            kept.append({**about, "tags": tags, "points": keys})
        self._append({"do": "write", "changes": kept}, {}, blobs)

    def attach(self, run_id: str, files: Files) -> None:
        self._append({"do": "attach", "run_id": self._named(run_id)}, files)

    def delete(self, run_id: str) -> None:
        self._append({"do": "delete", "run_id": self._named(run_id), "end": now_ms()}, {})

    def resolve(self, reference: str) -> str | None:
        """The id of a run; None of one that is not created yet."""
        found = REFERENCE.fullmatch(reference)
        return self._runs.get(found[1]) if found else reference

    @property
    def closed(self) -> bool:
        """Whether it delivers no more."""
        return self._closed

    @property
    def waiting(self) -> int:
        """How many operations are not delivered yet."""
        return len(self._pending)

    def settle(self, patience: float, interrupted: Callable[[], bool] = lambda: False) -> int:
        """Wait until everything is delivered; how many operations still wait.

        Args:
            patience: seconds without any progress after which it is left to the next start.
            interrupted: asked meanwhile; nothing is waited for any more then.
        """
        with self._changed:
            self._settling = self._hurry = True
            self._unchecked |= self._doubtful.keys()
            self._progress = time.monotonic()
            self._changed.notify_all()
            while (self._pending or self._unchecked) and not self._closed:
                if interrupted() or time.monotonic() - self._progress > patience:
                    break
                self._changed.wait(0.1)
            self._settling = False
            return len(self._pending)

    def close(self) -> None:
        """Deliver no more; let another process open the folder."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _append(self, about: Mapping[str, Any], files: Files, blobs: Sequence[Blob] = ()) -> None:
        self._check_fences()
        with self._appending:  # the order of the numbers is that of the deliveries
            number = self._spool.append({**about, "files": list(files)}, [*blobs, *files.values()])
            with self._changed:
                self._pending.append(number)
                self._changed.notify_all()

    # What the thread does

    def _work(self) -> None:
        while self._has_work():
            try:
                self._do_next()
            except LeaseLostError as error:
                self._give_up(error)
            except Exception as error:  # of the folder; nothing is lost by waiting
                self._heard_nothing(error)
                self._pause(LONGEST_PAUSE)
        self._spool.close()

    def _give_up(self, error: LeaseLostError) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        one, many = f"change in {self._spool.folder} is", f"changes in {self._spool.folder} are"
        self.hooks.say(f"{error}; {plural(self.waiting, one, many)} not delivered by this process")

    def _do_next(self) -> None:
        if self._pending:
            self._deliver(self._pending[0])
        else:
            self._check(next(iter(self._unchecked)))

    def _has_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._unchecked or self._closed)
            return not self._closed

    def _deliver(self, number: int) -> None:
        """One operation. What is refused of one run is no reason to keep back what it says of others."""
        try:
            refused = self._carry_out(self._spool.load(number), number in self._earlier)
        except DamagedError as error:
            refused = [f"the file {error}"]
        if self._closed:
            return
        if refused:
            self._put_aside(number, "; ".join(refused))
        else:
            self._spool.remove(number)
        with self._changed:
            self._pending.popleft()
            self._changed.notify_all()

    def _carry_out(self, operation: Operation, tried: bool) -> list[str]:
        """What of it was refused, and why."""
        refused: dict[str, str] = {}
        for run, request in self._requests(operation, tried):
            if run not in refused:
                try:
                    self._insist(request)
                except RefusedError as error:
                    refused[run] = str(error)
        return [f"run {run}: {why}" for run, why in refused.items()]

    def _put_aside(self, number: int, why: str) -> None:
        path = self._spool.refuse(number, why)
        self.hooks.say(f"a change of the record cannot be delivered and is kept in {path}: {why}")

    def _insist(self, request: Request) -> None:
        """Carry out a request, as often as it takes.

        Raises:
            RefusedError: if MLflow does not do that.
            LeaseLostError: if this process may not do it.
        """
        tried, pause = 0, FIRST_PAUSE
        while not self._closed:
            try:
                self._check_fences()
                request(tried)
            except LeaseLostError:
                raise
            except RefusedError:
                self._heard()
                raise
            except Exception as error:  # also a full disk, or what no one has thought of: nothing is lost by waiting
                self._heard_nothing(error)
                self._pause(pause)
                tried, pause = tried + 1, min(2 * pause, LONGEST_PAUSE)
            else:
                self._heard()
                return

    def _heard(self) -> None:
        with self._changed:
            self._silent_since, self._patient, self._progress = None, True, time.monotonic()
            said, self._said = self._said, False
        if said:
            changes = plural(self.waiting, "change is being delivered", "changes are being delivered")
            self.hooks.say(f"{self._server.name} answers again; {changes}")

    def _heard_nothing(self, error: Exception) -> None:
        now = time.monotonic()
        with self._changed:
            if self._silent_since is None:
                self._silent_since = now
            silent = now - self._silent_since
            self._patient = self._patient and silent < CREATION_WAIT
            self._changed.notify_all()
            said = self._said
            self._said = said or silent >= SAID_AFTER
        if self._said and not said:
            folder = self._spool.folder
            one, many = f"change waits in {folder} and is", f"changes wait in {folder} and are"
            what = f"{plural(self.waiting, one, many)} delivered when it returns"
            self.hooks.say(f"{self._server.name} does not answer ({error}); {what}")

    def _pause(self, seconds: float) -> None:
        """Someone who begins to wait for the end does not wait for this."""
        with self._changed:
            self._hurry = False
            longest = SETTLING_PAUSE if self._settling else seconds
            self._changed.wait_for(lambda: self._closed or self._hurry, min(seconds, longest))

    # The requests that an operation consists of, each made when it is its turn

    def _requests(self, operation: Operation, tried: bool) -> Iterator[tuple[str, Request]]:
        """With the run that each is of."""
        about, blobs = operation.about, list(operation.blobs)
        if about["do"] == "create":
            yield from self._creation(about, blobs, tried)
        elif about["do"] == "write":
            yield from self._changes(about["changes"], blobs)
        elif about["do"] == "attach":
            yield from self._files(about["run_id"], about["files"], blobs)
        else:
            yield about["run_id"], partial(self._delete, about["run_id"], about["end"])

    def _creation(
        self, about: Mapping[str, Any], blobs: list[memoryview], tried: bool
    ) -> Iterator[tuple[str, Request]]:
        reference = f"{SPOOLED}{about['tags'][KEY]}"
        yield reference, partial(self._create, about, tried)
        for batch in texts_of(about["params"]):
            yield reference, partial(self._log, reference, params=batch)
        yield from self._files(reference, about["files"], blobs)

    def _changes(self, changes: Sequence[Mapping[str, Any]], blobs: list[memoryview]) -> Iterator[tuple[str, Request]]:
        """The points first, the tags last: a run that has them is whole."""
        columns = iter(blobs)
        for change in changes:
            points = [_points(key, next(columns), next(columns), next(columns)) for key in change["points"]]
            for batch in metrics_of(points):
                yield change["run_id"], partial(self._log, change["run_id"], metrics=batch)
        for change in changes:
            run = change["run_id"]
            if change["status"] is not None:
                yield run, partial(self._set_status, run, change["status"], change["end"])
            for batch in texts_of(self._all_named(change["tags"])):
                yield run, partial(self._log, run, tags=batch)

    def _files(self, run: str, names: Sequence[str], blobs: Sequence[memoryview]) -> Iterator[tuple[str, Request]]:
        where: list[str] = []
        if names:
            yield run, lambda tried: where.append(self._server.info(self._id(run), tried)["artifact_uri"])
        for name, blob in zip(names, blobs, strict=True):
            yield run, lambda tried, name=name, blob=blob: self._server.put(where[-1], name, bytes(blob), tried)  # type: ignore[misc]

    def _create(self, about: Mapping[str, Any], tried_before: bool, tried: int) -> None:
        experiment_id, key = about["experiment_id"], about["tags"][KEY]
        if key in self._runs:
            return
        doubtful = bool(tried or tried_before)
        found = self._server.find(experiment_id, key, tried) if doubtful else []
        tags, start = self._all_named(about["tags"]), about["start"]
        run_id = found[0] if found else self._server.create(experiment_id, about["name"], tags, start, tried)
        doubtful = doubtful or key in self._doubtful
        self._spool.keep_run(key, {"run_id": run_id, "experiment_id": experiment_id, "doubtful": doubtful})
        self._outdated.discard(key)
        with self._changed:
            self._runs[key] = run_id
            if doubtful:
                self._doubtful[key] = experiment_id
            self._changed.notify_all()

    def _log(self, run: str, tried: int, **entries: list[dict[str, Any]]) -> None:
        self._server.log(self._id(run), tried, **entries)

    def _set_status(self, run: str, status: str, end: int | None, tried: int) -> None:
        self._server.set_status(self._id(run), status, end, tried)

    def _delete(self, run: str, end: int, tried: int) -> None:
        """Also what stands for the run is forgotten: another one may be created in its place."""
        run_id = self.resolve(run)
        if run_id is None:  # it could not be created, or is deleted already
            return
        self._end(run_id, end, tried)
        for key in [key for key, known in self._runs.items() if known == run_id]:
            self._forget(key)

    def _forget(self, key: str) -> None:
        """A run that is deleted, or of a command before. One that may come late is deleted when it has come."""
        if key in self._doubtful:
            about = {"run_id": None, "experiment_id": self._doubtful[key], "doubtful": True}
            self._spool.keep_run(key, about)
        else:
            self._spool.forget_run(key)
        self._runs.pop(key, None)

    def _end(self, run_id: str, end: int, tried: int) -> None:
        info = self._server.info(run_id, tried)
        if info["lifecycle_stage"] == "active":
            if info["status"] == "RUNNING":
                self._server.set_status(run_id, "KILLED", end, tried)
            self._server.delete(run_id, tried)

    def _check(self, key: str) -> None:
        """Delete what a request that was carried out late has created of a run beside the one that is written to."""
        experiment_id, kept = self._doubtful[key], self._runs.get(key)

        def check(tried: int) -> None:
            for run_id in self._server.find(experiment_id, key, tried):
                if run_id != kept:
                    self._end(run_id, now_ms(), tried)

        try:
            self._insist(check)
        except RefusedError as error:
            self.hooks.say(f"a run with the tag {KEY}={key} may be there twice: {error}")
        if not self._closed:
            if key in self._outdated:
                del self._doubtful[key]
                self._forget(key)
            with self._changed:
                self._unchecked.discard(key)
                self._changed.notify_all()

    def _id(self, run: str) -> str:
        """The id of a run that was created before.

        Raises:
            RefusedError: if it could not be created.
        """
        run_id = self.resolve(run)
        if run_id is None:
            raise RefusedError("it could not be created")
        return run_id

    def _all_named(self, tags: Texts) -> dict[str, str]:
        return {name: self._named(value) for name, value in tags.items()}

    def _named(self, text: str) -> str:
        """A text with the ids of the runs that are known in the place of references."""
        return REFERENCE.sub(lambda found: self._runs.get(found[1], found[0]), text)


def _check_texts(tags: Texts, params: Texts) -> None:
    """Refuse, while someone hears it, what MLflow would.

    Raises:
        MlflowException: names the tag or param.
    """
    for tag in tags.items():
        _validate_tag(*tag)  # type: ignore[no-untyped-call]
    for param in params.items():
        _validate_param(*param)  # type: ignore[no-untyped-call]


def _columns(points: Points) -> list[Blob]:
    given = (points.steps, points.times, points.values)
    return [np.ascontiguousarray(one, kind).data.cast("B") for one, kind in zip(given, COLUMNS, strict=True)]


def _points(key: str, *columns: memoryview) -> Points:
    """As they lie on the disk: views that are read when they are used."""
    steps, times, values = (np.frombuffer(one, kind) for one, kind in zip(columns, COLUMNS, strict=True))
    return Points(key, steps, times, values)


_OPEN: dict[Path, SpooledWriter] = {}


def spooled(uri: str, folder: Path, hooks: Hooks) -> SpooledWriter:
    """The writer of a folder; the same one, however often this process asks.

    Raises:
        SpoolInUseError, StorageFullError: as SpooledWriter.
    """
    known = _OPEN.get(folder.resolve())
    if known is None or known.closed:
        known = _OPEN[folder.resolve()] = SpooledWriter(Server(uri), folder, hooks)
    known.hooks = hooks
    return known
