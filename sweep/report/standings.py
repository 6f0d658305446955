"""A comparison as a table in the terminal, with the intervals drawn."""

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table

from sweep.comparison import Comparison, Difference, Estimate, Standing
from sweep.core import Status
from sweep.report.text import column, fits, measured, number, percent, shown_metrics

DRAWN_WIDTHS = range(14, 25)
"""Columns of a drawn interval: with its ends as heading it needs at least the first."""
NARROWEST = 5
"""Columns of a drawn interval where nothing else can be left out."""

Column = tuple[str, list[str]]
"""Heading and cells."""


def comparison_table(comparison: Comparison, width: int) -> Table:
    """Return a table of the families, best first: mean with its interval drawn, difference to the best, p, target.

    In a narrow terminal the intervals of the differences and the further metrics are left out.

    Args:
        width: columns of the terminal.
    """
    standings, interval = comparison.standings, f"{percent(comparison.confidence)} interval"
    over = f"mean over {max((len(standing.finals) for standing in standings), default=0)} seeds"
    title = f"{comparison.metric} on {comparison.dataset}, {over} with its {interval}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    estimates = [standing.ranked.estimate for standing in standings]
    for left, right in _layouts(comparison):
        drawn_width = next((n for n in reversed(DRAWN_WIDTHS) if fits([*left, ("", [" " * n]), *right], width)), None)
        if drawn_width is not None:
            break
    scale = _Scale([estimate for estimate in estimates if estimate is not None], drawn_width or NARROWEST)
    drawn = ["" if estimate is None else scale.drawn(estimate) for estimate in estimates]
    axis = f"{interval}\n{scale.ends}" if scale.ends else ""
    for heading, cells in [*left, (axis, drawn), *right]:
        texts = heading == "schedule" or cells is drawn
        table.add_column(heading, justify="left" if texts else "right", no_wrap=True, vertical="bottom")
    for place, standing in enumerate(standings):
        row = [cells[place] for _, cells in (*left, ("", drawn), *right)]
        table.add_row(*row, style="bold green" if _is_best(standing) else None)
    return table


def explanation(comparison: Comparison, metric: str) -> str:
    """Say what the columns of the table mean that do not say so themselves.

    Args:
        metric: of the study, by which the target is defined.
    """
    said = "to best: difference to the best schedule; p: of no difference, corrected for all pairs (Holm)"
    if comparison.target is None:
        return said
    return f"{said}\nto target: median updates to the first {metric} of {number(comparison.target)} or better"


def _layouts(comparison: Comparison) -> list[tuple[list[Column], list[Column]]]:
    """Return the columns on the left and on the right of the drawn interval, the widest table first."""
    standings = comparison.standings
    (means, decimals), differences = _means(standings), [standing.ranked.difference for standing in standings]
    left = [
        (" ", ["*" if _is_best(standing) else "" for standing in standings]),
        ("schedule", [standing.schedule for standing in standings]),
        ("mean", means),
    ]
    with_interval = ("to best", [_difference(difference, decimals, with_interval=True) for difference in differences])
    tests = [
        ("to best", [_difference(difference, decimals) for difference in differences]),
        ("p", list(map(_p, differences))),
    ]
    target = [("to target", [_updates(standing.steps_to_target) for standing in standings])]
    ended = [("ended", [_ended(standing) for standing in standings])] if not all(map(_all_ended, standings)) else []
    others = _other_means(comparison)
    return [
        (left, [with_interval, tests[1], *others, *target, *ended]),
        (left, [*tests, *others, *target, *ended]),
        (left, [*tests, *others[:1], *target, *ended]),
        (left, [*tests, *target, *ended]),
        (left, [*tests, *target]),
        (left, tests),
    ]


def _is_best(standing: Standing) -> bool:
    return standing.ranked.rank == 1 and standing.ranked.estimate is not None


def _all_ended(standing: Standing) -> bool:
    """Return whether all final runs ended as complete."""
    return standing.ranked.n == len(standing.finals) > 0


def _ended(standing: Standing) -> str:
    """`10`; `9, 1 diverged`."""
    ranked = standing.ranked
    without = {"diverged": ranked.diverged, "failed": ranked.failed}
    return ", ".join([f"{ranked.n}", *(f"{n} {how}" for how, n in without.items() if n)])


def _means(standings: Sequence[Standing]) -> tuple[list[str], int | None]:
    """Return the cells of the means, and their decimals; None if they have different numbers of decimals."""
    estimates = [standing.ranked.estimate for standing in standings]
    cells = column([None if estimate is None else estimate.mean for estimate in estimates])
    parts = [cell.partition(".")[2] for cell in cells if cell]
    fixed = all(part.isdecimal() and len(part) == len(parts[0]) for part in parts)
    missing = ["no trial ended" if standing.winner is None else "no final ended" for standing in standings]
    return [cell or text for cell, text in zip(cells, missing, strict=True)], len(parts[0]) if parts and fixed else None


def _other_means(comparison: Comparison) -> list[Column]:
    """Return the means of the metrics on the same split that the families are not judged by."""
    split = comparison.metric.partition("_")[0]
    runs = [
        [final.run for final in standing.finals if final.run.status is Status.COMPLETE]
        for standing in comparison.standings
    ]
    names = shown_metrics(comparison.metric, [run for of_family in runs for run in of_family], split)
    columns = []
    for name in (name for name in names if name != comparison.metric):
        values = [[run.metrics[name] for run in of_family if name in run.metrics] for of_family in runs]
        columns.append((name, column([float(np.mean(of_family)) if of_family else None for of_family in values])))
    return columns


class _Scale:
    """The positions of values in a drawn interval.

    Args:
        estimates: all that are drawn: the scale goes from the lowest of their ends to the highest.
        width: columns.
    """

    def __init__(self, estimates: Sequence[Estimate], width: int) -> None:
        ends = [end for e in estimates for end in (e.low, e.mean, e.high) if end is not None]
        self.low, self.high, self.width = min(ends, default=0.0), max(ends, default=0.0), width
        low, high = column([self.low, self.high], number)
        self.ends = low + high.rjust(width - len(low)) if ends and len(low) + len(high) < width else ""

    def drawn(self, estimate: Estimate) -> str:
        """├──●──┤"""
        cells = [" "] * self.width
        if estimate.low is not None and estimate.high is not None:
            first, last = self._column(estimate.low), self._column(estimate.high)
            cells[first : last + 1] = "─" * (last + 1 - first)
            cells[first], cells[last] = "├", "┤"
        cells[self._column(estimate.mean)] = "●"
        return "".join(cells)

    def _column(self, value: float) -> int:
        span = self.high - self.low
        return round((self.width - 1) * (value - self.low) / span) if span else self.width // 2


def _difference(difference: Difference | None, decimals: int | None, with_interval: bool = False) -> str:
    """Format a difference with the decimals of the means, or by itself if these have different numbers of decimals."""

    def text(value: float) -> str:
        return measured(value, sign="+") if decimals is None else f"{value:+.{decimals}f}"

    if difference is None:
        return ""
    if not with_interval or difference.low is None or difference.high is None:
        return text(difference.mean)
    return f"{text(difference.mean)} ({text(difference.low)} to {text(difference.high)})"


def _p(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return "< 0.001" if difference.p_holm < 0.001 else f"{difference.p_holm:.3f}"


def _updates(steps: float | None) -> str:
    if steps is None:
        return ""
    return "never" if steps == float("inf") else f"{steps:g}"
