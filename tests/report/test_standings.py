"""The table of a comparison in terminals of several widths."""

import numpy as np
import pytest
from rich.console import Console

from sweep.comparison import Estimate, compare
from sweep.report.standings import _Scale, comparison_table
from tests.report import records


def printed(width: int) -> list[str]:
    (comparison,) = compare(records.comparison_record(("digits",)))
    console = Console(width=width, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(comparison_table(comparison, width))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 130])
def test_every_family_has_its_line_with_its_interval_drawn(width: int) -> None:
    lines = printed(width)
    (comparison,) = compare(records.comparison_record(("digits",)))
    rows = [line for line in lines if "●" in line]
    assert [row.replace("*", " ").split()[0] for row in rows] == [s.schedule for s in comparison.standings]
    for row, standing in zip(rows, comparison.standings, strict=True):
        assert standing.ranked.estimate is not None
        assert f"{standing.ranked.estimate.mean:.4f}" in row
        assert width < 100 or "├" in row or "┤" in row
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert ["*" in row for row in rows] == [True, False, False, False, False]


def test_a_wide_terminal_has_the_intervals_of_the_differences() -> None:
    assert " to +" in "".join(printed(140))
    assert " to +" not in "".join(printed(100))


def test_means_and_differences_of_tiny_losses_are_told_apart() -> None:
    record = records.comparison_record(("digits",))
    for final in (final for family in record.families for final in family.finals):
        final.run.metrics.update({name: 1e-6 * value for name, value in final.run.metrics.items()})  # type: ignore[attr-defined]
    (comparison,) = compare(record)
    console = Console(width=140)
    with console.capture() as capture:
        console.print(comparison_table(comparison, 140))
    rows = [line.replace("*", " ").split() for line in capture.get().splitlines() if "●" in line]
    means = [row[1] for row in rows]
    wanted = [standing.ranked.estimate.mean for standing in comparison.standings if standing.ranked.estimate]
    assert [float(mean) for mean in means] == pytest.approx(wanted, rel=1e-3)
    assert len(set(means)) == len(means)
    assert "+0.0000" not in capture.get()


def test_an_interval_is_drawn_to_scale() -> None:
    scale = _Scale([Estimate(5.0, 0.0, 10.0), Estimate(2.0, 1.0, 4.0)], width=11)
    assert scale.ends == "0" + "10".rjust(10)
    assert scale.drawn(Estimate(5.0, 0.0, 10.0)) == "├────●────┤"
    assert scale.drawn(Estimate(2.0, 1.0, 4.0)) == " ├●─┤      "
    assert scale.drawn(Estimate(3.0, None, None)) == "   ●       "


def test_values_without_a_spread_stand_in_the_middle() -> None:
    assert _Scale([Estimate(2.0, 2.0, 2.0)], width=5).drawn(Estimate(2.0, 2.0, 2.0)) == "  ●  "
    assert _Scale([], width=5).ends == ""
    assert np.isfinite(_Scale([], width=5).low)
