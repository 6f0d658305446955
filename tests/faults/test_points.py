"""`kill -9` between any two writes that belong together; the points are named in driver.py."""

from collections.abc import Callable

import pytest

from tests.faults.driver import POINTS
from tests.faults.harness import (
    DONE,
    FAILED,
    FUSED_RANDOM,
    KILLED,
    LONG,
    SERIAL_RANDOM,
    SERIAL_TPE,
    Bench,
    Case,
    is_one_clear_line,
)

REPETITIONS = 10 if LONG else 1
CASES = (SERIAL_RANDOM, SERIAL_TPE, FUSED_RANDOM)


@pytest.mark.parametrize("name", POINTS)
def test_a_search_killed_at_a_point_equals_one_that_was_not(bench: Bench, note: Callable[..., None], name: str) -> None:
    reached = 0
    try:
        for repetition in range(REPETITIONS):
            case = CASES[(repetition + list(POINTS).index(name)) % len(CASES)]
            reached += end_at(bench, case, name, repetition)
    finally:
        note("kill -9 at a point", name, reached)
    assert reached == REPETITIONS, "the point was not always reached"


def end_at(bench: Bench, case: Case, name: str, repetition: int) -> bool:
    """One search that ends at a point, then goes on to its end and is compared; whether the point was reached."""
    folder = bench.folder()
    points = [name] if POINTS[name].start == 1 else ["the first start's", name]
    for point in points:
        command = bench.zygote.start(folder, case.overrides, point, repetition)
        status = command.wait(60)
        assert status in (KILLED, DONE, FAILED), f"status {status}:\n{command.said}"
        if status == FAILED:  # what was killed was a process that it began
            assert is_one_clear_line(command.said), command.said
    bench.finish(case, folder)
    bench.check(case, folder, name, repetition)
    return status != DONE
