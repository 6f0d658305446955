"""The best trials of a study as a table in the terminal."""

from collections.abc import Collection, Sequence
from typing import Literal

from rich import box
from rich.table import Table

from sweep.core import StudyRecord, TrialRecord
from sweep.report.describe import short
from sweep.report.text import column, fits, heading, is_group, param_text, shown_metrics, updates


def study_table(study: StudyRecord, best: int, width: int) -> Table:
    """Return a table of the best trials, best first: number, metrics, what was searched, half-life in updates.

    Every searched key has a column if the table then fits. Otherwise the keys that only some of the trials have share
    one, then only the metric that the study is judged by is shown, then the half-life is left out, then all keys share
    a column.

    Args:
        best: how many.
        width: columns of the terminal.
    """
    ranked, keys = study.ranked[:best], study.searched
    metrics = shown_metrics(study.metric, ranked)
    common = [key for key in keys if all(_has(trial, key) for trial in ranked)]
    half_life, judged = "schedule.half_life" not in keys, metrics[:1]
    layouts = [(m, separate, half_life) for m in (metrics, judged) for separate in (keys, common)]
    for layout in [*layouts, (judged, common, False), (judged, [], False)]:
        columns = _columns(study, ranked, *layout)
        if fits(columns, width):
            break
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"Best trials of {study.name}", title_justify="left")
    texts = {SHARED, *(heading(key) for key in keys if is_group(key))}
    for title, _ in columns:
        justify: Literal["left", "right"] = "left" if title in texts else "right"
        table.add_column(title, justify=justify, no_wrap=title != SHARED, overflow="fold")
    for place, row in enumerate(zip(*(cells for _, cells in columns), strict=True)):
        table.add_row(*row, style="bold green" if place == 0 else None)
    return table


SHARED = "parameters"
"""Heading of the column of several keys."""


def _columns(
    study: StudyRecord,
    ranked: Sequence[TrialRecord],
    metrics: Sequence[str],
    separate: Collection[str],
    half_life: bool,
) -> list[tuple[str, list[str]]]:
    """Return headings and cells; the keys that are not among `separate` share a column."""
    shared = [key for key in study.searched if key not in separate]
    half_lives = ["" if trial.half_life is None else updates(trial.half_life) for trial in ranked]
    return [
        ("trial", [str(trial.number) for trial in ranked]),
        *((metric, column([trial.metrics.get(metric) for trial in ranked])) for metric in metrics),
        *((heading(key), [param_text(trial, key) for trial in ranked]) for key in study.searched if key in separate),
        *([(SHARED, [_shared(trial, shared) for trial in ranked])] if shared else []),
        *([("half-life", half_lives)] if half_life else []),
    ]


def _has(trial: TrialRecord, key: str) -> bool:
    """Return whether a trial drew a key; older records do not say, but have no value of one that it did not."""
    return key in trial.values if trial.values else param_text(trial, key) != "-"


def _shared(trial: TrialRecord, keys: Sequence[str]) -> str:
    return " ".join(short(key, param_text(trial, key)) for key in keys if _has(trial, key))
