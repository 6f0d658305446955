"""A database that another connection has locked; a study that another command is at."""

import re
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from tests.conftest import diagonal, long
from tests.faults.harness import (
    DONE,
    FUSED_RANDOM,
    LONG,
    REFUSED,
    SERIAL_TPE,
    Bench,
    Case,
    Command,
    check_no_step_missing_or_twice,
    compare,
    every_row,
    final_table,
    is_one_clear_line,
    search,
)

LOCKED = 25.0 if LONG else 3.0
"""Seconds; MLflow itself waits for 20."""

SLOW = search("engine=serial", "sampler=random", "pruner=none", "study.name=slow", steps=40000)
"""A search that is still at it when the next command comes."""

BRIEF = search("engine=serial", "sampler=random", "pruner=none", "study.name=brief", steps=1000, trials=8)
"""One that takes seconds: it is stopped in the midst of them."""


LEASE = "sweep.proposals.lease.LEASE"


def lock(database: Path, seconds: float, bench: Bench) -> None:
    """Nothing else may write to it for so long."""
    connection = sqlite3.connect(database, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            bench.zygote.listen(left)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("name", "when"), diagonal(["mlflow.db", "optuna.db"], ["while it trains", "before it begins"])
)
def test_a_locked_database_is_waited_for(bench: Bench, note: Callable[..., None], name: str, when: str) -> None:
    random, wanted, waited = Random(name + when), 3 if LONG else 1, 0
    for round_ in range(5 * wanted):
        case = (SERIAL_TPE, FUSED_RANDOM)[round_ % 2]
        reference, folder = bench.uninterrupted(case), bench.folder()
        if when == "before it begins":
            with closing(sqlite3.connect(folder / name)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        command = bench.zygote.start(folder, case.overrides)
        if when == "while it trains":
            assert command.wait_for("engine: ")
            command.wait(random.uniform(0, (reference.seconds - reference.training) / 3))
        lock(folder / name, LOCKED, bench)
        waited += command.status is None
        assert command.wait(90) == DONE, command.said
        bench.check(case, folder, name, when)
        if waited == wanted:
            break
    note(f"{name} locked for {LOCKED:.0f} s", when, waited)
    assert waited == wanted, "the lock came too late"


def begin(bench: Bench, overrides: tuple[str, ...], folder: Path, **assign: object) -> Command:
    """A search that trains already."""
    command = bench.zygote.start(folder, overrides, assign=assign)
    assert command.wait_for("engine: "), command.said
    return command


def stop(command: Command, folder: Path) -> None:
    """Stop it outside a transaction: whoever is stopped within one keeps the database locked, and all others wait."""
    while command.status is None:
        command.signal(signal.SIGSTOP, group=True)
        time.sleep(0.05)  # a signal is sent before it has acted
        if all(may_be_written(folder / name) for name in ("mlflow.db", "optuna.db")):
            return
        command.signal(signal.SIGCONT, group=True)
        time.sleep(0.01)


def may_be_written(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def test_a_second_command_on_a_study_is_refused(bench: Bench, note: Callable[..., None]) -> None:
    folder = bench.folder()
    first = begin(bench, SLOW, folder)
    try:
        second = bench.zygote.start(folder, SLOW)
        assert second.wait(30) == REFUSED, second.said
        assert is_one_clear_line(second.said), second.said
        assert str(first.pid) in second.last_line, "it says who"
        assert re.search(r"\d\d:\d\d", second.last_line), "it says since when"
        assert first.status is None
        first.signal(signal.SIGINT)
        assert first.wait(20) == 130, first.said
        third = begin(bench, SLOW, folder)  # nothing is left of the lease of one that ended
        third.signal(signal.SIGINT)
        assert third.wait(20) == 130, third.said
    finally:
        first.signal(signal.SIGKILL, group=True)
    note("second command", "serial, random", 1)


def test_a_command_that_was_killed_leaves_nothing_that_refuses_the_next_for_long(bench: Bench) -> None:
    folder = bench.folder()
    first = begin(bench, SLOW, folder)
    first.signal(signal.SIGKILL)
    first.wait(10)
    second = begin(bench, SLOW, folder)
    second.signal(signal.SIGKILL, group=True)


@pytest.mark.parametrize("wakes", [long("while another is at it"), "when another has finished it"])
def test_a_command_that_was_stopped_for_longer_than_its_lease_writes_nothing_more(
    bench: Bench, note: Callable[..., None], wakes: str
) -> None:
    lease: dict[str, object] = {} if LONG else {LEASE: 1.0}
    folder, reference = bench.folder(), bench.folder()
    whole = bench.zygote.start(reference, BRIEF)
    first = begin(bench, BRIEF, folder, **lease)
    stop(first, folder)
    try:
        assert whole.wait(120) == DONE, whole.said
        assert first.status is None, "it ended before it was stopped"
        time.sleep(32 if LONG else 2)
        if wakes == "while another is at it":
            second = begin(bench, BRIEF, folder, **lease)
            first.signal(signal.SIGCONT, group=True)
            assert second.wait(120) == DONE, second.said
        else:
            second = bench.zygote.start(folder, BRIEF, assign=lease)
            assert second.wait(120) == DONE, second.said
            rows = every_row(folder)
            first.signal(signal.SIGCONT, group=True)
        status = first.wait(60)
        assert status not in (DONE, None), f"status {status}:\n{first.said}"
        assert is_one_clear_line(first.said), first.said
        if wakes != "while another is at it":
            assert every_row(folder) == rows
        check_no_step_missing_or_twice(folder)
        compare(final_table(folder), final_table(reference), Case("brief", BRIEF))
    finally:
        first.signal(signal.SIGKILL, group=True)
    note("stopped, its lease ended", wakes, 1)
