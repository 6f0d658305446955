"""Tests `sweep.schedule` against the formulas of the families, and the rates of a training."""

import numpy as np
import pytest

import sweep
from sweep.errors import InvalidValueError
from sweep.requests.build import run_config
from sweep.requests.compose import Composer


def test_exponential_decay_is_that_of_tensorflow() -> None:
    rate = sweep.schedule("exponential", lr=0.1, decay_rate=0.96, decay_steps=100, staircase=True)
    assert rate(99) == 0.1
    assert rate(100) == pytest.approx(0.096, rel=1e-15)
    steps = np.arange(1000)
    assert rate.curve(1000) == pytest.approx(0.1 * 0.96 ** (steps // 100), rel=1e-12)


def test_a_number_is_that_many_updates_of_linear_warmup() -> None:
    rate = sweep.schedule("constant", lr=0.5, warmup=10, steps=100)
    assert rate.warm_at == 10
    assert rate(50) == 0.5
    named = sweep.schedule("constant", lr=0.5, warmup={"name": "linear", "steps": 10}, steps=100)
    assert (named.curve(100) == rate.curve(100)).all()


@pytest.mark.parametrize("name", ["cosine", "wsd", "one_cycle", "linear"])
def test_a_schedule_is_the_one_that_a_training_uses(name: str) -> None:
    texts = [f"schedule={name}", "warmup=linear", "optimizer.lr=0.3", "train.steps=200"]
    if name == "one_cycle":
        texts.remove("warmup=linear")
    used = run_config(Composer().compose(["warmup=none", *texts] if name == "one_cycle" else texts)).schedule
    given = sweep.schedule(name, lr=0.3, steps=200, warmup=None if name == "one_cycle" else "linear")
    assert (given.curve(200) == used.curve(200)).all()


@pytest.mark.parametrize("name", ["cosine", "noam"])
def test_the_default_warmup_of_a_training_is_linear_unless_the_schedule_warms_up_by_itself(name: str) -> None:
    used = run_config(Composer().compose([f"schedule={name}", "optimizer.lr=0.3", "train.steps=200"])).schedule
    given = sweep.schedule(name, lr=0.3, steps=200, warmup=None if name == "noam" else "linear")
    assert (given.curve(200) == used.curve(200)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosine", "lr": 0.1}, "steps=null: must be given, because schedule=cosine depends on the horizon"),
        ({"name": "cosin", "lr": 0.1, "steps": 10}, "did you mean cosine"),
        ({"name": "cosine", "lr": -1, "steps": 10}, "optimizer.lr=-1: must be a finite number > 0"),
        ({"name": "cosine", "lr": 0.1, "steps": 10, "alpha": 2}, "schedule.alpha=2: no such key"),
        ({"name": "cosine", "lr": 0.1, "steps": 10, "warmup": {"steps": 2}}, "must have a name"),
    ],
)
def test_what_cannot_be_right_is_refused(arguments, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        sweep.schedule(**arguments)
