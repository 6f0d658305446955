"""Creates the engine, the checkpoints and the store of a search or a training."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

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

SETTLE_TIMEOUT = 60.0
"""Longest wait for a tracking server that makes no progress, seconds."""

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


def store_of(
    tracking: TrackingConfig,
    checkpoint_dir: str,
    name: str,
    say: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> Store:
    """Open or create the store for the record, and deliver what an earlier command could not deliver.

    Args:
        name: name of the study, comparison or training, whose folder of checkpoints has what is not yet delivered.

    Raises:
        UnavailableError: if it cannot be delivered now, either.
    """
    hooks = Hooks(say, interrupted)
    # undelivered changes are for this store only
    server = hashlib.sha256(f"{tracking.uri} {tracking.experiment}".encode()).hexdigest()[:8]
    folder = Path(checkpoint_dir) / folder_name(name) / "undelivered" / server
    store = open_store(tracking, spool=folder, hooks=hooks)
    settle(store, interrupted)
    return store


def settle(store: Store, interrupted: Callable[[], bool]) -> None:
    """Wait until everything is delivered to the store.

    Raises:
        UnavailableError: if the store makes no progress for SETTLE_TIMEOUT.
        KeyboardInterrupt: if a signal interrupts the wait.
    """
    left = store.settle(SETTLE_TIMEOUT, interrupted)
    if left and interrupted():
        raise KeyboardInterrupt
    if left:
        waiting = plural(left, "change of the record waits", "changes of the record wait")
        raise UnavailableError(f"the tracking server does not answer: {waiting} on the disk")
