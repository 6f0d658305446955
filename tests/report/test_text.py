"""Tables, names and command lines."""

import math
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from sweep.cli import build
from sweep.cli.compose import Composer, register_resolvers
from sweep.core import Event, Status, StudyRecord, Trial, TrialRecord
from sweep.report import counts, curve_picture, describe, figures_text, stall_warning, study_table, train_command
from sweep.report.text import column, measured
from sweep.schedules import key_figures

register_resolvers()


def record(number: int, value: float, status: Status | None = Status.COMPLETE, **params: str) -> TrialRecord:
    metrics = {"val_loss": value, "val_accuracy": 1 - value}
    return TrialRecord(number, f"run{number}", f"{number}", status, params, metrics, half_life=12.4, stalled_at=None)


def study(minimize: bool = True) -> StudyRecord:
    trials = [
        record(0, 0.5, **{"schedule.name": "cosine", "optimizer.lr": "0.30000000000000004"}),
        record(1, 0.2, **{"schedule.name": "exponential", "schedule.decay_rate": "0.9", "optimizer.lr": "0.1"}),
        record(2, 0.1, Status.DIVERGED),
        record(3, 0.2, **{"schedule.name": "exponential", "schedule.decay_rate": "0.8", "optimizer.lr": "0.2"}),
        record(4, 9.0, None),
    ]
    searched = ["schedule", "schedule.decay_rate", "optimizer.lr"]
    return StudyRecord("name", "parent", "1", "val_loss", minimize, searched, "train.steps=9", trials)


def test_only_complete_trials_are_ranked_the_earlier_of_equals_first() -> None:
    assert [trial.number for trial in study().ranked] == [1, 3, 0]
    assert [trial.number for trial in study(minimize=False).ranked] == [0, 1, 3]


def test_the_table_shows_what_was_searched() -> None:
    out = StringIO()
    Console(file=out, width=120).print(study_table(study(), best=2, width=120))
    lines = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    assert lines[1] == ["trial", "val_loss", "val_accuracy", "schedule", "decay_rate", "lr", "half-life"]
    assert lines[3] == ["1", "0.2000", "0.8000", "exponential", "0.9", "0.1", "12"]
    assert len(lines) == 5
    assert "val_accuracy" not in [str(column.header) for column in study_table(study(), best=2, width=80).columns]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0458, "0.0458"),
        (0.9777, "0.9777"),
        (0.2, "0.2000"),
        (12.3456, "12.3456"),
        (0.0, "0.0000"),
        (-0.5, "-0.5000"),
        (0.002213, "0.002213"),
        (0.0004, "0.0004000"),
        (1.234e-05, "1.234e-05"),
        (-1.2e-6, "-1.200e-06"),
        (123456.789, "123457"),
        (6252403115.3, "6.2524e+09"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_a_metric_is_shown_with_enough_digits(value: float, text: str) -> None:
    assert measured(value) == text
    assert float(measured(value, sign="+")) == float(text) or math.isnan(value)


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([0.0458, 0.061, 0.9777], ["0.0458", "0.0610", "0.9777"]),
        ([1.234e-6, 1.2344e-6, 0.5], ["1.2340e-06", "1.2344e-06", "0.50000"]),
        ([0.06191, 0.06192, None], ["0.06191", "0.06192", ""]),
        ([0.06191, 0.0619100001], ["0.0619", "0.0619"]),
        ([0.99991, 0.99992], ["0.99991", "0.99992"]),
        ([1234567.0, 1234568.0], ["1.23457e+06", "1.23457e+06"]),
        ([0.5, 0.5], ["0.5000", "0.5000"]),
        ([], []),
    ],
)
def test_a_column_has_as_many_digits_as_tell_its_values_apart(values: list[float | None], cells: list[str]) -> None:
    assert column(values) == cells


def test_trials_with_tiny_losses_are_told_apart_in_the_table() -> None:
    trials = [record(number, value) for number, value in enumerate((3.1e-7, 4.2e-7, 5.3e-7, 6.4e-7))]
    table = study_table(replace(study(), trials=trials, searched=[]), best=9, width=120)
    assert list(table.columns[1].cells) == ["3.100e-07", "4.200e-07", "5.300e-07", "6.400e-07"]


def test_a_search_over_half_lives_shows_them_once() -> None:
    searched = replace(study(), searched=("schedule.half_life", "optimizer.lr"))
    headers = [str(column.header) for column in study_table(searched, best=2, width=120).columns]
    assert headers == ["trial", "val_loss", "val_accuracy", "half_life", "lr"]


def test_the_command_line_has_full_precision_and_no_key_that_the_trial_lacks() -> None:
    assert (
        train_command(study(), study().trials[0])
        == "python -m sweep mode=train train.steps=9 schedule=cosine optimizer.lr=0.30000000000000004"
    )


def test_trials_are_counted_by_status() -> None:
    assert counts(study().trials) == "5 trials: 3 complete, 1 diverged, 1 interrupted"


def test_a_trial_is_described_by_what_was_drawn() -> None:
    config = build.run_config(Composer().compose(["schedule.decay_rate=0.5", "schedule.decay_steps=10"]))
    values = {"schedule": "exponential", "schedule.decay_rate": 0.512345, "warmup.steps": 30}
    description = describe(Trial(7, config, 0, values))
    assert description.name == "007 exponential decay_rate=0.5123 warmup=30"
    assert float(description.tags["sweep.half_life"]) == 10
    assert int(description.tags["sweep.stalled_at"]) == 271
    assert description.params["schedule.decay_rate"] == "0.5"
    assert description.params["model.hidden"] == "[128]"
    assert description.params["optimizer.clip_norm"] == "null"
    assert description.artifacts["curve.svg"].startswith(b"<svg")


def test_after_events_a_trial_is_described_by_the_curve_they_made() -> None:
    config = build.run_config(Composer().compose(["schedule=plateau", "schedule.factor=0.5", "warmup=none"]))
    before = describe(Trial(0, config, 0))
    after = describe(Trial(0, config, 0), [Event(100, "plateau"), Event(300, "plateau")])
    assert "sweep.half_life" not in before.tags
    assert float(after.tags["sweep.half_life"]) == 100
    assert after.tags["sweep.curve"] != before.tags["sweep.curve"]
    assert after.artifacts["curve.svg"] != before.artifacts["curve.svg"]
    assert after.tags["sweep.training"] == before.tags["sweep.training"]
    assert (after.name, after.params) == (before.name, before.params)


def test_equal_curves_have_equal_digests_and_others_do_not() -> None:
    def digest(rate: float, steps: int) -> str:
        overrides = [f"schedule.decay_rate={rate}", f"schedule.decay_steps={steps}"]
        return describe(Trial(0, build.run_config(Composer().compose(overrides)), 0)).tags["sweep.curve"]

    assert digest(0.25, 20) == digest(0.5, 10)
    assert digest(0.25, 20) != digest(0.5, 11)


def test_key_figures_are_told_and_a_stall_is_warned_of() -> None:
    stalling = build.run_config(Composer().compose(["schedule.decay_rate=0.5", "schedule.decay_steps=10"]))
    figures = key_figures(stalling.schedule, 600)
    assert "stalls     at step 271 of 600" in figures_text(figures)
    assert "half-life  10.0 updates" in figures_text(figures)
    assert stall_warning(figures) is not None
    fine = build.run_config(Composer().compose(["schedule=cosine"]))
    assert stall_warning(key_figures(fine.schedule, 600)) is None


def test_a_picture_is_drawn_of_any_curve() -> None:
    config = build.run_config(Composer().compose(["schedule=constant", "warmup=none", "train.steps=1"]))
    figures = key_figures(config.schedule, 1)
    assert curve_picture(np.array([0.1]), figures).startswith(b"\x89PNG")
