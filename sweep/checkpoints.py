"""The checkpoints of trials in files: written atomically, with a checksum, the last two of each trial."""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sweep import atomic, container
from sweep.container import DamagedError
from sweep.core import Checkpoint, Evaluation, Snapshot, Trial
from sweep.errors import InvalidValueError
from sweep.folder_lock import FolderLockedError, locked_folder

SUFFIX = ".checkpoint"
GENERATIONS = 2
"""Checkpoints that are kept of a trial: the last one, and the one before it."""


class CheckpointFiles:
    """The checkpoints of one study or training, in a folder of its own: NUMBER-STEP.checkpoint.

    A file has the format of `sweep.container`. If the process crashes while it writes a checkpoint, the one before it
    stays valid. A file is skipped if it belongs to another user, is damaged, or was written by another version.

    Args:
        folder: folder of the checkpoints. It is created (mode 0700) when the first one is saved.
        of: identifies the study or training. Checkpoints of others are skipped.
        largest: size in bytes above which a file cannot be a checkpoint.
        say: called with one line for each file that is skipped.
        check: called before a file is written or removed; raises an error if this process must not do so.
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
        self._valid: dict[int, list[Path]] = {}
        """Files of each trial that are known to be valid, oldest first."""

    def holds(self, trial: Trial) -> bool:
        """Return whether there are files of a trial, valid or not."""
        return bool(self._files(trial.number))

    def latest(self, trial: Trial) -> Checkpoint | None:
        """Return the last valid checkpoint of a trial; None if there is none."""
        for path in reversed(self._files(trial.number)):
            try:
                found = self._read(path, trial.number)
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                self._say(f"{path} is skipped: {getattr(error, 'strerror', None) or error}")
                continue
            self._valid[trial.number] = [path]
            return found
        return None

    def save(self, trial: Trial, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and remove all but the one before it. The file is fsynced when this returns.

        Raises:
            OSError: if the file cannot be written. The checkpoint before it is still there.
        """
        valid = self._valid.setdefault(trial.number, [])
        path = self.folder / f"{trial.number}-{checkpoint.state.step:010d}{SUFFIX}"
        if valid and valid[-1] == path:  # nothing was trained since
            return
        self._check()
        self.prepare()
        atomic.atomic_write(path, [self._encoded(trial.number, checkpoint)])
        valid.append(path)
        del valid[:-GENERATIONS]
        self._check()  # writing takes a while, and another process may have taken over meanwhile
        _remove(old for old in self._files(trial.number) if old not in valid)

    def end(self, trial: Trial, last: Checkpoint | None) -> None:
        """Remove the checkpoints of a trial that has ended, and store its last state if one is given."""
        files = self._files(trial.number)
        if last is not None:
            final = self.final
            known = final.latest(trial)
            if known is None or last.state.step >= known.state.step:  # the state of a longer training stays
                final.save(trial, last)
        if files:
            self._check()
            _remove(files)
        if last is None:
            self.clear(trial)
        self._valid.pop(trial.number, None)

    def clear(self, trial: Trial) -> None:
        """Remove the files that the user's loop of a trial has written itself."""
        folder = self.own_files / str(trial.number)
        if folder.is_dir():
            self._check()
            shutil.rmtree(folder, ignore_errors=True)
        self._remove_empty_folders()

    @property
    def own_files(self) -> Path:
        """The folder with a folder for each trial, named after its number, for the files of the user's loop."""
        return self.folder.absolute() / "loops" / hashlib.sha256(self._of.encode()).hexdigest()[:8]

    @property
    def final(self) -> "CheckpointFiles":
        """The states that trials have ended with."""
        return CheckpointFiles(self.folder / "final", self._of, self._largest, self._say, self._check)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder for the duration of a with block.

        Raises:
            InvalidValueError: names train.checkpoint_dir if the folder cannot be created, or another process uses it.
        """
        self.prepare()
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(self.folder))
            except FolderLockedError as error:
                rule = f"is in use by {error}; wait until it ends, or stop it"
                raise InvalidValueError("train.checkpoint_dir", self.folder, rule) from error
            yield

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            InvalidValueError: names train.checkpoint_dir if it cannot be created or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            rule = f"cannot be created: {error.strerror}"
            raise InvalidValueError("train.checkpoint_dir", self.folder, rule) from error
        if not os.access(self.folder, os.W_OK):
            raise InvalidValueError("train.checkpoint_dir", self.folder, "cannot be written to")

    def remove_others(self, numbers: Collection[int] = ()) -> None:
        """Remove temporary files that a crash has left, the files of all trials but these, and an empty folder."""
        _remove(path for path in self._files() if _number(path) not in numbers)
        _remove(self.folder.glob(f"*{atomic.TEMPORARY}"))
        kept = [self.own_files / str(number) for number in numbers]
        for folder in self.folder.absolute().glob("loops/*/*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        self._remove_empty_folders()
        with suppress(OSError):  # as below
            self.folder.rmdir()

    def _remove_empty_folders(self) -> None:
        for folder in (*self.folder.glob("loops/*"), self.folder / "loops"):
            with suppress(OSError):  # it is not empty, or does not exist
                folder.rmdir()

    def _files(self, number: int | None = None) -> list[Path]:
        """Return the files of a trial, or of all trials, oldest first."""
        found = [path for path in self.folder.glob(f"*{SUFFIX}") if number is None or _number(path) == number]
        return sorted(found, key=lambda path: path.name.rpartition("-")[2])

    def _encoded(self, number: int, checkpoint: Checkpoint) -> bytes:
        header = {
            "of": self._of,
            "number": number,
            "first": checkpoint.first,
            "last": checkpoint.last,
            "step": checkpoint.state.step,
            "evaluations": [[one.step, dict(one.metrics)] for one in checkpoint.evaluations],
        }
        return container.encode(header, [checkpoint.state.content, checkpoint.record])

    def _read(self, path: Path, number: int) -> Checkpoint:
        """Return the checkpoint of a file.

        Raises:
            DamagedError: if it is not a valid checkpoint of that trial.
            OSError: if it cannot be read.
        """
        header, (state, record) = container.decode(_own_file(path, self._largest))
        if header["of"] != self._of or header["number"] != number:
            raise DamagedError("it belongs to another training")
        evaluations = [Evaluation(number, step, metrics) for step, metrics in header["evaluations"]]
        return Checkpoint(header["first"], header["last"], Snapshot(header["step"], state), evaluations, record)


def _number(path: Path) -> int | None:
    """Return the number of the trial in the name of a file; None if it has none."""
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else None


def _own_file(path: Path, largest: int) -> bytes:
    """Return the content of a regular file of this user.

    Raises:
        DamagedError: for a link, a device or a pipe, for a file of another user, and for one that is too large.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
            raise DamagedError("it is not a regular file of this user")
        if about.st_size > largest:
            raise DamagedError(f"it has {about.st_size:,} bytes; a checkpoint has at most {largest:,}")
        return file.read(about.st_size)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
