"""Creates the engine, the checkpoints and the store of a search or a training."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweep import atomic
from sweep.app.files import folder_name
from sweep.checkpoints import CheckpointFiles
from sweep.config import EngineConfig, RunConfig, TrackingConfig
from sweep.core import Status, Trial, TrialRecord
from sweep.errors import UnavailableError
from sweep.messages import EngineStats, Measured, Ranking, Work
from sweep.plurals import plural
from sweep.pool import PooledEngine, Trainer
from sweep.tracking import Hooks, Store, open_store
from sweep.weights import WeightFiles

SETTLING_SECONDS = 60.0
"""Seconds that a command waits at its end for a tracking server that makes no progress."""
RECORD = "record"
"""The folder of the local records, beside the checkpoints of a study, comparison or training."""

SPEED_KEYS = ("batch_size", "accumulate", "drop_last", "precision", "compile", "workers", "device")
"""Keys of train on which the speed of an update depends."""


@dataclass
class Engines:
    """Starts the engines of one command, and measures the speed of each kind of training once.

    Args:
        trainer: the process in which they train.
        say: shows which engine is used, and why.
        interrupted: returns whether the command is interrupted; called while an engine is chosen.
    """

    trainer: Trainer
    say: Callable[[str], None]
    interrupted: Callable[[], bool]
    _measured: dict[str, Measured] = field(default_factory=dict)

    def start(
        self,
        config: EngineConfig,
        work: Work,
        retries: int,
        on_begun: Callable[[Trial], None] = lambda trial: None,
    ) -> PooledEngine:
        """Return a started engine.

        Args:
            work: the trainings.
            retries: number of retries of a trial whose process was lost or ran out of memory.
            on_begun: called with each trial when its training starts.
        """
        kind = self._kind(config, work)

        def chosen(account: EngineStats) -> None:
            self.say(engine_text(account))
            if account.measured is not None:
                self._measured[kind] = account.measured

        return PooledEngine(
            self.trainer,
            config,
            work,
            on_chosen=chosen,
            on_begun=on_begun,
            interrupted=self.interrupted,
            retries=retries,
            say=self.say,
            known=self._measured.get(kind),
        )

    def _kind(self, config: EngineConfig, work: Work) -> str:
        """Return a text of everything on which the speed of a training depends; rates are not part of it."""
        parts = {
            json.dumps(
                [run.resolved["model"], run.optimizer.component.target, run.average.name]
                + [getattr(run.train, key) for key in SPEED_KEYS]
            )
            for run in work.like
        }
        return json.dumps([asdict(config), self.trainer.facts_of(work.like[0]).digest, sorted(parts)])


def checkpoints_of(
    trainer: Trainer,
    run: RunConfig,
    name: str,
    of: str,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> CheckpointFiles:
    """Return the checkpoints of a study or training.

    Args:
        trainer: computes the largest size of a checkpoint.
        run: one of the configurations.
        name: name of the study or training, from which the name of the folder is derived.
        of: owner that the checkpoints name.
        check: raises an error if this process must not write any more.
    """
    folder = Path(run.train.checkpoint_dir) / folder_name(name)
    return CheckpointFiles(folder, of, trainer.largest_checkpoint(run), say, check)


def weights_of(
    run: RunConfig,
    name: str,
    ranking: Ranking,
    held: str | None,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> WeightFiles:
    """Return the files with the weights of the best trial of a study, or of a training, beside the checkpoints.

    Args:
        name: name of the study or training, from which the name of the folder is derived.
        ranking: the ranking, with the best trial so far.
        held: recorded path of the weights of that trial; None if they are not stored.
        check: raises an error if this process must not write any more.
    """
    folder = Path(run.train.checkpoint_dir) / folder_name(name) / "weights"
    return WeightFiles(folder, ranking, held, say, check)


def save_weights(trial: TrialRecord | None, path: str) -> str | None:
    """Write the weights of a recorded trial to train.save.

    Args:
        trial: the trial; None if no trial is complete.
        path: train.save.

    Returns:
        Why the file cannot be written; None if it was written.
    """
    if trial is None or trial.status is not Status.COMPLETE:
        return f"{path} is not written: no training is complete"
    if trial.weights is None or not Path(trial.weights).is_file():
        of = "the training" if trial.number is None else f"trial {trial.number}"
        return f"{path} is not written: the weights of {of} are not stored; mode=train trains it again, with train.save"
    atomic.atomic_write(Path(path), [Path(trial.weights).read_bytes()])
    return None


def engine_text(account: EngineStats) -> str:
    """Return one line that says which engine is used, and why."""
    if account.name == "serial":
        return f"engine: serial ({account.why})"
    if account.name == "data_parallel":
        return f"engine: data_parallel, {account.workers} workers ({account.why})"
    compiled = ", compiled" if account.compiled else ""
    return (
        f"engine: fused, {account.slots} trials at once{compiled} ({account.why}; ready after {account.prepared:.1f} s)"
    )


def record_folder(tracking: TrackingConfig, checkpoint_dir: str, name: str) -> Path:
    """Return the folder of the local record of a study, comparison or training: one for each server and experiment."""
    parts = urlsplit(tracking.uri)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # a password may change
    server = hashlib.sha256(f"{address} {tracking.experiment}".encode()).hexdigest()[:8]
    return Path(checkpoint_dir) / folder_name(name) / RECORD / server


@contextmanager
def recording(
    tracking: TrackingConfig,
    folder: Path,
    kind: str,
    wanted: Callable[[Any], bool],
    say: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> Iterator[Store]:
    """Open the store to record into for the duration of a with block; it is created where there is none.

    A tracking server is compared with the local record first, and brought up to date in the background.

    Args:
        folder: of the local record.
        kind, wanted: the runs that belong to it, as for Replica.pull.

    Raises:
        UnavailableError: if the server does not answer.
    """
    store = open_store(tracking, record=folder, hooks=Hooks(say, interrupted))
    try:
        if store.replica is not None:
            store.replica.pull(kind, wanted, interrupted)
            store.replica.start()
        yield store
    finally:
        if store.replica is not None:
            store.replica.close()


def settle(store: Store, interrupted: Callable[[], bool]) -> None:
    """Wait until the tracking server has everything; nothing to do for a database.

    Raises:
        UnavailableError: if the server is not up to date.
        KeyboardInterrupt: if it is not when a signal comes.
    """
    left = 0 if store.replica is None else store.replica.settle(SETTLING_SECONDS, interrupted)
    if left and interrupted():
        raise KeyboardInterrupt
    if left and store.replica is not None:
        waiting = f"{plural(left, 'run')} of the local record {store.replica.folder} must still be sent"
        raise UnavailableError(f"the tracking server does not answer: {waiting}; mode=sync sends them, too")
