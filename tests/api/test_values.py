"""Tests overrides in Python, which become the texts of the command line."""

from pathlib import Path

import numpy as np
import pytest

import sweep
from sweep.api.values import as_texts
from sweep.errors import InvalidValueError
from sweep.requests.expressions import parse, parse_override


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("optimizer.lr", 0.1, "optimizer.lr=0.1"),
        ("optimizer.lr", np.float64(0.1), "optimizer.lr=0.1"),
        ("train.steps", np.int64(7), "train.steps=7"),
        ("train.compile", True, "train.compile=true"),
        ("study.name", None, "study.name=null"),
        ("model.hidden", (8, 4), "model.hidden=[8,4]"),
        ("schedule.values", np.array([1.0, 0.5]), "schedule.values=[1.0,0.5]"),
        ("tracking.tags", {"team": "vision"}, "tracking.tags={team:vision}"),
        ("schedule", "cosine,wsd", "schedule=cosine,wsd"),
        ("warmup.steps", "${fraction:0.1}", "warmup.steps=${fraction:0.1}"),
        ("dataset.path", Path("a/x.npz"), "dataset.path=a/x.npz"),
        ("dataset.path", "my data/x=1.npz", 'dataset.path="my data/x=1.npz"'),
        ("optimizer.lr", sweep.loguniform(1e-3, 1), "optimizer.lr=tag(log,interval(0.001,1))"),
        ("schedule.decay_rate", sweep.interval(0.5, 0.99), "schedule.decay_rate=interval(0.5,0.99)"),
        ("warmup.steps", sweep.interval(0, 0.2, unit="fraction"), "warmup.steps=tag(fraction,interval(0,0.2))"),
        (
            "schedule.decay_steps",
            sweep.loguniform(0.01, 0.5, unit="epochs"),
            "schedule.decay_steps=tag(log,epochs,interval(0.01,0.5))",
        ),
        ("model.width", sweep.interval(4, 16, integer=True), "model.width=int(interval(4,16))"),
        ("model.width", sweep.loguniform(4, np.int64(64), integer=True), "model.width=tag(log,int(interval(4,64)))"),
        ("schedule", sweep.choice("cosine", "wsd"), "schedule=cosine,wsd"),
        ("model.width", sweep.choice(8), "model.width=choice(8)"),
        ("model.hidden", sweep.choice([8], [8, 4]), "model.hidden=[8],[8,4]"),
        ("model.norm", sweep.choice("null", None), 'model.norm="null",null'),
    ],
)
def test_a_value_becomes_the_text_of_the_command_line(key: str, value: object, text: str) -> None:
    assert as_texts({key: value}) == [text]
    parse_override(text)


def test_a_mapping_of_a_group_is_that_of_its_keys() -> None:
    given = {"train": {"steps": 100, "seed": 3}, "optimizer": "adam"}
    assert as_texts(given) == ["train.steps=100", "train.seed=3", "optimizer=adam"]


def test_a_name_in_the_mapping_of_a_group_chooses_its_option() -> None:
    given = {"optimizer": {"name": "adam", "lr": 0.1}, "study": {"name": "mine"}}
    assert as_texts(given) == ["optimizer=adam", "optimizer.lr=0.1", "study.name=mine"]
    critic = {"critic": {"optimizer": {"name": "adam", "lr": sweep.loguniform(0.1, 1)}}}
    assert as_texts(critic) == ["critic.optimizer=adam", "critic.optimizer.lr=tag(log,interval(0.1,1))"]


def test_texts_stay_as_they_are() -> None:
    assert as_texts(["schedule=cosine", "train.steps=5"]) == ["schedule=cosine", "train.steps=5"]


def test_what_is_searched_is_read_as_a_dimension() -> None:
    request = parse(as_texts({"optimizer.lr": sweep.loguniform(1e-3, 1), "schedule": sweep.choice("cosine", "wsd")}))
    assert request.groups == {"schedule": ("cosine", "wsd")}
    assert set(request.sweeps) == {"optimizer.lr"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sweep.interval(2, 1), "high=1: must be > low=2"),
        (lambda: sweep.loguniform(0, 1), "low=0: must be a finite number > 0"),
        (lambda: sweep.interval(0, float("inf")), "high=inf: must be a finite number"),
        (lambda: sweep.interval(0, 1, unit="steps"), "unit=steps: must be one of updates, fraction, epochs"),
        (lambda: sweep.choice(), "must have at least one option"),
        (lambda: as_texts("schedule=cosine"), "must be a list of texts or a mapping"),
        (lambda: as_texts([3]), "overrides=3: must be a text key=value"),
        (lambda: as_texts({"model.x": object()}), "must be a text, number, True, False, None, list or mapping"),
    ],
)
def test_what_cannot_be_right_is_refused(make, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message.replace("(", r"\(")):
        make()
