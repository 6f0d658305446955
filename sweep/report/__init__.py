"""Figures and tables, from what the reader gives."""

from sweep.report.describe import as_params, describe, flatten, short, training_name
from sweep.report.figures import curve_picture, curves_picture, samples_picture
from sweep.report.page import DRAWN, comparison_page, study_page
from sweep.report.standings import comparison_table
from sweep.report.text import (
    counts,
    failures,
    figures_table,
    figures_text,
    heading,
    measured,
    number,
    scaling,
    stall_warning,
    study_table,
    train_command,
    warnings,
)

__all__ = [
    "DRAWN",
    "as_params",
    "comparison_page",
    "comparison_table",
    "counts",
    "curve_picture",
    "curves_picture",
    "describe",
    "failures",
    "figures_table",
    "figures_text",
    "flatten",
    "heading",
    "measured",
    "number",
    "samples_picture",
    "scaling",
    "short",
    "stall_warning",
    "study_page",
    "study_table",
    "train_command",
    "training_name",
    "warnings",
]
