"""A comparison as a table in the terminal, with the intervals drawn."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from sweep.comparison import Comparison, Difference, Estimate, Standing
from sweep.report.text import column, measured, number, percent

ROOM = range(5, 25)
"""Columns of a drawn interval: at least, in a narrow terminal, and at most."""
ENOUGH = 16
"""Columns of a drawn interval, below which other things are left out for it."""


def comparison_table(comparison: Comparison, width: int) -> Table:
    """The families, best first: metric with its interval drawn, difference to the best, p, updates to the target.

    Args:
        width: columns of the terminal; a narrow one has no room for everything.
    """
    interval = f"{percent(comparison.confidence)} interval"
    title = f"{comparison.metric} on {comparison.dataset}, mean over seeds with its {interval}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    columns, room = _columns(comparison.standings, width)
    estimates = [standing.ranked.estimate for standing in comparison.standings]
    scale = _Scale([estimate for estimate in estimates if estimate is not None], min(max(room, ROOM[0]), ROOM[-1]))
    drawn = ["" if estimate is None else scale.drawn(estimate) for estimate in estimates]
    ordered = list(columns.items())
    for heading, cells in [*ordered[:3], (scale.ends, drawn), *ordered[3:]]:
        table.add_column(heading, justify="left" if heading == "schedule" or cells is drawn else "right", no_wrap=True)
    for place, standing in enumerate(comparison.standings):
        row = [cells[place] for cells in (*list(columns.values())[:3], drawn, *list(columns.values())[3:])]
        table.add_row(*row, style="bold green" if _is_best(standing) else None)
    return table


def _columns(standings: Sequence[Standing], width: int) -> tuple[dict[str, list[str]], int]:
    """Heading -> cells, of all columns but the drawn one, as many as leave enough room for that; and that room."""
    (means, decimals), differences = _means(standings), [standing.ranked.difference for standing in standings]
    everything = {
        " ": ["*" if _is_best(standing) else "" for standing in standings],
        "schedule": [standing.schedule for standing in standings],
        "mean": means,
        "to the best": [_difference(difference, decimals, with_interval=True) for difference in differences],
        "p (Holm)": list(map(_p, differences)),
        "to target": [_updates(standing.steps_to_target) for standing in standings],
        "seeds": [_seeds(standing) for standing in standings],
    }
    short = {"to the best": [_difference(difference, decimals) for difference in differences]}
    without_seeds = {heading: cells for heading, cells in everything.items() if heading != "seeds"}
    for columns in (everything, everything | short, without_seeds | short):
        room = width - 2 - sum(max(len(heading), *map(len, cells)) + 3 for heading, cells in columns.items())
        if room >= ENOUGH:
            break
    return columns, room


def _is_best(standing: Standing) -> bool:
    return standing.ranked.rank == 1 and standing.ranked.estimate is not None


def _means(standings: Sequence[Standing]) -> tuple[list[str], int | None]:
    """Return the cells of the means, and their decimals; None if they have different numbers of decimals."""
    estimates = [standing.ranked.estimate for standing in standings]
    cells = column([None if estimate is None else estimate.mean for estimate in estimates])
    parts = [cell.partition(".")[2] for cell in cells if cell]
    fixed = all(part.isdecimal() and len(part) == len(parts[0]) for part in parts)
    missing = ["no trial ended" if standing.winner is None else "no final ended" for standing in standings]
    return [cell or text for cell, text in zip(cells, missing, strict=True)], len(parts[0]) if parts and fixed else None


def _seeds(standing: Standing) -> str:
    ranked = standing.ranked
    without = {"diverged": ranked.diverged, "failed": ranked.failed}
    return ", ".join([f"{ranked.n}", *(f"{n} {how}" for how, n in without.items() if n)])


class _Scale:
    """Where values stand in a drawn interval.

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
