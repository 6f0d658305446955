"""Files with the weights of the best trial of a study, or of a single training."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sweep import atomic
from sweep.core import Result
from sweep.messages import Ranking

SUFFIX = ".pt"


class WeightFiles:
    """The weights of the best trial of a study: FOLDER/NUMBER-DIGEST.pt, a state dict as torch saves it.

    The file is fsynced before the record of the trial is closed, which names it in a tag. Only then the file of the
    previous best trial is removed. So an interruption at any moment leaves the file that the record names. The digest
    of the content is part of the name, so that the tag of another trial never names this file.

    Args:
        folder: created with the first file, with access for its owner only.
        ranking: the metric of the study, and its best trial so far.
        held: the file of that trial; None if its weights are not stored.
        say: called once if a file cannot be written. The training continues without it.
        check: called before a file is written or removed; raises an error if this process must not do so.
    """

    def __init__(
        self,
        folder: Path,
        ranking: Ranking,
        held: str | None = None,
        say: Callable[[str], None] = lambda text: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.ranking, self._say, self._check = folder, ranking, say, check
        path = None if held is None else folder / Path(held).name
        self._held = path if path is not None and path.is_file() else None
        self._failed = False

    def keep(self, result: Result, weights: bytes | None, duplicate_of: int | None) -> str | None:
        """Store the weights of a trial that has ended, as `core.Weights` says."""
        if result.value is None or not self.ranking.beaten_by(result.value, result.trial):
            return None
        before, self.ranking = self.ranking, replace(self.ranking, best=(result.value, result.trial))
        if weights is not None:
            self._held = self._written(result.trial, weights)
        elif before.best is None or before.best[1] != duplicate_of:
            self._held = None
        return None if self._held is None else str(self._held)

    def _written(self, trial: int, weights: bytes) -> Path | None:
        path = self.folder / f"{trial}-{hashlib.sha256(weights).hexdigest()[:16]}{SUFFIX}"
        self._check()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic.atomic_write(path, [weights])
        except OSError as error:
            if not self._failed:
                self._say(f"the weights of trial {trial} are not stored: {path} cannot be written: {error.strerror}")
            self._failed = True
            return None
        return path

    def forget_others(self) -> None:
        """Remove all weights except those of the best trial, whose record is closed."""
        others = [path for path in self.folder.glob(f"*{SUFFIX}*") if path != self._held]
        if others:
            self._check()
        for path in others:
            with suppress(OSError):
                path.unlink()
        if self._held is None:
            with suppress(OSError):  # it does not exist
                self.folder.rmdir()
