"""What makes two trials one training, and what does not."""

import json
from dataclasses import replace

import pytest
import torch

from sweep.components import Component
from sweep.core import Trial, is_record_name
from sweep.report.describe import describe, flatten, training_digest
from sweep.requests import build
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers

register_resolvers()


def trial(*overrides: str, number: int = 0) -> Trial:
    config = build.run_config(Composer().compose(["warmup=none", *overrides]))
    return Trial(number, config, config.train.seed)


def exponential(rate: float, steps: int, *overrides: str) -> Trial:
    return trial(f"schedule.decay_rate={rate}", f"schedule.decay_steps={steps}", *overrides)


TRAINING = exponential(0.25, 20)


def test_decay_rate_and_decay_steps_enter_as_the_half_life_alone() -> None:
    assert training_digest(exponential(0.5, 10)) == training_digest(TRAINING)
    assert training_digest(exponential(0.5, 11)) != training_digest(TRAINING)
    assert training_digest(exponential(0.2501, 20)) != training_digest(TRAINING)


def test_with_staircase_they_enter_each_for_itself() -> None:
    stairs = "schedule.staircase=true"
    assert training_digest(exponential(0.5, 10, stairs)) != training_digest(exponential(0.25, 20, stairs))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["schedule=linear"], ["schedule=polynomial", "schedule.power=1"]),
        (["schedule=constant", "optimizer.lr=0.05"], ["schedule=exponential", "schedule.decay_rate=1"]),
        (
            ["schedule=piecewise", "schedule.boundaries=[9]", "schedule.values=[1,0.5]", "optimizer.lr=0.2"],
            ["schedule=piecewise", "schedule.boundaries=[9]", "schedule.values=[2,1]", "optimizer.lr=0.1"],
        ),
        (["warmup=linear", "warmup.steps=0"], ["warmup=cosine", "warmup.steps=0"]),
    ],
    ids=["family", "constant", "rate", "warmup"],
)
def test_whatever_gives_the_curve_the_curve_is_what_counts(one: list[str], other: list[str]) -> None:
    if "schedule.decay_rate=1" in other:
        other = [*other, "optimizer.lr=0.05"]
    assert training_digest(trial(*one)) == training_digest(trial(*other))


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=0.123",
        "optimizer=sgd",
        "optimizer.momentum=0.8",
        "optimizer.clip_norm=1",
        "model.hidden=[64]",
        "model=cnn",
        "dataset.split_seed=1",
        "dataset=breast_cancer",
        "train.batch_size=32",
        "train.seed=1",
        "train.steps=601",
        "train.eval_every=50",
        "train.precision=float64",
    ],
)
def test_another_training_has_another_digest(override: str) -> None:
    assert training_digest(exponential(0.25, 20, override)) != training_digest(TRAINING)


def test_a_key_that_begins_like_the_rate_s_is_another_key() -> None:
    """adagrad's lr_decay is no part of the curve."""
    with_decay = trial("optimizer=adagrad", "+optimizer.lr_decay=0.1")
    assert training_digest(with_decay) != training_digest(trial("optimizer=adagrad"))


def test_the_seed_is_the_trial_s_own() -> None:
    assert training_digest(replace(TRAINING, seed=7)) != training_digest(TRAINING)
    assert training_digest(replace(exponential(0.25, 20, "train.seed=7"), seed=0)) == training_digest(TRAINING)


def test_where_it_is_trained_under_which_number_does_not_count() -> None:
    assert training_digest(exponential(0.25, 20, "train.device=cpu")) == training_digest(TRAINING)
    assert training_digest(replace(TRAINING, number=3, values={"schedule.decay_steps": 20})) == training_digest(
        TRAINING
    )


def test_a_schedule_that_waits_for_something_is_more_than_its_first_curve() -> None:
    """Two plateau schedules begin alike, and part when the loss stops improving."""
    patient, hasty = trial("schedule=plateau", "schedule.patience=9"), trial("schedule=plateau", "schedule.patience=1")
    assert describe(patient).tags["sweep.curve"] == describe(hasty).tags["sweep.curve"]
    assert training_digest(patient) != training_digest(hasty)
    assert training_digest(trial("schedule=plateau", "schedule.patience=9")) == training_digest(patient)


def test_the_digest_is_recorded_beside_the_curve_s() -> None:
    tags, duplicate = describe(TRAINING).tags, describe(exponential(0.5, 10)).tags
    assert tags["sweep.training"] == duplicate["sweep.training"] == training_digest(TRAINING)
    assert tags["sweep.curve"] == duplicate["sweep.curve"] != tags["sweep.training"]


@pytest.mark.parametrize(
    ("nested", "flat"),
    [
        ({"a": {"b": {"c": 1}, "d x/y-z": [1]}}, {"a.b.c": 1, "a.d x/y-z": [1]}),
        ({"a": {"layers.0.*": {"lr_factor": 2}}}, {"a": {"layers.0.*": {"lr_factor": 2}}}),
        ({"a": {"b": {"c:d": 1}, "e": 2}}, {"a.b": {"c:d": 1}, "a.e": 2}),
        ({"a": {"b//c": 1}}, {"a": {"b//c": 1}}),
        ({"a": {"b": {"c/": 1}}}, {"a.b": {"c/": 1}}),
        ({"a": {"": 1}}, {"a": {"": 1}}),
        ({"a": {"größe": 1}}, {"a.größe": 1}),
        ({"a": {"b" * 248: 1}}, {f"a.{'b' * 248}": 1}),
        ({"a": {"b" * 249: 1}}, {"a": {"b" * 249: 1}}),
        ({"a": {"b.c": 1, "b": {"c": 2}}}, {"a": {"b.c": 1, "b": {"c": 2}}}),
        ({"a": {"b": {}, "c": None}}, {"a.c": None}),
    ],
)
def test_a_configuration_is_flattened_where_its_keys_can_be_params(nested: dict[str, object], flat: object) -> None:
    assert flatten(nested) == flat
    assert all(map(is_record_name, flatten(nested)))


class OwnSGD(torch.optim.SGD):
    """An optimizer of a user's, which may use the lr of its constructor in any way."""


def halved_and_doubled(component: Component | None = None) -> list[str]:
    """The digests of two trainings with equal curves: half the lr, and twice the values of the schedule."""
    digests = []
    for lr, values in ((0.1, "[2,1]"), (0.2, "[1,0.5]")):
        given = trial(
            "schedule=piecewise", "schedule.boundaries=[9]", f"schedule.values={values}", f"optimizer.lr={lr}"
        )
        optimizer = given.config.optimizer
        optimizer = replace(optimizer, component=component or optimizer.component)
        digests.append(training_digest(replace(given, config=replace(given.config, optimizer=optimizer))))
    return digests


def test_the_lr_of_a_users_optimizer_counts_beside_the_curve() -> None:
    one, other = halved_and_doubled()
    assert one == other
    one, other = halved_and_doubled(Component("optimizer", f"{__name__}.OwnSGD", {}, (__name__,)))
    assert one != other


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"b": 1}}, {"a.b": 1}),
        ({1: "x"}, {"1": "x"}),
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]),
        ({}, None),
    ],
    ids=["order", "nesting", "type of a key", "in a list", "empty"],
)
def test_mappings_that_an_own_model_can_tell_apart_are_two_trainings(one: object, other: object) -> None:
    def digest(value: object) -> str:
        model = {**TRAINING.config.resolved["model"], "layers": value}
        return training_digest(
            replace(TRAINING, config=replace(TRAINING.config, resolved={**TRAINING.config.resolved, "model": model}))
        )

    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


def test_what_was_drawn_is_recorded_with_its_types() -> None:
    drawn = {
        "schedule": "cosine",
        "optimizer.lr": 0.1,
        "model.text": "1",
        "optimizer.groups": {"x.*": {"lr_factor": 2}},
    }
    assert json.loads(describe(replace(TRAINING, values=drawn)).tags["sweep.values"]) == drawn
    assert "sweep.values" not in describe(TRAINING).tags
