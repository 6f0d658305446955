"""Curves equal to those of the original implementations: TensorFlow, optax, Hugging Face, torch, and plain formulas.

`goldens/make.py` has made `goldens/goldens.json` from them, once.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sweep.cli import build
from sweep.cli.compose import Composer, register_resolvers
from sweep.schedules import DECAYS, WARMUPS, cosine
from tests.schedules.test_reactions import replay

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "goldens.json").read_text())
CURVES = {case["name"]: case for case in GOLDENS["cases"]}
PLATEAUS = {case["name"]: case for case in GOLDENS["plateau"]}

register_resolvers()


def option(case, group):
    (chosen,) = [text.partition("=")[2] for text in case["overrides"] if text.startswith(f"{group}=")]
    return chosen


def assert_golden(found, expected, case):
    """float32 originals: |a - b| <= 1e-5 |b| + 1e-6 lr; float64 ones: 1e-12 lr."""
    rtol, atol = (1e-5, 1e-6) if case["precision"] == "float32" else (0, 1e-12)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol * case["lr"], err_msg=case["source"])


def test_every_family_and_warmup_has_its_goldens():
    cases = [*CURVES.values(), *PLATEAUS.values()]
    assert {option(case, "schedule") for case in cases} == DECAYS.keys()
    assert {option(case, "warmup") for case in cases} == WARMUPS.keys() - {"until_error"}  # a reaction


@pytest.mark.parametrize("name", CURVES)
def test_mode_preview_writes_the_curve_of_the_original(name, sweep, folder, monkeypatch):
    case = CURVES[name]
    if "noise" in case:
        draws = np.array(case["noise"])
        monkeypatch.setattr(cosine, "standard_normal", lambda seed, s: draws[np.asarray(s, dtype=int)])
    answer = sweep("mode=preview", *case["overrides"])
    assert (answer.status, answer.err) == (0, "")
    with (folder / "schedule.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(step) for step in range(case["steps"])]
    compared = np.setdiff1d(np.arange(case["steps"]), case.get("skip", []))
    rates = np.array([float(row["lr"]) for row in rows])
    assert_golden(rates[compared], np.array(case["values"])[compared], case)


@pytest.mark.parametrize("name", PLATEAUS)
def test_a_plateau_cuts_where_the_original_does(name):
    case = PLATEAUS[name]
    schedule = build.run_config(Composer().compose(case["overrides"])).schedule
    _, rates = replay(schedule, {step: {"val_loss": loss} for step, loss in enumerate(case["losses"], 1)})
    assert_golden(rates, case["values"], case)
    assert len(set(case["values"])) > 1
