"""Computes the curves of configurations without training."""

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
    """The plan of a preview.

    Args:
        runs: label -> configuration, all with the same horizon. A single configuration may have an empty label.
        path: the csv file to write, with a picture beside it; None to write nothing.
    """

    runs: Mapping[str, RunConfig]
    path: Path | None


@dataclass(frozen=True)
class PreviewResult:
    """The curves of a preview.

    Args:
        curves: column -> the rates of the updates 0..T-1, float64 [T]. The name of a column has the label of the
            configuration, the optimizer if a training has two, and the group of parameters if it has its own schedule.
        figures: column -> the key figures of its curve.
        picture: the file of the picture; None if nothing was written.
    """

    curves: Mapping[str, Floats]
    figures: Mapping[str, KeyFigures]
    picture: Path | None


def preview(plan: PreviewPlan) -> PreviewResult:
    """Compute the curves; if the plan has a path, write them as csv (`step` and a column for each curve) and as PNG."""
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
    """Return a PNG of the curves; a single curve is drawn with its key figures."""
    if len(curves) == 1:
        ((column, curve),) = curves.items()
        return curve_picture(curve, figures[column])
    return curves_picture(curves)


def _column(label: str, series: str, group: str | None) -> str:
    return " ".join(filter(None, [label, f"{series}lr" if series or not label else "", group]))
