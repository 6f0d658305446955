"""A comparison as a table in the terminal, with the intervals drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from sweep.comparison import Comparison, Difference, Estimate
from sweep.report.text import WIDE, number

DRAWN_WIDTH = 24
"""Columns of a drawn interval."""


def comparison_table(comparison: Comparison, width: int) -> Table:
    """The families, best first: metric with its interval drawn, difference to the best, p, updates to the target.

    Args:
        width: columns of the terminal; in a narrow one the intervals of the differences are left out.
    """
    percent = f"{100 * comparison.confidence:g} %"
    title = f"{comparison.metric} on {comparison.dataset}, mean over seeds with its {percent} interval"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("")
    table.add_column("schedule")
    table.add_column("mean", justify="right")
    scale = _scale([s.ranked.estimate for s in comparison.standings if s.ranked.estimate is not None])
    table.add_column(scale.label if scale else "")
    for title in ("to the best", "p (Holm)", "updates to target", "seeds"):
        table.add_column(title, justify="right")
    for standing in comparison.standings:
        ranked, difference = standing.ranked, standing.ranked.difference
        estimate = ranked.estimate
        seeds = f"{ranked.n}" + (f", {ranked.diverged} diverged" if ranked.diverged else "")
        table.add_row(
            "*" if ranked.rank == 1 and estimate is not None else "",
            standing.schedule,
            "no trial ended" if estimate is None else f"{estimate.mean:.4f}",
            scale.drawn(estimate) if scale and estimate is not None else "",
            "" if difference is None else _difference(difference, wide=width >= WIDE),
            "" if difference is None else _p(difference.p_holm),
            _updates(standing.steps_to_target),
            seeds,
            style="bold green" if ranked.rank == 1 and estimate is not None else None,
        )
    return table


@dataclass(frozen=True)
class _Scale:
    """Where values stand in a drawn interval of DRAWN_WIDTH columns, from low to high."""

    low: float
    high: float

    @property
    def label(self) -> str:
        """The ends, over the first and the last column."""
        low, high = number(float(self.low)), number(float(self.high))
        return low + high.rjust(DRAWN_WIDTH - len(low))

    def drawn(self, estimate: Estimate) -> str:
        """├──●──┤"""
        cells = [" "] * DRAWN_WIDTH
        if estimate.low is not None and estimate.high is not None:
            first, last = self._column(estimate.low), self._column(estimate.high)
            cells[first : last + 1] = "─" * (last + 1 - first)
            cells[first], cells[last] = "├", "┤"
        cells[self._column(estimate.mean)] = "●"
        return "".join(cells)

    def _column(self, value: float) -> int:
        span = self.high - self.low
        return round((DRAWN_WIDTH - 1) * (value - self.low) / span) if span else DRAWN_WIDTH // 2


def _scale(estimates: Sequence[Estimate]) -> _Scale | None:
    ends = [end for e in estimates for end in (e.low, e.mean, e.high) if end is not None]
    return _Scale(min(ends), max(ends)) if ends else None


def _difference(difference: Difference, wide: bool) -> str:
    mean = f"{difference.mean:+.4f}"
    if not wide or difference.low is None or difference.high is None:
        return mean
    return f"{mean} ({difference.low:+.4f} to {difference.high:+.4f})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _updates(steps: float | None) -> str:
    if steps is None:
        return ""
    return "never" if steps == float("inf") else f"{steps:g}"
