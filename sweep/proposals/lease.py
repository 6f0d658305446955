"""The lease of a study: only one process searches a study at a time.

A process that was suspended for longer than its lease lasts can no longer write.
"""

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from optuna.study import Study
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from sweep.database import Cell, LockRetry, end_suspended, fence, locked
from sweep.errors import InvalidValueError, LeaseLostError
from sweep.proposals.store import attribute, rdb

KEY = "sweep.lease"
"""User attribute of a study that names the process that searches it."""
LEASE = 30.0
"""Seconds after its last renewal at which a lease expires."""
BEATS = 3
"""Renewals in that time."""
POLL = 1.0
"""Seconds between two reads of a lease that may expire, and between two tries to renew one that is locked."""


@dataclass(frozen=True)
class Holder:
    """The process that has a lease, or had it last.

    Args:
        generation: the number of the lease; each lease of a study has a higher one than the lease before.
        token: random; None if the lease was released.
        host: the name of the machine, for messages.
        machine: identifies the machine, its boot, and its process namespace.
        pid: of the process.
        started: start time of the process in the machine's clock ticks; None if it is not known.
        user: the user's name, for messages.
        since: the time at which the lease was taken, UTC.
        renewed: the time of the last renewal, UTC, for a person who reads the database.
        clock: the time of the last renewal by the machine's monotonic clock, in seconds. Nobody sets that clock, and it
            stops while the machine sleeps.
    """

    generation: int = 0
    token: str | None = None
    host: str = ""
    machine: str = ""
    pid: int = 0
    started: int | None = None
    user: str = ""
    since: str = ""
    renewed: str = ""
    clock: float = 0.0

    @classmethod
    def this_process(cls, generation: int) -> "Holder":
        """Return this process as the holder of a new lease."""
        pid, now = os.getpid(), _utc()
        stat = _stat(pid)
        return cls(
            generation,
            uuid.uuid4().hex,
            socket.gethostname(),
            machine(),
            pid,
            stat and stat[1],
            _user(),
            now,
            now,
            time.monotonic(),
        )

    @classmethod
    def of(cls, text: str | None) -> "Holder":
        """Parse a text of the database; the result has no token if the text is missing or is not a lease."""
        try:
            return cls() if text is None else cls(**json.loads(text))
        except (TypeError, ValueError):
            return cls()

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))

    @property
    def fencing_token(self) -> str:
        """Return the fencing token: generation and token, which are written beside what only this holder may change."""
        return f"{self.generation} {self.token}"

    @property
    def released(self) -> "Holder":
        """Return what remains of a released lease: its number, which the next lease counts on from."""
        return Holder(self.generation)

    def renew(self) -> "Holder":
        return replace(self, renewed=_utc(), clock=time.monotonic())

    def unchanged(self, seconds: float) -> float | None:
        """Return for how many seconds the lease must not change before it may be taken over; None if it may not be.

        A released lease and the lease of a dead process may be taken over at once. A process of this machine that did
        not renew its lease is suspended, or waited for a locked database: it gets the time of one renewal. The clocks
        of two machines differ, so that a lease of another machine is watched for as long as a lease lasts.

        Args:
            seconds: how long a lease lasts.
        """
        if self.token is None:
            return 0
        if self.machine != machine():
            return seconds
        if not _lives(self.pid, self.started):
            return 0
        return None if time.monotonic() - self.clock < seconds else seconds / BEATS

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since).astimezone()
        return f"{self.user} on {self.host}, process {self.pid}, since {since:%Y-%m-%d %H:%M:%S}"


class Lease:
    """The right of this process to ask and tell the trials of a study, and to write its record.

    A lease is a user attribute of the study. It is changed by compare and swap, renewed by a thread with a connection
    of its own, and checked within every transaction that the engine of the study commits (`sweep.database.fence`). A
    process that has lost its lease gets `LeaseLostError` from its next commit. `take` creates a lease; as a context
    manager it is released at the end.
    """

    def __init__(self, study: Study, seconds: float, patiently: LockRetry) -> None:
        storage = rdb(study)
        self._study, self._seconds, self._patiently = study, seconds, patiently
        self._cell = attribute(study, KEY)
        self._engine = create_engine(storage.engine.url, poolclass=NullPool, **storage.engine_kwargs)
        end_suspended(self._engine, seconds)
        self._mine, self._other = Holder(), Holder()
        self._is_lost = False
        self._lifts: list[Callable[[], None]] = []
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease of {study.study_name}", daemon=True)

    @classmethod
    def take(
        cls,
        study: Study,
        interrupted: Callable[[], bool] = lambda: False,
        seconds: float = LEASE,
        say: Callable[[str], None] = lambda line: None,
    ) -> "Lease":
        """Take the lease of a study. Read its trials after that, because another process may have changed them.

        Args:
            interrupted: returns whether a signal came; asked while waiting.
            seconds: how long the lease lasts without a renewal; the same for all processes that search the study.
            say: shows a line before a long wait.

        Raises:
            InvalidValueError: if another process searches the study; names that process and its start time.
            KeyboardInterrupt: if interrupted.
        """
        lease = cls(study, seconds, LockRetry(f"the database of study {study.study_name}", say, interrupted))
        try:
            lease._take(lease._patiently)
        except BaseException:
            lease._engine.dispose()
            raise
        end_suspended(rdb(study).engine, seconds)
        lease.until_released(fence(rdb(study).engine, lease._cell, lease._is_mine, lease.error))
        lease._heart.start()
        return lease

    @property
    def fencing_token(self) -> str:
        """Return the number of the lease, a space, and its random token. The numbers of a study only rise."""
        return self._mine.fencing_token

    @property
    def lost(self) -> bool:
        """Return whether a renewal found that another process has the lease."""
        return self._is_lost

    def check(self) -> None:
        """Check the lease in the database; wait while the database is locked.

        Raises:
            LeaseLostError: if another process has the lease.
        """
        if not self._is_mine(self._patiently(lambda: self._cell.read(self._engine))):
            raise self.error()

    def error(self) -> LeaseLostError:
        """Return the error for a refused write. It names the process that has the lease now, if that can be read."""
        try:
            now = Holder.of(self._cell.read(self._engine))
        except SQLAlchemyError:
            now = self._other
        if not self._study_exists():
            return LeaseLostError(f"study {self._study.study_name} was deleted from study.storage while it is searched")
        who = "has been" if now.token in (None, self._mine.token) else f"is being searched by {now}; it was"
        how = f"taken over from this process, which did not renew its lease for {self._seconds:g} seconds"
        return LeaseLostError(f"study {self._study.study_name} {who} {how}: it can no longer write")

    def until_released(self, lift: Callable[[], None]) -> None:
        """Call `lift`, which removes a fence, when the lease is released; a lost lease keeps its fences."""
        self._lifts.append(lift)

    def release(self) -> None:
        """Release the lease, so that the next process gets it at once. Do nothing if it is lost or was released."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._heart.join()
        try:
            if self._cell.swap(self._engine, self._mine.text, self._mine.released.text):
                for lift in self._lifts:
                    lift()
        except SQLAlchemyError:
            pass  # it expires, at once when this process ends
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _is_mine(self, text: str | None) -> bool:
        """Return whether this process has the lease, by its text in the database.

        If a person has deleted or edited the text, no other process has the lease, as long as the study exists.
        """
        holder = Holder.of(text)
        if self._is_no_holder(holder):
            return self._study_exists()
        return holder.token == self._mine.token

    def _is_no_holder(self, holder: Holder) -> bool:
        return holder.token is None and holder.generation < self._mine.generation

    def _study_exists(self) -> bool:
        row = Cell("studies", "study_name", {"study_id": self._study._study_id})
        try:
            return row.read(self._engine) is not None
        except SQLAlchemyError:  # locked or unreachable
            return True

    def _take(self, patiently: LockRetry) -> None:
        while True:
            seen = patiently(lambda: self._cell.read(self._engine))
            holder = Holder.of(seen)
            if not self._runs_out(holder, seen, patiently):
                raise self._refusal(holder)
            mine = Holder.this_process(self._generation(seen))
            if self._swap(seen, mine, patiently):
                self._mine = mine
                return

    def _generation(self, seen: str | None) -> int:
        """Return the number of the next lease: higher than every earlier one, even if a person has deleted the text."""
        before = Holder.of(seen).generation
        if before or not self._study.get_trials(deepcopy=False):
            return before + 1
        return int(time.time())

    def _runs_out(self, holder: Holder, seen: str | None, patiently: LockRetry) -> bool:
        """Wait; return whether the lease may be taken over, or has changed hands, so that it must be read again."""
        watched = holder.unchanged(self._seconds)
        if watched is None:
            return False
        if watched:
            line = f"the study is in use by {holder}: waiting up to {watched:g} seconds for a sign that it is running"
            patiently.say(line)
        until = time.monotonic() + watched
        while (left := until - time.monotonic()) > 0:
            if patiently.interrupted():
                raise KeyboardInterrupt
            time.sleep(min(left, POLL))
            if (now := patiently(lambda: self._cell.read(self._engine))) != seen:
                return Holder.of(now).token != holder.token
        return True

    def _swap(self, seen: str | None, mine: Holder, patiently: LockRetry) -> bool:
        """Try once to replace the text that was read. Its holder may be suspended within a write, and never unlock."""
        holder = Holder.of(seen)
        if holder.token is not None:
            patiently = replace(patiently, limit=self._seconds)
        try:
            return patiently(lambda: self._cell.swap(self._engine, seen, mine.text))
        except Exception as error:
            if not locked(error):
                raise
            if patiently.interrupted():
                raise KeyboardInterrupt from error
            raise self._refusal(holder, ", and its database is locked") from error

    def _refusal(self, holder: Holder, more: str = "") -> InvalidValueError:
        name = self._study.study_name
        if holder.token is None:
            return InvalidValueError(
                "study.name", name, "cannot be searched: its database is locked by another program"
            )
        rule = f"is being searched by {holder}{more}; wait until it ends, stop it, or choose another study.name"
        return InvalidValueError("study.name", name, rule)

    def _beat(self) -> None:
        """Renew the lease until it is released or lost, in a thread."""
        pause = self._seconds / BEATS
        while not self._ended.wait(pause):
            try:
                if not self._renew():
                    return
                pause = self._seconds / BEATS
            except SQLAlchemyError:  # locked or unreachable: nobody else can take the lease over either
                pause = min(POLL, self._seconds / BEATS)

    def _renew(self) -> bool:
        renewed = self._mine.renew()
        if self._cell.swap(self._engine, self._mine.text, renewed.text):
            self._mine = renewed
            return True
        seen = self._cell.read(self._engine)
        self._other = Holder.of(seen)
        if self._is_no_holder(self._other) and self._study_exists():
            if self._cell.swap(self._engine, seen, renewed.text):
                self._mine = renewed
            return True
        self._is_lost = self._other.token != self._mine.token
        if not self._is_lost:  # a renewal that was reported as failed has succeeded
            self._mine = self._other
        return not self._is_lost


def machine() -> str:
    """Return a text that identifies this machine, its boot, and its process namespace."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _lives(pid: int, started: int | None) -> bool:
    """Return whether a process of that number, started at that time, runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs as another user
    stat = _stat(pid)
    return stat is None or (stat[0] not in "ZX" and started in (None, stat[1]))


def _stat(pid: int) -> tuple[str, int] | None:
    """Return the state of a process on Linux (Z: a zombie) and its start time; None if they are not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user has no name, as in a container
        return str(os.getuid())


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
