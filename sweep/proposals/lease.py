"""The lease of a study: one process alone searches it, and one that was suspended too long can no longer write."""

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
"""User attribute of a study: who searches it."""
LEASE = 30.0
"""Seconds that a lease lasts without being renewed."""
BEATS = 3
"""How often it is renewed in that time."""
POLL = 1.0
"""Seconds between two looks at a lease that may run out, and between two tries to renew one that is locked."""


@dataclass(frozen=True)
class Holder:
    """Who has a lease, or had it last.

    Args:
        generation: how many had it before, of this study.
        token: random; None where it was released.
        host: its name, for people.
        machine: what tells the machine, since it was started and with its process numbers, from any other.
        pid: of the process.
        started: when the process was, in the machine's clock ticks; None where that is not known.
        user: its name, for people.
        since: when the lease was taken, UTC.
        renewed: when it was last, UTC, for people.
        clock: the same by the machine's monotonic clock, seconds: it is never set, and stands while a machine sleeps.
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
        """One that takes a lease now."""
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
        """Return the holder that a text in the database is of; nobody where it is missing, or another program's."""
        try:
            return cls() if text is None else cls(**json.loads(text))
        except (TypeError, ValueError):
            return cls()

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))

    @property
    def fencing_token(self) -> str:
        """Generation and token: what stands beside what this holder alone may write."""
        return f"{self.generation} {self.token}"

    @property
    def released(self) -> "Holder":
        """What stays when the lease does not: the number, from which the next one goes on."""
        return Holder(self.generation)

    def renew(self) -> "Holder":
        return replace(self, renewed=_utc(), clock=time.monotonic())

    def unchanged(self, seconds: float) -> float | None:
        """How many seconds the lease must stay as it is before it may be taken over; None: its holder is at work.

        Nobody's and a dead process's may be at once. A process of this machine that has not renewed its lease is
        suspended, or waited for the database: after a lock it gets the time to renew it. Clocks of machines differ, so
        a lease of another machine is watched as long as one lasts.

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
    """The right of this process to search a study: to ask and tell its trials, and to write its record.

    It is a user attribute of the study, changed by compare and swap alone, renewed by a thread with a connection of its
    own, and checked within every transaction that the engine of the study commits: see `sweep.database.fence`. A
    process that lost it finds its next commit refused with `LeaseLostError`. Made by `take`; a context manager that
    releases it.
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
        """The lease of a study. What was read of its trials before belongs to somebody else's time: read it again.

        Args:
            interrupted: whether a signal came while it is waited.
            seconds: how long the lease lasts without being renewed; the same for all who search the study.
            say: shows a line where it is waited.

        Raises:
            InvalidValueError: if another process searches the study; it says who, and since when.
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
        """The number of the lease, a space, and what tells it from any other of that number. Numbers only rise."""
        return self._mine.fencing_token

    @property
    def lost(self) -> bool:
        """Whether a renewal found that somebody else has it."""
        return self._is_lost

    def check(self) -> None:
        """Look into the database; where it is locked, that is waited for.

        Raises:
            LeaseLostError: if somebody else has it.
        """
        if not self._is_mine(self._patiently(lambda: self._cell.read(self._engine))):
            raise self.error()

    def error(self) -> LeaseLostError:
        """What a write is refused with. Names who has the lease now, as far as the database can be asked."""
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
        """Lift a fence when the lease is released; where it is lost, the fence stays as long as the process."""
        self._lifts.append(lift)

    def release(self) -> None:
        """Let the next one have it at once; nothing, where it is lost or was released."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._heart.join()
        try:
            if self._cell.swap(self._engine, self._mine.text, self._mine.released.text):
                for lift in self._lifts:
                    lift()
        except SQLAlchemyError:
            pass  # it runs out: at once, where this process ends
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _is_mine(self, text: str | None) -> bool:
        """Return whether a text in the database leaves the lease to this process.

        Where a person has deleted or edited it, nobody else has the lease, as long as there is the study.
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
        except SQLAlchemyError:  # locked, or not to be reached
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
        """Return the number of the next lease: higher than every earlier one, also where a person has deleted it."""
        before = Holder.of(seen).generation
        if before or not self._study.get_trials(deepcopy=False):
            return before + 1
        return int(time.time())

    def _runs_out(self, holder: Holder, seen: str | None, patiently: LockRetry) -> bool:
        """Whether the lease may be taken over, or has gone to somebody else, who is looked at next."""
        watched = holder.unchanged(self._seconds)
        if watched is None:
            return False
        if watched:
            line = f"the study is of {holder}: waiting up to {watched:g} seconds to see whether that process is at work"
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
        """One try to take what was seen. Its holder may be suspended in the middle of a write, and never unlock."""
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
        """Renew the lease until it is released or lost."""
        pause = self._seconds / BEATS
        while not self._ended.wait(pause):
            try:
                if not self._renew():
                    return
                pause = self._seconds / BEATS
            except SQLAlchemyError:  # locked, or not to be reached: until it is, nobody can take the lease over
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
        if not self._is_lost:  # a renewal that was reported as failed was not
            self._mine = self._other
        return not self._is_lost


def machine() -> str:
    """What tells this machine, since it was started and with its process numbers, from any other."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _lives(pid: int, started: int | None) -> bool:
    """Whether the process of that number is still the one that was started then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    stat = _stat(pid)
    return stat is None or (stat[0] not in "ZX" and started in (None, stat[1]))


def _stat(pid: int) -> tuple[str, int] | None:
    """Linux: the state of a process (Z: ended, and not asked for yet), and when it was started; None elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return str(os.getuid())


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
