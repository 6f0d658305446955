"""Compares curves with those of the original implementations: TensorFlow, optax, Hugging Face, torch, plain formulas.

`goldens/make.py` has made `goldens/goldens.json` from them, once.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sweep.requests.expressions import parse_override
from sweep.schedules import DECAYS, WARMUPS, Piece, Schedule, cosine
from tests.schedules.test_reactions import replay

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "goldens.json").read_text())
CURVES = {case["name"]: case for case in GOLDENS["cases"]}
PLATEAUS = {case["name"]: case for case in GOLDENS["plateau"]}

THROUGH_THE_COMMAND = (
    "exponential-staircase-tensorflow",
    "power-1.02",
    "noisy_linear_cosine-default-tensorflow",
    "warmup-polynomial-20-0.1-overlap",
    "joined-sgdr-warmups-optax",
)
"""One case of each kind: a factor, a rate, noise, a warmup, joined pieces."""


def option(case, group):
    (chosen,) = [text.partition("=")[2] for text in case["overrides"] if text.startswith(f"{group}=")]
    return chosen


def decay_of(name, pieces=None, **keys):
    """Build a decay from its keys in a configuration."""
    if pieces is not None:
        parts = [dict(piece) for piece in pieces.values()]
        factors = [part.pop("factor", 1.0) for part in parts]
        keys["pieces"] = tuple(Piece(decay_of(**part), factor) for part, factor in zip(parts, factors, strict=True))
    return DECAYS[name](**keys)


def schedule_of(case):
    """Build the schedule that the overrides of a case describe; they give every key."""
    groups = {"schedule": {}, "warmup": {}, "optimizer": {}, "train": {}}
    for override in map(parse_override, case["overrides"]):
        group, _, key = override.key_or_group.partition(".")
        groups[group][key or "name"] = override.value()
    warmup = WARMUPS[groups["warmup"].pop("name")](**groups["warmup"])
    return Schedule(groups["optimizer"]["lr"], decay_of(**groups["schedule"]), warmup)


@pytest.fixture
def with_noise_of(monkeypatch):
    """Replaces the noise of a schedule by the noise that the original drew, for cases that have some."""

    def replace(case):
        if "noise" in case:
            draws = np.array(case["noise"])
            monkeypatch.setattr(cosine, "standard_normal", lambda seed, s: draws[np.asarray(s, dtype=int)])

    return replace


def assert_golden(found, expected, case):
    """float32 originals: |a - b| <= 1e-5 |b| + 1e-6 lr; float64 ones: 1e-12 lr."""
    rtol, atol = (1e-5, 1e-6) if case["precision"] == "float32" else (0, 1e-12)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol * case["lr"], err_msg=case["source"])


def test_every_family_and_warmup_has_its_goldens():
    cases = [*CURVES.values(), *PLATEAUS.values()]
    assert {option(case, "schedule") for case in cases} == DECAYS.keys()
    assert {option(case, "warmup") for case in cases} == WARMUPS.keys() - {"until_error"}  # a reaction


def assert_curve(rates, case):
    compared = np.setdiff1d(np.arange(case["steps"]), case.get("skip", []))
    assert len(rates) == case["steps"]
    assert_golden(np.asarray(rates)[compared], np.array(case["values"])[compared], case)


@pytest.mark.parametrize("name", CURVES)
def test_the_curve_is_that_of_the_original(name, with_noise_of):
    case = CURVES[name]
    with_noise_of(case)
    assert_curve(schedule_of(case).curve(case["steps"]), case)


@pytest.mark.parametrize("name", THROUGH_THE_COMMAND)
def test_mode_preview_writes_the_curve_of_the_original(name, with_noise_of, sweep, folder):
    case = CURVES[name]
    with_noise_of(case)
    answer = sweep("mode=preview", *case["overrides"])
    assert (answer.status, answer.err) == (0, "")
    with (folder / "schedule.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(step) for step in range(case["steps"])]
    assert_curve([float(row["lr"]) for row in rows], case)


@pytest.mark.parametrize("name", PLATEAUS)
def test_a_plateau_cuts_where_the_original_does(name):
    case = PLATEAUS[name]
    _, rates = replay(schedule_of(case), {step: {"val_loss": loss} for step, loss in enumerate(case["losses"], 1)})
    assert_golden(rates, case["values"], case)
    assert len(set(case["values"])) > 1
