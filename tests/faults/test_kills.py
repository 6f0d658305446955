"""`kill -9` at random moments: of the command, of all that it began, and of the engine alone."""

import signal
from collections.abc import Callable
from random import Random

import pytest

from tests.conftest import long
from tests.faults.harness import (
    DONE,
    FAILED,
    FUSED_RANDOM,
    KILLED,
    LONG,
    SERIAL_MEDIAN,
    SERIAL_RANDOM,
    SERIAL_TPE,
    TRAINING,
    WORKERS_TPE,
    WORKERS_TRAINING,
    Bench,
    Case,
    Command,
    check_no_step_missing_or_twice,
    compare,
    final_state,
    is_one_clear_line,
    mlflow_table,
    same_states,
)

HOW = ("command", "command", "group", "engine", "one process")
"""What is killed: twice as often the command alone, whose engine may live on for a moment; or one of the processes that
train."""

TRAINING_ALONE = ("engine", "one process")
"""What leaves the command alive."""

MOST = 12
"""Kills of one search."""


def kill(command: Command, how: str) -> bool:
    """Whether it came in time."""
    if how == "engine":
        return command.kill_engine()
    if how == "one process":
        return command.kill_engine(lambda pids: pids[command.zygote.started % max(len(pids), 1) :][:1])
    return command.signal(signal.SIGKILL, group=how == "group")


def check_killed(command: Command, how: str) -> None:
    """The command whose engine was killed ends by itself, clearly, if it does not go on."""
    status = command.wait(60)
    if how not in TRAINING_ALONE:
        assert status in (KILLED, DONE), f"status {status}:\n{command.said}"  # it may just have ended by itself
    else:
        assert status in (DONE, FAILED), f"status {status}:\n{command.said}"
        if status == FAILED:
            assert is_one_clear_line(command.said), command.said
            assert "run the same command to resume" in command.last_line


def endure(bench: Bench, case: Case, random: Random, kills: int) -> int:
    """One search, killed at most so often, then carried out to its end and compared; how often it was killed."""
    folder, done = bench.folder(empty=random.random() < 0.15), list[str]()
    for _ in range(kills):
        wait, how = bench.moment(case, random), random.choice(HOW)
        command = bench.zygote.start(folder, case.overrides)
        if not wait(command) or not kill(command, how):
            if command.wait(60) == DONE:
                break
            continue
        check_killed(command, how)
        if command.status == DONE and how not in TRAINING_ALONE:
            break
        done.append(f"{how}: {command.output.name}")
        if command.status == DONE:
            break
    if command.status != DONE:
        bench.finish(case, folder)
    bench.check(case, folder, *done)
    return len(done)


KILLS = (
    {SERIAL_RANDOM: 60, SERIAL_TPE: 200, SERIAL_MEDIAN: 60, FUSED_RANDOM: 200, WORKERS_TPE: 60}
    if LONG
    else {SERIAL_TPE: 3, SERIAL_MEDIAN: 2, FUSED_RANDOM: 4, WORKERS_TPE: 2}
)


@pytest.mark.parametrize(
    "case", [long(case) if case is SERIAL_TPE else case for case in KILLS], ids=lambda case: case.name
)
def test_a_search_killed_at_random_moments_equals_one_that_was_not(
    bench: Bench, note: Callable[..., None], case: Case
) -> None:
    random, killed, wanted, in_vain = Random(case.name), 0, KILLS[case], 0
    try:
        while killed < wanted:
            often = endure(bench, case, random, min(wanted - killed, random.randint(1, MOST)))
            killed, in_vain = killed + often, 0 if often else in_vain + 1
            assert in_vain < 20, "no kill comes in time"
    finally:
        note("kill -9", case.name, killed)


@pytest.mark.parametrize("case", [FUSED_RANDOM, WORKERS_TPE], ids=lambda case: case.name)
def test_nothing_lives_on_when_a_command_is_killed(bench: Bench, case: Case) -> None:
    folder = bench.folder()
    command = bench.zygote.start(folder, case.overrides)
    assert command.wait_for("engine: ")
    command.signal(signal.SIGKILL)
    assert command.wait(10) == KILLED
    for _ in range(200):
        bench.zygote.listen(0.1)
        if not command.survivors:
            break
    assert command.survivors == []


@pytest.mark.parametrize("case", [TRAINING, long(WORKERS_TRAINING)], ids=lambda case: case.name)
def test_a_single_training_killed_at_random_moments_ends_with_the_same_weights(
    bench: Bench, note: Callable[..., None], case: Case
) -> None:
    """Model, optimizer, average, random states: every tensor of the kept state to the last bit; every row too."""
    random, killed, wanted = Random("training"), 0, 40 if LONG else 3
    reference = bench.folder()
    whole = bench.finish(case, reference)
    seconds = 1.5
    assert whole.status == DONE
    try:
        while killed < wanted:
            folder = bench.folder()
            for _ in range(min(wanted - killed, 5)):
                command = bench.zygote.start(folder, case.overrides)
                if command.wait(random.uniform(0.1, seconds)) is not None:
                    break
                killed += command.signal(signal.SIGKILL, group=random.random() < 0.5)
                command.wait(20)
                if "in MLflow (" in command.said:
                    break  # all was done when the kill came
            else:
                bench.finish(case, folder)
            check_no_step_missing_or_twice(folder)
            compare(mlflow_table(folder), mlflow_table(reference), case)
            assert same_states(final_state(folder), final_state(reference))
    finally:
        note("kill -9", case.name, killed)
