"""A folder of what is still to be delivered: written durably, in order, whole or not at all."""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sweep import atomic
from sweep.errors import SpoolInUseError, StorageFullError

MAGIC = b"sweep spool 1\n"
DIGEST = hashlib.sha256().digest_size
AT_ONCE = 1 << 20
"""Bytes of which a digest is taken at once."""
PATIENCE = 5.0
"""Seconds in which a process that was killed may end."""

Blob = bytes | memoryview


class DamagedError(ValueError):
    """A file of a spool is not what was written."""


@dataclass(frozen=True)
class Operation:
    """What is to be done at a server.

    Args:
        about: what JSON can hold.
        blobs: bytes of a file that is mapped: they are in memory only while they are looked at.
    """

    about: Mapping[str, Any]
    blobs: Sequence[memoryview]


class Spool:
    """Operations in files numbered in their order, for their owner only.

    A file ends with a digest of itself. A crash while one is written leaves only a temporary file, which is swept.
    Beside them: `runs/`, what has become of the runs that were to be created; `refused/`, operations that cannot be
    delivered, each with a text that says why. To have one tried again, move it back.

    Args:
        folder: is created.

    Raises:
        SpoolInUseError: if another process has opened the folder.
        StorageFullError: if the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._refused, self._runs = folder, folder / "refused", folder / "runs"
        for path in (folder, self._refused, self._runs):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)  # holds who has it, for people
        self._take()
        for path in (*folder.glob(f"*{atomic.TEMPORARY}"), *self._runs.glob(f"*{atomic.TEMPORARY}")):
            path.unlink()
        self._next = max((int(path.stem) for path in self._files(folder, self._refused)), default=0) + 1

    def _take(self) -> None:
        """Be the only process; a lock of this kind is not inherited by processes that are forked."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return
            except OSError as error:
                if time.monotonic() > until:
                    who = os.pread(self._lock, 1000, 0).decode(errors="replace") or "another command"
                    rule = f"{who} delivers to the tracking server what waits in {self.folder}"
                    raise SpoolInUseError(f"{rule}; wait until it has ended, or stop it") from error
                time.sleep(0.1)

    def close(self) -> None:
        """Let another process open the folder."""
        os.close(self._lock)

    @staticmethod
    def _files(*folders: Path) -> list[Path]:
        return [path for folder in folders for path in folder.glob("*.op") if path.stem.isdecimal()]

    def numbers(self) -> list[int]:
        """The operations that wait, in their order."""
        return sorted(int(path.stem) for path in self._files(self.folder))

    def append(self, about: Mapping[str, Any], blobs: Iterable[Blob] = ()) -> int:
        """Keep an operation; its number. It is on the disk when this returns.

        Raises:
            StorageFullError: names the file; nothing is kept.
        """
        number, blobs = self._next, list(blobs)
        head = json.dumps({**about, "blobs": [len(blob) for blob in blobs]}).encode()
        parts = [MAGIC, len(head).to_bytes(8, "little"), head, *blobs]
        _write(self._path(number), [*parts, _digest(parts)])
        self._next += 1
        return number

    def load(self, number: int) -> Operation:
        """An operation that waits.

        Raises:
            DamagedError: if the file is not as it was written.
        """
        path = self._path(number)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < len(MAGIC) + 8 + DIGEST:
                raise DamagedError("is cut short")
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if _digest([content[:-DIGEST]]) != content[-DIGEST:]:
            raise DamagedError("is not what was written: its digest differs")
        if content[: len(MAGIC)] != MAGIC:
            raise DamagedError("is of another version")
        first = len(MAGIC) + 8
        last = first + int.from_bytes(content[len(MAGIC) : first], "little")
        about = json.loads(bytes(content[first:last]))
        ends = np.cumsum([last, *about.pop("blobs")]).tolist()
        return Operation(about, [content[a:b] for a, b in pairwise(ends)])

    def remove(self, number: int) -> None:
        """Forget an operation that was delivered: after a power cut it does not come again after later ones."""
        self._path(number).unlink(missing_ok=True)
        atomic.fsync_folder(self.folder)

    def refuse(self, number: int, why: str) -> Path:
        """Put an operation aside that cannot be delivered; where it is then."""
        path = self._refused / self._path(number).name
        path.with_suffix(".txt").write_text(why + "\n", encoding="utf-8")
        os.replace(self._path(number), path)
        atomic.fsync_folder(self.folder)
        return path

    def keep_run(self, key: str, about: Mapping[str, Any]) -> None:
        """Keep what has become of a run that was to be created."""
        _write(self._runs / f"{key}.json", [json.dumps(about).encode()])

    def runs(self) -> dict[str, dict[str, Any]]:
        """What has become of runs, by their key."""
        return {path.name.removesuffix(".json"): json.loads(path.read_bytes()) for path in self._runs.glob("*.json")}

    def forget_run(self, key: str) -> None:
        """Nothing that waits is of this run any more."""
        (self._runs / f"{key}.json").unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:012d}.op"


def _write(path: Path, parts: Sequence[Blob]) -> None:
    """A file that no crash can damage.

    Raises:
        StorageFullError: names it, if there is no room.
    """
    try:
        atomic.atomic_write(path, parts)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(f"{path} cannot be written: {error.strerror}") from error
        raise


def _digest(parts: Iterable[Blob]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        view = memoryview(part)
        for first in range(0, len(view), AT_ONCE):
            digest.update(view[first : first + AT_ONCE])
    return digest.digest()
