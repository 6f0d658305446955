"""Tests the typed configuration and what it refuses."""

import json
import math
from dataclasses import replace

import pytest

from sweep.components import Component
from sweep.config import (
    AverageConfig,
    DatasetConfig,
    OptimizerConfig,
    RunConfig,
    SamplerConfig,
    StudyConfig,
    TrackingConfig,
    TrainConfig,
)
from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS

SGD = Component("optimizer", "torch.optim.SGD", {"momentum": 0.9})
DIGITS = Component("dataset", "sweep.data.sources.digits", {})
MODEL = Component("model", "models.mlp.MLP", {"hidden": [16]})


def refused(key):
    return pytest.raises(InvalidValueError, match=rf"^{key}=")


# --- one training

TRAIN = {"steps": 100, "batch_size": 32, "seed": 0, "eval_every": 10}


def run_config(steps=100, warmup=None):
    return RunConfig(
        model=MODEL,
        optimizer=OptimizerConfig(SGD, 0.3),
        decay=DECAYS["exponential"](decay_rate=0.5, decay_steps=10),
        warmup=warmup or WARMUPS["none"](),
        dataset=DatasetConfig(DIGITS),
        train=TrainConfig(**(TRAIN | {"steps": steps})),
        resolved={},
    )


def test_the_schedule_is_of_the_rate_the_warmup_and_the_decay():
    schedule = run_config(warmup=WARMUPS["linear"](steps=4)).schedule
    assert [schedule(s) for s in (0, 2, 4, 14)] == pytest.approx([0, 0.15, 0.3, 0.15], rel=1e-14)


@pytest.mark.parametrize("steps", [100, 101, 1000])
def test_a_warmup_that_does_not_end_before_the_horizon_is_refused(steps):
    with refused(r"warmup\.steps") as error:
        run_config(steps=100, warmup=WARMUPS["linear"](steps=steps))
    assert "train.steps=100" in str(error.value)


def test_a_warmup_may_leave_one_update():
    assert run_config(steps=100, warmup=WARMUPS["linear"](steps=99)).schedule(99) == 0.3


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("steps", 0, ">= 1"),
        ("steps", 1.5, "integer"),
        ("steps", None, "integer"),
        ("steps", True, "integer"),
        ("batch_size", 0, ">= 1"),
        ("batch_size", "64", "integer"),
        ("seed", -1, ">= 0"),
        ("eval_every", 0, ">= 1"),
        ("device", "gpu", "cuda"),
        ("device", "cuda:x", "cuda"),
        ("device", "cuda:-1", "cuda"),
        ("device", "cpu:0", "cuda"),
        ("device", None, "cuda"),
        ("device", "cpu:", "cuda"),
        ("device", "auto:", "cuda"),
        ("device", "cuda:", "cuda"),
        ("device", "cuda:\N{SUPERSCRIPT TWO}", "cuda"),
        ("precision", "float16", "float32, bf16, fp16, float64"),
        ("precision", None, "float32"),
        ("accumulate", 0, ">= 1"),
        ("accumulate", 1.5, "integer"),
        ("accumulate", 33, "at most train.batch_size=32"),
    ],
)
def test_train_refuses_with_key_value_and_rule(key, value, rule):
    with refused(key) as error:
        TrainConfig(**(TRAIN | {key: value}))
    assert str(error.value).startswith(f"{key}={'null' if value is None else value}: ")
    assert rule in error.value.rule


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16", "float64"])
def test_train_takes_every_device_and_precision(device, precision):
    assert TrainConfig(**TRAIN, device=device, precision=precision).device == device


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("lr", value) for value in (0, -0.1, math.nan, math.inf, "0.1", None)),
        *(("clip_norm", value) for value in (0, -1, math.nan, "1")),
    ],
)
def test_the_optimizer_refuses_with_key_value_and_rule(key, value):
    with refused(key) as error:
        OptimizerConfig(SGD, **({"lr": 0.1} | {key: value}))
    assert error.value.rule == "must be a finite number > 0"


def test_clipping_is_optional():
    assert OptimizerConfig(SGD, 0.1).clip_norm is None
    assert OptimizerConfig(SGD, 0.1, clip_norm=1).clip_norm == 1


@pytest.mark.parametrize("accumulate", [1, 31, 32])
def test_there_are_at_most_as_many_micro_batches_as_examples(accumulate):
    assert TrainConfig(**TRAIN, accumulate=accumulate).accumulate == accumulate


@pytest.mark.parametrize(
    ("groups", "key", "rule"),
    [
        (5, "groups", "must be null or"),
        ([], "groups", "must be null or"),
        ({"bias_and_norm": 5}, r"groups\.bias_and_norm", "must be a name or pattern"),
        ({"bias_and_norm": None}, r"groups\.bias_and_norm", "must be a name or pattern"),
        ({3: {"lr_factor": 1}}, r"groups\.3", "must be a name or pattern"),
        *(
            ({"first.*": {"lr_factor": value}}, r"groups\.first\.\*\.lr_factor", "must be a finite number >= 0")
            for value in (-1, math.nan, math.inf, "2", None, True)
        ),
        ({"first.*": {"lr": 0.1}}, r"groups\.first\.\*\.lr", "lr_factor"),
    ],
)
def test_groups_are_refused_with_key_value_and_rule(groups, key, rule):
    with refused(key) as error:
        OptimizerConfig(SGD, 0.1, groups=groups)
    assert rule in error.value.rule


@pytest.mark.parametrize("groups", [None, {}, {"a.*": {}}, {"bias_and_norm": {"lr_factor": 0, "weight_decay": 0}}])
def test_groups_are_optional(groups):
    assert OptimizerConfig(SGD, 0.1, groups=groups).groups == groups


@pytest.mark.parametrize("decay", [0, 0.0, 0.999])
def test_an_average_has_a_decay_below_1(decay):
    assert AverageConfig("ema", decay).decay == decay


@pytest.mark.parametrize(
    ("name", "decay", "key"),
    [
        *(("ema", value, "decay") for value in (1, 1.0, -0.1, math.nan, "0.9", None)),
        ("none", 0.9, "decay"),
        ("none", 0, "decay"),
        ("swa", None, "name"),
        (None, None, "name"),
    ],
)
def test_an_average_refuses_by_key(name, decay, key):
    with refused(key):
        AverageConfig(name, decay)


def test_a_training_has_no_average_unless_it_is_asked_for():
    assert run_config().average == AverageConfig("none")


def identity(groups):
    resolved = {"optimizer": {"name": "sgd", "groups": groups}, "train": TRAIN | {"device": "cpu"}}
    return json.dumps(replace(run_config(), resolved=resolved).identity, sort_keys=True)


def test_a_key_that_was_added_later_is_part_of_the_identity_only_where_it_is_used():
    def of(train):
        resolved = {"optimizer": {"name": "sgd"}, "train": TRAIN | train}
        return json.dumps(replace(run_config(), resolved=resolved).identity, sort_keys=True)

    assert of({"drop_last": False}) == of({})
    assert of({"drop_last": True}) != of({})


def test_the_order_of_groups_is_part_of_the_identity():
    """The first group that matches applies, so that the order is part of the identity."""
    first, second = {"bias_and_norm": {"lr_factor": 2}}, {"a.*": {"lr_factor": 3}}
    assert identity(first | second) != identity(second | first)
    assert identity(first | second) == identity(first | second)


def test_a_key_that_was_added_later_is_no_part_of_the_identity_while_it_has_its_default():
    """Studies of earlier versions keep their names; the same key of another family was always part of the identity."""

    def schedule(**keys):
        both = {"schedule": keys, "critic": {"schedule": keys}}
        resolved = {**both, "optimizer": {"name": "sgd"}, "train": TRAIN | {"device": "cpu"}}
        identity = replace(run_config(), resolved=resolved).identity
        assert identity["critic"]["schedule"] == identity["schedule"]
        return identity["schedule"]

    assert schedule(name="exponential", end_factor=None) == {"name": "exponential"}
    assert schedule(name="exponential", end_factor=0.1) == {"name": "exponential", "end_factor": 0.1}
    assert schedule(name="cosine", end_factor=0.0) == {"name": "cosine", "end_factor": 0.0}
    assert schedule(name="plateau", threshold_mode="rel") == {"name": "plateau"}
    assert schedule(name="plateau", threshold_mode="abs") == {"name": "plateau", "threshold_mode": "abs"}
    assert identity(None) == identity({})


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"val_fraction": 0}, "val_fraction"),
        ({"val_fraction": 1}, "val_fraction"),
        ({"test_fraction": -0.1}, "test_fraction"),
        ({"test_fraction": 1}, "test_fraction"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction"),
        ({"split_seed": -1}, "split_seed"),
        ({"split_seed": 0.5}, "split_seed"),
        ({"standardize": 1}, "standardize"),
        ({"n_classes": 1}, "n_classes"),
        ({"n_classes": 2.5}, "n_classes"),
    ],
)
def test_the_data_set_refuses_by_key(keys, key):
    with refused(key):
        DatasetConfig(DIGITS, **keys)


# --- a study

STUDY = {
    "name": None,
    "n_trials": 30,
    "timeout": None,
    "storage": "sqlite:///optuna.db",
    "metric": "val_loss",
    "direction": None,
    "max_retries": 3,
}


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("name", "", "text"),
        ("name", "  ", "text"),
        ("name", 5, "text"),
        ("n_trials", 0, ">= 1"),
        ("n_trials", 2.0, "integer"),
        ("n_trials", None, "integer"),
        ("timeout", 0, "> 0"),
        ("timeout", -5, "> 0"),
        ("timeout", "1h", "> 0"),
        ("metric", "loss", "val_loss, val_accuracy"),
        ("metric", None, "val_loss"),
        ("metric", ["val_loss"], "val_loss"),
        ("direction", "maximize", "minimize"),
        ("direction", "down", "minimize"),
        ("max_retries", -1, ">= 0"),
    ],
)
def test_a_study_refuses_with_key_value_and_rule(key, value, rule):
    with refused(key) as error:
        StudyConfig(**(STUDY | {key: value}))
    assert error.value.value == value
    assert rule in error.value.rule


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("val_loss", "minimize"),
        ("val_accuracy", "maximize"),
        ("val_loss_ema", "minimize"),
        ("val_accuracy_ema", "maximize"),
    ],
)
def test_the_direction_is_the_metric_s_own(metric, direction):
    for given in (None, direction):
        study = StudyConfig(**(STUDY | {"metric": metric, "direction": given}))
        assert study.minimize == (direction == "minimize")


def test_an_accuracy_is_not_minimized():
    with refused("direction"):
        StudyConfig(**(STUDY | {"metric": "val_accuracy", "direction": "minimize"}))


@pytest.mark.parametrize("suffix", ["", "_ema"])
def test_a_regression_is_not_judged_by_accuracy(suffix):
    ema = replace(run_config(), average=AverageConfig("ema", 0.9))
    by_accuracy = StudyConfig(**(STUDY | {"metric": f"val_accuracy{suffix}"}))
    by_accuracy.with_direction(ema, classification=True)
    StudyConfig(**(STUDY | {"metric": f"val_loss{suffix}"})).with_direction(ema, classification=False)
    with refused(r"study\.metric") as error:
        by_accuracy.with_direction(ema, classification=False)
    assert "regression" in error.value.rule


@pytest.mark.parametrize("metric", ["val_loss", "val_accuracy"])
def test_a_training_without_average_is_not_judged_by_one(metric):
    StudyConfig(**(STUDY | {"metric": metric})).with_direction(run_config(), classification=True)
    with refused(r"study\.metric") as error:
        StudyConfig(**(STUDY | {"metric": f"{metric}_ema"})).with_direction(run_config(), classification=True)
    assert error.value.rule == "needs average=ema, not none"


def test_a_sampler_refuses_a_seed_below_zero():
    assert SamplerConfig("tpe", seed=0).seed == 0
    with refused("seed"):
        SamplerConfig("tpe", seed=-1)


@pytest.mark.parametrize("key", ["uri", "experiment"])
@pytest.mark.parametrize("value", ["", None, 5])
def test_tracking_needs_texts(key, value):
    with refused(key):
        TrackingConfig(**({"uri": "sqlite:///mlflow.db", "experiment": "sweep"} | {key: value}))


def test_tracking_keeps_every_update_or_every_so_many():
    assert TrackingConfig("sqlite:///mlflow.db", "sweep").every == 1
    for every in (0, -1, 2.0, None, "1"):
        with refused("every"):
            TrackingConfig("sqlite:///mlflow.db", "sweep", every)


def test_tags_are_texts():
    tags = {"team": "vision", "a b/c.d:e-f": "x\ny", "ticket": 12, "rate": 0.5, "final": True, 3: "three"}
    assert TrackingConfig("sqlite:///mlflow.db", "sweep", tags=tags).tags == {
        "team": "vision", "a b/c.d:e-f": "x\ny", "ticket": "12", "rate": "0.5", "final": "true", "3": "three",
    }  # fmt: skip
    assert TrackingConfig("sqlite:///mlflow.db", "sweep").tags == {}
    assert TrackingConfig("sqlite:///mlflow.db", "sweep", tags=None).tags == {}
    TrackingConfig("sqlite:///mlflow.db", "sweep", tags={"n" * 250: "v" * 8000})


@pytest.mark.parametrize(
    ("tags", "key"),
    [
        ("vision", "tags"),
        (["team"], "tags"),
        ({"team": None}, "tags.team"),
        ({"team": ["a"]}, "tags.team"),
        ({"team": {"a": 1}}, "tags.team"),
        ({"team": "v" * 8001}, "tags.team"),
        ({"n" * 251: "v"}, "tags." + "n" * 251),
        ({"": "v"}, "tags."),
        ({"a@b": "v"}, "tags.a@b"),
        ({"a//b": "v"}, "tags.a//b"),
        ({"../a": "v"}, "tags.../a"),
        ({"/a": "v"}, "tags./a"),
        ({"sweep.kind": "mine"}, "tags.sweep.kind"),
        ({"mlflow.note.content": "mine"}, "tags.mlflow.note.content"),
    ],
)
def test_tags_that_mlflow_would_refuse_or_that_are_reserved_are_refused(tags, key):
    with refused(key):
        TrackingConfig("sqlite:///mlflow.db", "sweep", tags=tags)
