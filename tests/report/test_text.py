"""Numbers, names and command lines."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sweep.core import Status, StudyRecord, Trial, TrialRecord
from sweep.report.describe import describe
from sweep.report.figures import curve_picture
from sweep.report.text import (
    as_override,
    column,
    counts,
    failures,
    figures_text,
    heading,
    measured,
    param_text,
    stall_warning,
    train_command,
)
from sweep.requests import build
from sweep.requests.compose import Composer
from sweep.requests.expressions import dimension, parse_override
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import Event, key_figures

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


def test_the_command_line_has_full_precision_and_no_key_that_the_trial_lacks() -> None:
    assert (
        train_command(study(), study().trials[0])
        == "python -m sweep mode=train train.steps=9 schedule=cosine optimizer.lr=0.30000000000000004"
    )


def test_an_element_of_a_list_has_its_own_heading_value_and_override() -> None:
    params = {"optimizer.betas": "[0.9, 0.95]", "schedule.knots": "[[0, 1.0], [40, 0.3]]", "model.act": "relu"}
    searched = ("optimizer.betas.0", "optimizer.betas.1", "schedule.knots.1.0", "schedule.knots.1.1")
    of_lists = replace(study(), trials=[record(0, 0.5, **params)], searched=searched, command="optimizer=adam")
    assert [heading(key) for key in searched] == ["betas.0", "betas.1", "knots.1.0", "knots.1.1"]
    assert [param_text(of_lists.trials[0], key) for key in searched] == ["0.9", "0.95", "40", "0.3"]
    assert train_command(of_lists, of_lists.trials[0]).endswith(
        "optimizer=adam optimizer.betas.0=0.9 optimizer.betas.1=0.95 schedule.knots.1.0=40 schedule.knots.1.1=0.3"
    )
    assert of_lists.trials[0].param("optimizer.betas.2") is None


def test_trials_are_counted_by_status() -> None:
    assert counts(study().trials) == "5 trials: 3 complete, 1 diverged, 1 interrupted"


def test_failed_trials_are_listed_by_their_reasons() -> None:
    reasons = ["a"] * 12 + ["b", *"cdefg"]
    failed = {n: replace(record(n, 0.0, Status.FAILED), reason=reason) for n, reason in enumerate(reasons)}
    assert failures({99: record(99, 0.5)} | failed) == [
        "trials 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... failed: a",
        "trial 12 failed: b",
        "trial 13 failed: c",
        "trial 14 failed: d",
        "trial 15 failed: e",
        "2 more trials failed, for other reasons",
    ]
    assert failures({3: failed[12]}, "seed") == ["seed 3 failed: b"]
    assert failures({0: record(0, 0.5)}) == []


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
    figures = key_figures(stalling.schedule.curve(600), stalling.schedule.constant_half_life)
    assert "stalls     at step 271 of 600" in figures_text(figures)
    assert "half-life  10.0 updates" in figures_text(figures)
    assert stall_warning(figures) is not None
    fine = build.run_config(Composer().compose(["schedule=cosine"]))
    assert stall_warning(key_figures(fine.schedule.curve(600))) is None


def test_a_picture_is_drawn_of_any_curve() -> None:
    config = build.run_config(Composer().compose(["schedule=constant", "warmup=none", "train.steps=1"]))
    figures = key_figures(config.schedule.curve(1))
    assert curve_picture(np.array([0.1]), figures).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, -3, 0.1, -1e-05, "a", "a b", "a  b", "null", "true", "1", "1e3", "-x", "it's", 'say "hi"', "c$d",
        "x\\y", 'x\\"y', "x\\", "${train.steps}", "a,b", "[a]", "", "~/x", "a=b", "é", " lead", "x: y", "choice(a,b)",
        ["a b", None, -1, {"k": ["x,y"]}], {"layers.1.*": {"lr_factor": 0.5}, "a b": "c d", "[0-9]": None}, [], {},
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_in_a_command_is_read_as_the_value_that_it_was(value: object) -> None:
    read_again = dimension(parse_override(f"model.key=[{as_override(value)}],[]"), str, float).choices
    assert repr(read_again[0]) == repr([value])


def test_the_command_line_repeats_what_was_drawn_and_not_its_text() -> None:
    drawn = {"schedule": "mine/cos", "model.text": "1  $x", "optimizer.groups": {"*.bias": {"lr_factor": 2}}}
    params = {"schedule.name": "cosine", "schedule": "mine/cos", "model.text": "1  $x"}
    repeated = replace(record(0, 0.5, **params), values=drawn)
    command = train_command(replace(study(), searched=list(drawn)), repeated)
    assert command == (
        "python -m sweep mode=train train.steps=9 schedule=mine/cos 'model.text=\"1  $x\"' "
        "'optimizer.groups={*.bias:{lr_factor:2}}'"
    )
    assert repeated.param("schedule") == "mine/cos"
    assert repeated.param("schedule.decay_steps") is None
    assert repeated.param("optimizer.groups") == '{"*.bias": {"lr_factor": 2}}'


def test_a_null_that_was_not_drawn_is_a_dash_and_is_not_repeated() -> None:
    keys = ["schedule", "schedule.end_factor"]
    params = {"schedule.name": "exponential", "schedule.end_factor": "null"}
    fixed = replace(record(0, 0.5, **params), values={"schedule": "exponential"})
    drawn = replace(fixed, values={"schedule": "exponential", "schedule.end_factor": None})
    shown = [param_text(trial, "schedule.end_factor") for trial in (fixed, drawn)]
    assert shown == ["-", "null"]
    chooses = replace(study(), searched=keys)
    assert train_command(chooses, fixed).endswith(" schedule=exponential")
    assert train_command(chooses, drawn).endswith(" schedule=exponential schedule.end_factor=null")
