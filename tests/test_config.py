"""The typed configuration: what it lets be called, and what it refuses."""

import json
import math
import sys
from dataclasses import replace

import pytest
import schedulefree
import torch

from models.mlp import MLP
from sweep.components import Component, locate, recorded_target
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
from sweep.schedules import DECAYS, WARMUPS
from sweep.training.optimizers import Lion
from sweep.validation import InvalidValueError

SGD = Component("optimizer", "torch.optim.SGD", {"momentum": 0.9})
DIGITS = Component("dataset", "sweep.data.sources.digits", {})
MODEL = Component("model", "models.mlp.MLP", {"hidden": [16]})


def refused(key):
    return pytest.raises(InvalidValueError, match=rf"^{key}=")


class Outer:
    """A component with a part that may be a component itself."""

    def __init__(self, part=None, **more):
        self.part, self.more = part, more


def outer(**arguments):
    return Component("model", f"{__name__}.Outer", arguments, trusted=(__name__,))


# --- import paths


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("models.mlp.MLP", MLP),
        ("torch.optim.SGD", torch.optim.SGD),
        ("torch.optim.sgd.SGD", torch.optim.SGD),
        ("torch.nn.Linear", torch.nn.Linear),
        ("torch.nn.modules.linear.Linear", torch.nn.Linear),
        ("sweep.training.optimizers.Lion", Lion),
        ("schedulefree.AdamWScheduleFree", schedulefree.AdamWScheduleFree),
    ],
)
def test_a_path_within_the_own_packages_is_found(target, found):
    assert locate("model", target) is found


@pytest.mark.parametrize(
    "target",
    [
        "builtins.open",
        "os.system",
        "torch.hub.load",
        "torch.load",
        "subprocess.Popen",
        "pandas.read_pickle",
        "sweep.components.locate",
        "sweep.cli.main",
        "sweep.database.engine",
        "sweep.training.SerialEngine",
        "sweep.training.optimizersx.Lion",
        "schedulefreex.AdamWScheduleFree",
        "modelsx.mlp.MLP",
        "torch.nnx.Linear",
        "torch.optimizer.SGD",
        "MLP",
        "",
        None,
        5,
        ["models.mlp.MLP"],
    ],
)
def test_a_path_outside_the_own_packages_is_refused(target):
    with refused(r"model\._target_") as error:
        Component("model", target, {})
    assert "models, sweep.data.sources, torch.nn, torch.optim" in str(error.value)
    assert "trusted" in str(error.value)


@pytest.mark.parametrize(
    "target",
    [
        "models.mlp.torch.hub.load",
        "models.mlp.nn.functional.torch.load",
        "models.mlp.prod",
        "models.cnn.Sequence",
        "sweep.data.dataset.torch.hub.load",
        "sweep.data.dataset.np.load",
        "sweep.data.dataset.hashlib.sha256",
        "sweep.data.sources.np.load",
        "sweep.data.sources.Path",
        "sweep.data.sources.zipfile.ZipFile",
        "sweep.data.sources.InvalidValueError",
        "torch.nn.modules.module.torch.load",
        "torch.optim.optimizer.functools.partial",
        "sweep.training.optimizers.torch.load",
        "schedulefree.adamw_schedulefree.torch.load",
        "models.mlp.__loader__.get_data",
        "models.mlp.__builtins__.open",
        "models.mlp.torch.add",
    ],
)
def test_what_an_own_module_merely_imported_is_not_reached_through_it(target):
    with refused(r"model\._target_"):
        Component("model", target, {})


@pytest.mark.parametrize(
    "target",
    ["models.mlp.MLP.__subclasses__", "models.mlp.MLP.__init__.__globals__.get", "models.mlp.__builtins__.get"],
)
def test_what_belongs_to_no_module_is_refused(target):
    with refused(r"model\._target_"):
        Component("model", target, {})


@pytest.mark.parametrize(
    "target",
    [
        "models",
        "models.mlp",
        "models.nothing",
        "models.nothing.MLP",
        "models.mlp.Nothing",
        "models.",
        "models.mlp..MLP",
    ],
)
def test_a_path_to_nothing_that_can_be_called_is_refused(target):
    with refused(r"model\._target_"):
        Component("model", target, {})


@pytest.fixture
def their_models(tmp_path, monkeypatch):
    """A package of a user named models, found behind ours, as in a clone that PYTHONPATH names."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "mlp.py").write_text("from models.parts import part\n\nclass MLP:\n    part = part\n")
    (folder / "parts.py").write_text("def part():\n    return 'theirs'\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "models"}
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]
    sys.modules.update(before)


def test_a_package_of_theirs_named_models_is_found_if_it_is_trusted_and_ours_stays_ours(their_models):
    assert locate("model", "models.mlp.MLP") is MLP
    theirs = Component("model", "models.mlp.MLP", {}, ("models",))
    assert locate("model", "models.mlp.MLP", ("models",)).part() == "theirs"
    assert theirs.is_trusted
    assert theirs.own_target == "models.mlp.MLP"
    for target in ("sweep.models.mlp.MLP", "models.cnn.CNN"):
        ours = Component("model", target, {}, ("models",))
        assert not ours.is_trusted
        assert ours.own_target == f"sweep.{recorded_target(ours.target)}"
    assert locate("model", "sweep.models.mlp.MLP", ("models",)) is MLP
    assert locate("model", "models.mlp.MLP") is MLP


def test_what_is_theirs_and_named_as_ours_has_another_identity(their_models):
    config = replace(run_config(), resolved={"train": {}, "optimizer": {}})
    theirs = replace(config, model=replace(config.model, arguments={}, trusted=("models",)))
    assert "trusted" not in config.identity
    assert theirs.identity["trusted"] == ["model"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of a user that leaves a mark when it is imported; the path of the mark."""
    mark = tmp_path / "imported"
    (tmp_path / "mynets.py").write_text(f"open({str(mark)!r}, 'w').close()\n\ndef net(width=3):\n    return width\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("mynets", None)


def test_a_package_that_is_not_trusted_is_not_even_imported(package):
    with refused(r"model\._target_"):
        Component("model", "mynets.net", {})
    with refused(r"model\._target_"):
        Component("model", "models.mynets.net", {})
    assert not package.exists()


def test_a_trusted_package_is_called(package):
    assert Component("model", "mynets.net", {"width": 7}, trusted=("mynets",)).build() == 7
    assert package.exists()


def test_trust_is_in_packages_not_in_beginnings_of_names(package):
    with refused(r"model\._target_"):
        Component("model", "mynets.net", {}, trusted=("my",))
    assert not package.exists()


def test_a_trusted_module_that_needs_what_is_missing_says_so(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with refused(r"model\._target_") as error:
        Component("model", "needy.Net", {}, trusted=("needy",))
    assert "a_module_that_is_not_there" in str(error.value)


def test_an_extra_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with refused(r"optimizer\._target_") as error:
        Component("optimizer", "schedulefree.AdamWScheduleFree", {})
    assert error.value.rule == "is not installed; pip install schedulefree"


# --- arguments


def test_an_unknown_key_is_refused_with_those_that_are_known():
    with refused(r"optimizer\.momentun") as error:
        Component("optimizer", "torch.optim.SGD", {"momentun": 0.9})
    assert "momentum" in str(error.value)
    assert "torch.optim.SGD" in str(error.value)


def test_a_target_without_arguments_says_so():
    with refused(r"dataset\.path") as error:
        Component("dataset", "sweep.data.sources.digits", {"path": "x"})
    assert "no arguments" in str(error.value)


def test_a_target_that_takes_any_key_takes_any_key():
    assert outer(anything=5).build().more == {"anything": 5}


def test_what_is_provided_is_given_where_there_is_a_parameter_for_it():
    model = MODEL.build(input_shape=(4,), n_outputs=3, something_else=1)
    assert model(torch.zeros(2, 4)).shape == (2, 3)
    assert MODEL.accepts("n_outputs")
    assert not MODEL.accepts("something_else")


def test_positional_arguments_come_first():
    parameter = torch.zeros(1, requires_grad=True)
    group = SGD.build([parameter], lr=0.25).param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.25, 0.9)


@pytest.mark.parametrize(
    ("component", "said"),
    [
        (Component("model", "models.mlp.MLP", {"hidden": [0]}), "list of integers > 0"),
        (Component("model", "models.mlp.MLP", {"hidden": 5}), "models.mlp.MLP"),
        (Component("model", "models.mlp.MLP", {"n_outputs": 7}), "n_outputs"),
    ],
)
def test_what_the_target_refuses_is_refused_with_what_was_given(component, said):
    with refused("model") as error:
        component.build(input_shape=(4,), n_outputs=3)
    assert said in str(error.value)
    assert str(next(iter(component.arguments.values()))) in str(error.value)


def test_a_refusal_of_ours_is_moved_under_the_group(tmp_path):
    with refused(r"dataset\.path"):
        Component("dataset", "sweep.data.sources.arrays", {"path": str(tmp_path / "nothing")}).build()


def test_an_argument_with_a_target_of_its_own_becomes_what_that_gives():
    built = outer(part={"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}).build()
    assert isinstance(built.part, torch.nn.Linear)
    assert built.part.out_features == 3


def test_nesting_goes_as_deep_as_it_is_written():
    inner = {"_target_": f"{__name__}.Outer", "part": {"_target_": "torch.nn.ReLU"}}
    assert isinstance(outer(part=inner).build().part.part, torch.nn.ReLU)


def test_a_mapping_without_a_target_stays_a_mapping():
    assert outer(part={"width": 3}).build().part == {"width": 3}


class Greedy:
    """Changes the lists and mappings that it is built with."""

    def __init__(self, widths, n_outputs=0, part=None):
        widths.append(n_outputs)
        widths[0].clear()
        self.widths, self.part = widths, part


def test_a_target_that_changes_its_arguments_does_not_change_the_next_call():
    inner = {"_target_": f"{__name__}.Greedy", "widths": [[4]]}
    given = {"widths": [[1, 2], 3], "part": inner}
    component = Component("model", f"{__name__}.Greedy", given, trusted=(__name__,))
    for _ in range(2):
        built = component.build(n_outputs=7)
        assert (built.widths, built.part.widths) == ([[], 3, 7], [[], 0])
    assert given == {"widths": [[1, 2], 3], "part": {"_target_": f"{__name__}.Greedy", "widths": [[4]]}}


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", None])
def test_a_nested_target_outside_the_own_packages_is_refused(target):
    with refused(r"model\.part\._target_"):
        outer(part={"_target_": target, "command": "true"}).build()


def test_an_unknown_key_of_a_nested_target_is_named_with_its_path():
    with refused(r"model\.part\.in_feature"):
        outer(part={"_target_": "torch.nn.Linear", "in_feature": 2}).build()


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
        ("precision", "float16", "float32, bf16, float64"),
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
@pytest.mark.parametrize("precision", ["float32", "bf16", "float64"])
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
        (5, "groups", "must be null, or"),
        ([], "groups", "must be null, or"),
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
    """The first that matches counts, whatever a digest sorts."""
    first, second = {"bias_and_norm": {"lr_factor": 2}}, {"a.*": {"lr_factor": 3}}
    assert identity(first | second) != identity(second | first)
    assert identity(first | second) == identity(first | second)


def test_a_key_that_was_added_later_is_no_part_of_the_identity_while_it_has_its_default():
    """Studies of earlier versions keep their names; the same key of another family was always part of it."""

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
    by_accuracy.check_metric(ema, classification=True)
    StudyConfig(**(STUDY | {"metric": f"val_loss{suffix}"})).check_metric(ema, classification=False)
    with refused(r"study\.metric") as error:
        by_accuracy.check_metric(ema, classification=False)
    assert "regression" in error.value.rule


@pytest.mark.parametrize("metric", ["val_loss", "val_accuracy"])
def test_a_training_without_average_is_not_judged_by_one(metric):
    StudyConfig(**(STUDY | {"metric": metric})).check_metric(run_config(), classification=True)
    with refused(r"study\.metric") as error:
        StudyConfig(**(STUDY | {"metric": f"{metric}_ema"})).check_metric(run_config(), classification=True)
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
