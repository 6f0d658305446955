"""Bring a tracking server up to date with the local records of studies, comparisons and trainings."""

from collections.abc import Callable
from contextlib import closing
from glob import escape
from pathlib import Path

from sweep.app.files import folder_name
from sweep.app.resources import record_folder, settle
from sweep.config import TrackingConfig
from sweep.tracking import RECORD_FILE, Hooks, open_store


def sync(
    tracking: TrackingConfig,
    checkpoint_dir: str,
    name: str | None,
    say: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> int:
    """Send what the server lacks, and import what others wrote there; return how many local records there are.

    Args:
        name: of the study, comparison or training; None for all that have a local record of this server.

    Raises:
        RecordInUseError: if a command is running that uses a record; it brings the server up to date itself.
        UnavailableError: if the server does not answer.
    """
    server = record_folder(tracking, checkpoint_dir, "any").relative_to(Path(checkpoint_dir) / "any")
    names = "*" if name is None else escape(folder_name(name))
    files = sorted(Path(checkpoint_dir).glob(f"{names}/{server}/{RECORD_FILE}"))
    for file in files:
        store = open_store(tracking, record=file.parent, hooks=Hooks(say, interrupted))
        assert store.replica is not None
        with closing(store.replica) as replica:
            replica.pull_known(interrupted)
            waiting = replica.waiting
            replica.start()
            settle(store, interrupted)
        say(f"{file.parent}: {waiting} runs sent" if waiting else f"{file.parent}: the server was up to date")
    return len(files)
