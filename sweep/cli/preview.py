"""mode=preview: curves without training."""

import csv
from collections.abc import Sequence
from itertools import product, zip_longest
from pathlib import Path

from sweep.cli.exits import DONE
from sweep.config import RunConfig
from sweep.errors import InvalidValueError
from sweep.report.figures import curve_picture, curves_picture
from sweep.report.text import figures_table, figures_text, heading, scaling, warnings
from sweep.requests import build, spaces
from sweep.requests.command import Command
from sweep.schedules import key_figures
from sweep.terminal.console import console, say


def preview(command: Command) -> int:
    """Curves as csv and picture, and their key figures; trains nothing. Lists (a,b,c) are drawn side by side."""
    build.engine_config(command.compose())
    path = Path(build.preview_config(command.compose()).path)
    runs = _previewed(command)
    drawn = {
        _column(label if len(runs) > 1 else "", series.name): (series.schedule, run.train.steps * series.updates)
        for label, run in runs.items()
        for series in run.series
    }
    curves = {column: schedule.curve(steps) for column, (schedule, steps) in drawn.items()}
    figures = [key_figures(curves[column], schedule.constant_half_life) for column, (schedule, _) in drawn.items()]
    columns = list(curves)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = zip_longest(*(map(repr, curve.tolist()) for curve in curves.values()), fillvalue="")
        csv.writer(file).writerows([("step", *columns), *((step, *row) for step, row in enumerate(rows))])
    picture = path.with_suffix(".png")
    single = len(curves) == 1
    picture.write_bytes(curve_picture(next(iter(curves.values())), figures[0]) if single else curves_picture(curves))
    out = console()
    if single:
        say(out, figures_text(figures[0]))
    else:
        out.print(figures_table(dict(zip(curves, figures, strict=True))))
    for label, run in runs.items():
        of = "" if len(runs) == 1 else f"{label}: "
        for scaled in scaling(run):
            say(out, f"{of}{scaled}")
        for warning in warnings(run):
            say(out, f"warning: {of}{warning}")
        for reaction in run.schedule.reactions:
            say(out, f"{of}drawn before any event: {reaction.name} waits for {reaction.watches} at the evaluations")
    say(out, f"written to {path} and {picture}")
    return DONE


def _previewed(command: Command) -> dict[str, RunConfig]:
    """The configurations to preview, by what tells them apart: one for each combination of the lists given.

    Raises:
        InvalidValueError: names an interval, or curves of different lengths.
    """
    request = command.request
    lists: dict[str, Sequence[str]] = dict(request.groups)
    for key, override in request.sweeps.items():
        if override.is_interval_sweep():
            rule = "mode=preview draws the values of a list (a,b,c) or range; an interval is for mode=search"
            raise InvalidValueError(key, request.searched[key], rule)
        lists[key] = spaces.listed(command.compose(), override)
    runs = {}
    for values in product(*lists.values()):
        chosen = {key: f"{key}={value}" for key, value in zip(lists, values, strict=True)}
        parts = [_label(key, value) for key, value in zip(lists, values, strict=True)]
        runs[" ".join(parts) or "lr"] = build.run_config(command.composer.compose([*chosen.values(), *request.plain]))
    for run in runs.values():
        for component in run.components if command.names_code else ():  # others are known, and take seconds to import
            component.check()
        if run.train.steps != next(iter(runs.values())).train.steps:
            raise InvalidValueError("train.steps", run.train.steps, "must be the same for all that is drawn")
    return runs


def _column(label: str, series: str) -> str:
    """What a curve is called: its run where there are several, and whose rate it is where a run has two."""
    return " ".join(filter(None, [label, f"{series}lr" if series or not label else ""]))


def _label(key: str, value: str) -> str:
    """A choice in a legend: a schedule by its name, anything else with what it is."""
    return value if key == "schedule" else f"{heading(key)}={value}".replace("\\", "")  # Hydra escapes interpolations
