"""Create the engine, the checkpoints and the store that a search or a training uses."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from sweep.app.files import folder_name
from sweep.checkpoints import CheckpointFiles
from sweep.config import EngineConfig, RunConfig, TrackingConfig
from sweep.core import Trial
from sweep.data import Dataset
from sweep.errors import UnavailableError
from sweep.tracking import Hooks, Store, open_store
from sweep.training import Account, EngineProcess, Work, choose_device, largest_checkpoint

SETTLING = 60.0
"""Seconds that a tracking server may make no progress while it is waited for."""


def engine_of(
    config: EngineConfig,
    data: Dataset,
    work: Work,
    retries: int,
    say: Callable[[str], None],
    interrupted: Callable[[], bool],
    on_begun: Callable[[Trial], None] = lambda trial: None,
) -> EngineProcess:
    """Return the engine that trains on a data set; it says what it is.

    Args:
        work: what is to be trained.
        retries: how often a trial is tried again whose process was lost, or for which the memory was too small.
        on_begun: told each trial when its training begins.
    """
    return EngineProcess(
        config,
        data,
        choose_device(work.like[0].train),
        work,
        on_chosen=lambda account: say(engine_text(account)),
        on_begun=on_begun,
        interrupted=interrupted,
        retries=retries,
        say=say,
    )


def checkpoints_of(
    run: RunConfig,
    data: Dataset,
    name: str,
    of: str,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> CheckpointFiles:
    """Return where the checkpoints of a study or training are.

    Args:
        run: a configuration like those that are trained.
        name: of the folder.
        of: what they are of.
        check: raises where this process may not write.
    """
    folder = Path(run.train.checkpoint_dir) / folder_name(name)
    return CheckpointFiles(folder, of, largest_checkpoint(run, data), say, check)


def engine_text(account: Account) -> str:
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
        raise UnavailableError(f"the tracking server does not answer: {left} changes of the record wait on the disk")
