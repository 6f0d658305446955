"""The lock of a folder: one process at a time, named to the others, released however the process ends."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.checkpoints import CheckpointFiles
from sweep.errors import InvalidValueError
from sweep.folder_lock import FolderLockedError, locked_folder
from tests.conftest import ROOT

HOLD = "import sys; from pathlib import Path; from sweep.folder_lock import locked_folder\n"
HOLD += "with locked_folder(Path(sys.argv[1])): print('locked', flush=True); input()\n"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has locked the folder."""
    command, environment = [sys.executable, "-c", HOLD, str(tmp_path)], os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_at_once_and_told_the_first(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    by = rf"process {holder.pid} on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(FolderLockedError, match=f"^{by}$"), locked_folder(tmp_path):
        pass
    files = CheckpointFiles(tmp_path, "study", 1000)
    with pytest.raises(InvalidValueError, match=rf"^train\.checkpoint_dir=.*: is in use by {by}; wait"), files.locked():
        pass


def test_a_process_that_ends_is_waited_for(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(FolderLockedError), locked_folder(tmp_path, wait_seconds=0.2):
        pass
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    with locked_folder(tmp_path, wait_seconds=60):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_lock_ends_with_the_process(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    for _ in range(2):
        with locked_folder(tmp_path), pytest.raises(FolderLockedError), locked_folder(tmp_path):
            pass
    assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_link_at_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="lock"), locked_folder(tmp_path):
        pass
    assert not (tmp_path / "target").exists()
