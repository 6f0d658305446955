"""Tests errors as a notebook shows them: a few lines that name the user's argument."""

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

import sweep
from sweep.errors import InvalidValueError
from tests.api.test_calls import QUICK, Linear, points

pytestmark = pytest.mark.usefixtures("folder", "copied_database")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sweep.search({"optimzer.lr": 0.1}), "optimzer.lr=0.1: no such key (did you mean optimizer.lr?)"),
        (lambda: sweep.search({"train.steps": -5}), "train.steps=-5: must be an integer >= 1"),
        (lambda: sweep.train({"warmup": "none", "warmup.steps": 3}), "warmup.steps=3: no such key"),
        (lambda: sweep.compare({"compare.schedules": ["cosine", "foo"]}), "compare.schedules=foo: is not an option"),
        (lambda: sweep.preview({"train.steps": "${epochs:-1}"}), "train.steps="),
        (lambda: sweep.load(overrides={"tracking.urii": "x"}), "tracking.urii=x: no such key"),
        (lambda: sweep.schedule("wsd", lr=0.1, steps=100, foo=3), "schedule.foo=3: no such key"),
        (lambda: sweep.schedule("cosin", lr=0.1, steps=100), "schedule=cosin: is not an option (did you mean cosine?)"),
        (lambda: sweep.interval(2, 1), "high=1: must be > low=2"),
        (
            lambda: sweep.train(
                {"task": {"name": "classification", "loss": {"_target_": nn.functional.cross_entropy}}}
            ),
            "overrides=",
        ),
        (lambda: sweep.train({"task.loss._target_": points}), "task.loss._target_=points: must be the import path of"),
    ],
)
def test_a_refusal_shows_no_frames_of_libraries(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidValueError) as error:
        call()
    assert str(error.value).startswith(message)
    shown = traceback.format_exception(error.value)
    assert len("".join(shown).splitlines()) <= 12, shown
    assert "short_tracebacks.py" in shown[-2]


def test_what_is_no_error_of_ours_keeps_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.api.calls.make_plan", lambda command: command.nothing)
    with pytest.raises(AttributeError) as error:
        sweep.search()
    assert "<lambda>" in traceback.format_exception(error.value)[-2]


class Headless(nn.Module):
    """A model that cannot be built."""

    def __init__(self, n_outputs: int, width: int = 3) -> None:
        raise ValueError(f"no head of width {width}")


class Narrow(Linear):
    """A model that does not accept the examples of the digits."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__((3,), n_outputs)


def unreadable(rows: int = 1) -> dict[str, np.ndarray]:
    raise KeyError("rows")


@pytest.mark.parametrize(
    ("overrides", "objects", "message"),
    [
        ({}, {"model": Headless}, r"model=Headless: raised ValueError: no head of width 3 \(.*test_errors.py:\d+ in "),
        ({"model.width": 5}, {"model": Headless}, r"model=Headless\(width=5\): raised ValueError: no head of width 5"),
        ({}, {"model": lambda: 3}, r"model=function: returns a int, not a torch\.nn\.Module$"),
        ({}, {"model": Narrow}, r"model=Narrow: cannot be trained on examples of shape .*test_calls.py:\d+ in forward"),
        ({"model.widht": 5}, {"model": Linear}, r"model\.widht=5: is not a key of Linear \(did you mean width\?\), "),
        ({}, {"dataset": unreadable}, r"dataset=unreadable: raised KeyError: 'rows' \(.*in unreadable\)"),
        (
            {"dataset.row": 3},
            {"dataset": unreadable},
            r"dataset\.row=3: .* \(did you mean rows\?\), .* n_classes, .*, rows$",
        ),
        (
            {"dataset.standardise": True},
            {"dataset": points()},
            r"dataset\.standardise=True: is not a key of arrays \(did you mean standardize\?\), which has "
            r"val_fraction, test_fraction, split_seed, standardize, n_classes, block, windows, collate, num_workers, "
            r"augment$",
        ),
    ],
)
def test_a_message_names_an_object_as_the_user_does(
    overrides: dict[str, object], objects: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValueError, match=f"^{message}") as error:
        sweep.train({**QUICK, **overrides}, progress=False, **objects)
    assert "python." not in str(error.value)
    assert "_target_" not in str(error.value)


def test_other_code_under_the_name_of_a_study_is_said_without_digests() -> None:
    named = {**QUICK, "study.name": "mine", "study.n_trials": 1}
    sweep.search(named, model=lambda n_outputs: Linear((64,), n_outputs), progress=False)
    with pytest.raises(InvalidValueError, match="model: function has different code or contents in the study") as error:
        sweep.search(named, model=lambda n_outputs: Linear((64,), n_outputs, 4), progress=False)
    assert "python." not in str(error.value)


def test_a_list_for_a_number_is_answered_with_the_search_among_its_values() -> None:
    message = (
        r"must be a finite number > 0; a search among these values is 0\.1,0\.2, in Python sweep\.choice\(0\.1, 0\.2\)$"
    )
    with pytest.raises(InvalidValueError, match=r"^optimizer\.lr=\[0\.1, 0\.2\]: " + message):
        sweep.search({"optimizer.lr": [0.1, 0.2]})
    with pytest.raises(
        InvalidValueError, match=r"must be an integer >= 1; .* is 32,64, in Python sweep\.choice\(32, 64\)$"
    ):
        sweep.search({"train.batch_size": [32, 64]})
