"""Checkpoints in files: whole or not there, each with a digest, the last two of every trial."""

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from socket import gethostname
from typing import Any

from sweep import atomic
from sweep.core import Checkpoint, Evaluation, Snapshot, Trial
from sweep.errors import InvalidValueError

MAGIC = b"sweep checkpoint 1\n"
SUFFIX = ".checkpoint"
GENERATIONS = 2
"""Checkpoints of a trial that are kept: the last, and the one before it."""


class DamagedError(ValueError):
    """A file that is no whole checkpoint of ours; the text says why."""


class CheckpointFiles:
    """The checkpoints of one study or training, in a folder of its own: NUMBER-STEP.checkpoint.

    A crash while one is written leaves the one before it. A file holds MAGIC, the SHA-256 of all that follows, a line
    of JSON, the state and the record. Reading it runs nothing; what is no file of this user, or has another digest, is
    passed over.

    Args:
        folder: made with the first checkpoint, for its owner alone.
        of: what the checkpoints are of; those of anything else are passed over.
        largest: bytes of a file above which it cannot be one of these.
        say: told of each file that is passed over.
        check: called before anything is written or removed; raises where this process may not.
    """

    def __init__(
        self,
        folder: Path,
        of: str,
        largest: int,
        say: Callable[[str], None] = lambda text: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self._of, self._largest, self._say, self._check = folder, of, largest, say, check
        self._good: dict[int, list[Path]] = {}
        """Files of each trial that are known to be whole, oldest first."""

    def holds(self, trial: Trial) -> bool:
        """Whether there are files of a trial, whole or not."""
        return bool(self._files(trial.number))

    def latest(self, trial: Trial) -> Checkpoint | None:
        """The last one of a trial that is whole; None without one."""
        for path in reversed(self._files(trial.number)):
            try:
                found = self._read(path, trial.number)
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                self._say(f"{path} is passed over: {getattr(error, 'strerror', None) or error}")
                continue
            self._good[trial.number] = [path]
            return found
        return None

    def save(self, trial: Trial, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint and the one before it; when this returns, no crash can take it away.

        Raises:
            OSError: if it cannot be written; then the one before it is still there.
        """
        good, path = self._good.setdefault(trial.number, []), self._path(trial.number, checkpoint.state.step)
        if good and good[-1] == path:  # nothing was trained since
            return
        self._check()
        self.prepare()
        atomic.atomic_write(path, [self._content(trial.number, checkpoint)])
        good.append(path)
        del good[:-GENERATIONS]
        self._check()  # writing takes a while: meanwhile others may have begun to keep theirs here
        _remove(old for old in self._files(trial.number) if old not in good)

    def end(self, trial: Trial, last: Checkpoint | None) -> None:
        """Forget those of a trial that has ended; but keep the state that it has ended with, where it is given."""
        files = self._files(trial.number)
        if last is not None:
            final = self.final
            known = final.latest(trial)
            if known is None or last.state.step >= known.state.step:  # a longer training stays
                final.save(trial, last)
        if files:
            self._check()
            _remove(files)
        if last is None:
            self.clear(trial)
        self._good.pop(trial.number, None)

    def clear(self, trial: Trial) -> None:
        """Remove the files that the loop of a trial has kept itself."""
        folder = self.own_files / str(trial.number)
        if folder.is_dir():
            self._check()
            shutil.rmtree(folder, ignore_errors=True)
        for above in (self.own_files, self.own_files.parent):
            with suppress(OSError):  # others are in it, or it is not there
                above.rmdir()

    @property
    def own_files(self) -> Path:
        """The folder in which the loops of these trials keep files themselves, each in one named after its number."""
        return self.folder.absolute() / "loops" / hashlib.sha256(self._of.encode()).hexdigest()[:8]

    @property
    def final(self) -> "CheckpointFiles":
        """Those that trials have ended with."""
        return CheckpointFiles(self.folder / "final", self._of, self._largest, self._say, self._check)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The folder is this process's alone for the duration of a with block, however it ends.

        Raises:
            InvalidValueError: names train.checkpoint_dir if it cannot be made, or is another's; it says whose.
        """
        self.prepare()
        with os.fdopen(os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                rule = f"is in use by {lock.read() or 'another process'}; wait until it ends, or stop it"
                raise InvalidValueError("train.checkpoint_dir", self.folder, rule) from error
            lock.truncate()
            lock.write(f"process {os.getpid()} on {gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
            lock.flush()
            yield

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            InvalidValueError: names train.checkpoint_dir if it cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise InvalidValueError("train.checkpoint_dir", self.folder, f"cannot be made: {error.strerror}") from error
        if not os.access(self.folder, os.W_OK):
            raise InvalidValueError("train.checkpoint_dir", self.folder, "cannot be written to")

    def sweep(self, numbers: Collection[int] = ()) -> None:
        """Remove what a crash left half-written, and what is of other trials than these; an empty folder too."""
        for path in self._files() if self.folder.is_dir() else ():
            if _number(path) not in numbers:
                _remove([path])
        _remove(self.folder.glob(f"*{atomic.TEMPORARY}"))
        kept = [self.own_files / str(number) for number in numbers]
        for folder in self.folder.absolute().glob("loops/*/*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (*self.folder.glob("loops/*"), self.folder / "loops"):
            with suppress(OSError):  # as below
                folder.rmdir()
        with suppress(OSError):  # it has something in it, or is not there
            self.folder.rmdir()

    def _path(self, number: int, step: int) -> Path:
        return self.folder / f"{number}-{step:010d}{SUFFIX}"

    def _files(self, number: int | None = None) -> list[Path]:
        """Those of a trial, or of all; oldest first."""
        found = [path for path in self.folder.glob(f"*{SUFFIX}") if number is None or _number(path) == number]
        return sorted(found, key=lambda path: path.name.rpartition("-")[2])

    def _content(self, number: int, checkpoint: Checkpoint) -> bytes:
        about = {
            "of": self._of,
            "number": number,
            "first": checkpoint.first,
            "last": checkpoint.last,
            "step": checkpoint.state.step,
            "evaluations": [[one.step, dict(one.metrics)] for one in checkpoint.evaluations],
            "state": len(checkpoint.state.content),
        }
        body = b"".join([json.dumps(about).encode(), b"\n", checkpoint.state.content, checkpoint.record])
        return MAGIC + hashlib.sha256(body).digest() + body

    def _read(self, path: Path, number: int) -> Checkpoint:
        """The checkpoint of a file.

        Raises:
            DamagedError: if it is none of that trial, or not whole.
            OSError: if it cannot be read.
        """
        content = _own_file(path, self._largest)
        start = len(MAGIC) + hashlib.sha256().digest_size
        body = content[start:]
        if content[: len(MAGIC)] != MAGIC:
            raise DamagedError("it is no checkpoint of this version")
        if content[len(MAGIC) : start] != hashlib.sha256(body).digest():
            raise DamagedError("its digest is another: it is damaged, or cut")
        line, _, rest = body.partition(b"\n")
        about: dict[str, Any] = json.loads(line)
        if about["of"] != self._of or about["number"] != number:
            raise DamagedError("it is of another training")
        evaluations = [Evaluation(number, step, metrics) for step, metrics in about["evaluations"]]
        state = Snapshot(about["step"], rest[: about["state"]])
        return Checkpoint(about["first"], about["last"], state, evaluations, rest[about["state"] :])


def _number(path: Path) -> int | None:
    """Of the trial that a file is of, by its name."""
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else None


def _own_file(path: Path, largest: int) -> bytes:
    """The bytes of a regular file of this user's: no link, no device, no pipe."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
            raise DamagedError("it is no file of yours")
        if about.st_size > largest:
            raise DamagedError(f"it has {about.st_size:,} bytes, and cannot have more than {largest:,}")
        return file.read(about.st_size)


def _remove(paths: Any) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
