"""Create the engine, the checkpoints and the store that a search or a training uses."""

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

SETTLING = 60.0
"""Seconds that a tracking server may make no progress while it is waited for."""


OF_SPEED = ("batch_size", "accumulate", "drop_last", "precision", "compile", "workers", "device")
"""Keys of train that the speed of an update depends on."""


@dataclass
class Engines:
    """Starts the engines of one command. Each kind of training is measured once.

    Args:
        trainer: the process that they train in.
        say: told which engine is used, and why.
        interrupted: asked while an engine is chosen.
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
        """Return an engine.

        Args:
            work: what is to be trained.
            retries: how often a trial is tried again whose process was lost, or for which the memory was too small.
            on_begun: told each trial when its training begins.
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
        """Return what the speed of a training depends on: data, models, optimizers and batches, but no rates."""
        parts = {
            json.dumps(
                [run.resolved["model"], run.optimizer.component.target, run.average.name]
                + [getattr(run.train, key) for key in OF_SPEED]
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
    """Return where the checkpoints of a study or training are.

    Args:
        trainer: knows how large they can be.
        run: a configuration like those that are trained.
        name: of the folder.
        of: what they are of.
        check: raises where this process may not write.
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
    """Return where the weights of the best trial of a study, or of a training, are kept: beside its checkpoints.

    Args:
        name: of the folder.
        ranking: with the best trial so far.
        held: the file that has the weights of that trial, as recorded.
        check: raises where this process may not write.
    """
    folder = Path(run.train.checkpoint_dir) / folder_name(name) / "weights"
    return WeightFiles(folder, ranking, held, say, check)


def save_weights(trial: TrialRecord | None, path: str) -> str | None:
    """Write the weights of a recorded trial to the file of train.save.

    Args:
        trial: None if no trial is complete.

    Returns:
        The reason for which it cannot be written; None if it is.
    """
    if trial is None or trial.status is not Status.COMPLETE:
        return f"{path} is not written: no training is complete"
    if trial.weights is None or not Path(trial.weights).is_file():
        of = "the training" if trial.number is None else f"trial {trial.number}"
        return f"{path} is not written: the weights of {of} are not kept; mode=train trains it again, with train.save"
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
    """Open the store to record into, create it where there is none, and deliver what an earlier command could not.

    Args:
        name: of the study, comparison or training; in its folder of checkpoints waits what a server does not take.

    Raises:
        UnavailableError: if it does not take it now either.
    """
    hooks = Hooks(say, interrupted)
    # what waits is for this store alone
    server = hashlib.sha256(f"{tracking.uri} {tracking.experiment}".encode()).hexdigest()[:8]
    folder = Path(checkpoint_dir) / folder_name(name) / "undelivered" / server
    store = open_store(tracking, spool=folder, hooks=hooks)
    settle(store, interrupted)
    return store


def settle(store: Store, interrupted: Callable[[], bool]) -> None:
    """Wait until the store has everything.

    Raises:
        UnavailableError: if it does not take it.
        KeyboardInterrupt: if it has not taken it when a signal comes.
    """
    left = store.settle(SETTLING, interrupted)
    if left and interrupted():
        raise KeyboardInterrupt
    if left:
        waiting = plural(left, "change of the record waits", "changes of the record wait")
        raise UnavailableError(f"the tracking server does not answer: {waiting} on the disk")
