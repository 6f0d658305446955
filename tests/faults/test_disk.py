"""A disk that is full at any level, from nothing left to almost enough."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import (
    DONE,
    FAILED,
    FUSED_RANDOM,
    LONG,
    REFUSED,
    SERIAL_RANDOM,
    SERIAL_TPE,
    Bench,
    Case,
    Command,
    check_no_step_missing_or_twice,
    compare,
    final_table,
    is_one_clear_line,
    small_disk,
    used,
)

LEVELS = 50 if LONG else 5
ENOUGH = 1 << 28
CASES = (SERIAL_RANDOM, SERIAL_TPE, FUSED_RANDOM)
FULL = re.compile(r"(?i)full|no space|no room")
NAMED = re.compile(r"mlflow\.db|optuna\.db|study\.storage|tracking\.uri|checkpoint|report|mlruns|/\S+")
"""What a message says is full: a file, a folder, or the key that names it."""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder that a small disk may be mounted at; skips where none may."""
    at = tmp_path / "disk"
    try:
        with small_disk(at, 1 << 20):
            pass
    except (PermissionError, FileNotFoundError) as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    return at


def needed(bench: Bench, disk: Path, case: Case) -> int:
    """Bytes that a search adds to a folder that has databases already."""
    with small_disk(disk, ENOUGH):
        folder = bench.folder(base=disk)
        before = used(disk)
        bench.finish(case, folder)
        return used(disk) - before


def check_said(command: Command) -> None:
    """One clear line that names what is full."""
    assert command.status in (FAILED, REFUSED), f"status {command.status}:\n{command.said}"
    assert "Traceback" not in command.said, command.said
    assert is_one_clear_line(command.said), command.said
    lines = [line for line in command.said.splitlines() if line.startswith("sweep: ")]
    assert any(FULL.search(line) and NAMED.search(line) for line in lines), command.said


def test_a_full_disk_is_said_and_the_same_command_goes_on_when_there_is_room(
    bench: Bench, note: Callable[..., None], disk: Path
) -> None:
    failed = 0
    most = {case: needed(bench, disk, case) for case in (CASES if LONG else CASES[:1])}
    try:
        for level in range(LEVELS):
            case = list(most)[level % len(most)]
            empty = level % 10 == 9  # not even databases
            left = int(most[case] * level / LEVELS)
            with small_disk(disk, ENOUGH) as resize:
                folder = bench.folder(empty=empty, base=disk)
                resize(used(disk) + left)
                command = bench.zygote.start(folder, case.overrides)
                status = command.wait(90)
                told = f"{case.name}, {left} bytes left{', no databases' if empty else ''}"
                try:
                    assert status is not None, f"hangs:\n{command.said}"
                    if status != DONE:
                        failed += 1
                        check_said(command)
                    resize(ENOUGH)
                    bench.finish(case, folder)
                    check_no_step_missing_or_twice(folder)
                    compare(final_table(folder), bench.uninterrupted(case).table, case)
                except AssertionError as error:
                    error.add_note(told)
                    raise
                finally:
                    command.signal(9, group=True)
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        note("disk full", f"{len(most)} searches", failed)
    assert failed >= LEVELS // 2
