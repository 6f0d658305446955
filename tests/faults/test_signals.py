"""SIGTERM, SIGINT, SIGUSR1 and SIGHUP at random moments, once and twice."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from random import Random

import pytest

from tests.faults.harness import (
    DONE,
    FUSED_RANDOM,
    INTERRUPTED,
    LONG,
    ROOT,
    SERIAL_MEDIAN,
    SERIAL_TPE,
    WORKERS_TPE,
    Bench,
    Case,
    Command,
)

SECONDS = 10
"""In which a command is gone, if it has a core to itself."""


def patience() -> float:
    """Seconds in which a command is gone on this machine, as busy as it is now."""
    return SECONDS if LONG else SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


RESUMES = re.compile(r"run the same command to resume")
CASES = (SERIAL_TPE, FUSED_RANDOM, SERIAL_MEDIAN)


def check_stopped(command: Command, number: int, sent: float) -> None:
    """It ends soon, says how to go on, and that it was interrupted, unless it was done."""
    status = command.wait(patience())
    took = time.monotonic() - sent
    name = signal.Signals(number).name
    assert status is not None, f"{name}: still there after {took:.1f} s:\n{command.said}"
    assert "Traceback" not in command.said, command.said
    if status == DONE:
        return
    if not command.said and status < 0:
        return  # nothing was begun
    assert status == INTERRUPTED, f"{name}: status {status}:\n{command.said}"
    assert RESUMES.search(command.last_line), command.said


def endure(bench: Bench, case: Case, random: Random, number: int, twice: bool, signals: int) -> int:
    """One search, signalled at most so often, then carried out to its end and compared; how often it was signalled."""
    folder, done = bench.folder(), 0
    for _ in range(signals):
        wait, group = bench.moment(case, random), number == signal.SIGINT and random.random() < 0.5
        command = bench.zygote.start(folder, case.overrides)
        sent = time.monotonic()
        if wait(command):
            sent = time.monotonic()
            done += command.signal(number, group)
            if twice:
                bench.zygote.listen(random.uniform(0, 0.05))
                command.signal(number, group)
        check_stopped(command, number, sent if sent > command.began else time.monotonic())
        if command.status == DONE:
            break
    if command.status != DONE:
        bench.finish(case, folder)
    bench.check(case, folder, signal.Signals(number).name, "twice" if twice else "once")
    return done


SIGNALS = [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, False)]
if LONG:
    SIGNALS += [(signal.SIGINT, True), (signal.SIGHUP, False), (signal.SIGHUP, True)]
    SIGNALS += [(signal.SIGUSR1, False), (signal.SIGUSR1, True)]
SHORT = [(signal.SIGTERM, True, CASES), (signal.SIGINT, False, (WORKERS_TPE,))]
ALL = [
    pytest.param(number, twice, cases, marks=[] if (number, twice, cases) in SHORT else pytest.mark.long)
    for (number, twice), cases in product(SIGNALS, [CASES, (WORKERS_TPE,)])
]


@pytest.mark.parametrize(("number", "twice", "cases"), ALL, ids=str)
def test_a_signal_stops_the_search_soon_and_the_same_command_goes_on(
    bench: Bench, note: Callable[..., None], number: signal.Signals, twice: bool, cases: tuple[Case, ...]
) -> None:
    wanted = (100 if number == signal.SIGTERM and not twice else 30) if LONG else 2
    random, done, in_vain = Random(f"{number} {twice}"), 0, 0
    try:
        while done < wanted:
            case = random.choice(cases)
            often = endure(bench, case, random, number, twice, min(wanted - done, 8))
            done, in_vain = done + often, 0 if often else in_vain + 1
            assert in_vain < 20, "no signal comes in time"
    finally:
        note(number.name + (" twice" if twice else ""), ", ".join(case.name for case in cases), done)


def test_a_signal_during_the_imports_ends_the_command_without_a_traceback(
    bench: Bench, note: Callable[..., None]
) -> None:
    """A process of its own, as a user begins it; the first half second belongs to the interpreter."""
    random, done = Random("imports"), 0
    rounds = 20 if LONG else 2
    try:
        for round_ in range(rounds):
            folder, number = bench.folder(), (signal.SIGTERM, signal.SIGINT)[round_ % 2]
            process = subprocess.Popen(
                [sys.executable, "-m", "sweep", *SERIAL_TPE.overrides],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            time.sleep(random.uniform(0.5, 5))
            process.send_signal(number)
            said, _ = process.communicate(timeout=patience())
            done += 1
            assert "Traceback" not in said, said
            assert process.returncode != 0 or "report: " in said
            if process.returncode == INTERRUPTED and "trials done" in said:
                assert RESUMES.search(said.strip().splitlines()[-1]), said
            bench.finish(SERIAL_TPE, folder)
            bench.check(SERIAL_TPE, folder, number.name)
    finally:
        note("SIGTERM, SIGINT during the imports", SERIAL_TPE.name, done)
