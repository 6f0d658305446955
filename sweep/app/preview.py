"""Compute the curves of configurations without training them."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from sweep.config import RunConfig
from sweep.report.figures import curve_picture, curves_picture
from sweep.schedules import KeyFigures, key_figures
from sweep.schedules.family import Floats


@dataclass(frozen=True)
class PreviewPlan:
    """A preview.

    Args:
        runs: label -> configuration; all have the same horizon. A single one may have an empty label.
        path: of the csv file, beside which a picture is written; None writes nothing.
    """

    runs: Mapping[str, RunConfig]
    path: Path | None


@dataclass(frozen=True)
class PreviewResult:
    """The curves of a preview.

    Args:
        curves: column -> the rates of the updates 0..T-1, float64 [T]. A column is named after the label of the
            configuration, after the optimizer where a training has two, and after a group of parameters that has a
            schedule of its own.
        figures: column -> the key figures of its curve.
        picture: the file beside the csv file; None if nothing was written.
    """

    curves: Mapping[str, Floats]
    figures: Mapping[str, KeyFigures]
    picture: Path | None


def preview(plan: PreviewPlan) -> PreviewResult:
    """Compute the curves, and write them as csv (`step`, then a column for each curve) and as a picture."""
    curves, figures = {}, {}
    for label, run in plan.runs.items():
        for series in run.series:
            for name, curve in series.curves().items():
                column = _column(label, series.name, name)
                schedule = series.schedule if name is None else series.groups[name]
                curves[column] = curve if name is None else series.lr_factor(name) * curve
                figures[column] = key_figures(curves[column], schedule.constant_half_life)
    return PreviewResult(curves, figures, None if plan.path is None else _write(plan.path, curves, figures))


def _write(path: Path, curves: Mapping[str, Floats], figures: Mapping[str, KeyFigures]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = zip_longest(*(map(repr, curve.tolist()) for curve in curves.values()), fillvalue="")
        csv.writer(file).writerows([("step", *curves), *((step, *row) for step, row in enumerate(rows))])
    beside = path.with_suffix(".png")
    beside.write_bytes(picture(curves, figures))
    return beside


def picture(curves: Mapping[str, Floats], figures: Mapping[str, KeyFigures]) -> bytes:
    """Return a PNG of the curves; of a single one, with the step at which it stalls."""
    if len(curves) == 1:
        ((column, curve),) = curves.items()
        return curve_picture(curve, figures[column])
    return curves_picture(curves)


def _column(label: str, series: str, group: str | None) -> str:
    return " ".join(filter(None, [label, f"{series}lr" if series or not label else "", group]))
