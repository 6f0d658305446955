"""Tests dataset.augment in commands and calls: composed, searched, recorded, trained, refused."""

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient

import sweep as library
from sweep.augmentations import NO_AUGMENT, Augment, CropFlip
from sweep.components import Component
from sweep.config import RunConfig
from sweep.errors import InvalidValueError, TrainingFailedError
from sweep.given import target_of
from sweep.requests import build, spaces
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.resolvers import register_resolvers
from tests.conftest import Answer
from tests.test_main_job import history, runs

register_resolvers()

NOISE = ["dataset.augment._target_=tests.test_augmentation.noise", "trusted=[tests]"]
TRAIN = ["mode=train", "train.steps=20", "train.eval_every=10", "train.device=cpu", "model=cnn", "model.channels=[2]"]


def noise(inputs: Any, targets: Any, draws: Any, scale: float = 0.1) -> Any:
    return inputs + scale * draws[:, :1, None, None], targets


noise.n_draws = 1  # type: ignore[attr-defined]


class Sometimes:
    """Fails in the first update with a large random number."""

    n_draws = 1

    def __init__(self, above: float = 0.999) -> None:
        self.above = above

    def __call__(self, inputs: Any, targets: Any, draws: Any) -> Any:
        if (draws > self.above).any():
            raise ArithmeticError("too much noise")
        return inputs, targets


def run(*overrides: str, config_dir: Path | None = None) -> RunConfig:
    return build.run_config(Composer(None if config_dir is None else str(config_dir)).compose(overrides))


# --- composed


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], NO_AUGMENT),
        (["dataset.augment=none"], NO_AUGMENT),
        (["dataset.augment=null"], NO_AUGMENT),
        (["~dataset.augment"], NO_AUGMENT),
        (["dataset.augment=crop_flip"], CropFlip(4, True)),
        (["dataset.augment=crop_flip", "dataset.augment.pad=2"], CropFlip(2, True)),
        (["dataset.augment.flip=false", "dataset.augment=crop_flip"], CropFlip(4, False)),
        (["dataset.augment={name:crop_flip,pad:0}", "dataset=breast_cancer"], CropFlip(0, True)),
    ],
    ids=str,
)
def test_an_option_is_chosen_by_its_name(overrides: list[str], expected: Augment) -> None:
    config = run(*overrides)
    assert config.augment == expected
    named = {"name": "none"} if expected == NO_AUGMENT else {"name": "crop_flip", **vars(expected)}
    assert config.resolved["dataset"]["augment"] == named
    assert config.identity["dataset"].get("augment") == (None if expected == NO_AUGMENT else named)


@pytest.mark.parametrize("keys", [["dataset.augment.scale=2"], []], ids=str)
def test_a_function_of_the_users_has_its_keys_alone(keys: list[str]) -> None:
    config = run(*NOISE, *keys)
    assert isinstance(config.augment, Component)
    assert config.augment.arguments == ({"scale": 2} if keys else {})
    assert config.resolved["dataset"]["augment"]["name"] == "noise"
    assert config.augment in config.components
    whole = run("dataset.augment={_target_:tests.test_augmentation.noise,scale:2}", "trusted=[tests]")
    assert (whole.identity == config.identity) == bool(keys)


FILES = {
    "dataset/mapped.yaml": "_target_: sweep.data.sources.digits\naugment: {name: crop_flip, pad: 3}\n",
    "dataset/named.yaml": "_target_: sweep.data.sources.digits\naugment: crop_flip\n",
    "dataset/theirs.yaml": "_target_: sweep.data.sources.digits\n"
    "augment: {_target_: tests.test_augmentation.noise, scale: 5}\n",
    "experiment/crops.yaml": "# @package _global_\ndataset: {augment: {name: crop_flip, pad: 1}}\n",
}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["dataset=mapped"], CropFlip(3)),
        (["dataset=mapped", "dataset.augment.pad=2"], CropFlip(2)),
        (["dataset=mapped", "dataset.augment=crop_flip"], CropFlip(4)),
        (["dataset=mapped", "dataset.augment=none"], NO_AUGMENT),
        (["dataset=named"], CropFlip(4)),
        (["dataset=theirs", "dataset.augment=none"], NO_AUGMENT),
        (["dataset=theirs", "dataset.augment=crop_flip"], CropFlip(4)),
        (["experiment=crops"], CropFlip(1)),
        (["experiment=crops", "dataset.augment=none"], NO_AUGMENT),
        (["experiment=crops", "dataset.augment=crop_flip", "dataset.augment.flip=false"], CropFlip(4, False)),
    ],
    ids=str,
)
def test_a_file_may_choose_and_the_command_line_chooses_anew(
    tmp_path: Path, overrides: list[str], expected: Augment
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert run(*overrides, "trusted=[tests]", config_dir=tmp_path).augment == expected
    theirs = run("dataset=theirs", "dataset.augment.scale=7", "trusted=[tests]", config_dir=tmp_path).augment
    assert isinstance(theirs, Component)
    assert theirs.arguments == {"scale": 7}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["dataset.augment=none,crop_flip"], [NO_AUGMENT, CropFlip()]),
        (["dataset.augment=crop_flip", "dataset.augment.pad=1,3"], [CropFlip(1), CropFlip(3)]),
        (["dataset.augment=crop_flip", "dataset.augment.pad=int(interval(0,3))"], [CropFlip(0), CropFlip(3)]),
        (["dataset.augment=crop_flip", "dataset.augment.flip=true,false"], [CropFlip(), CropFlip(flip=False)]),
        ([*NOISE, "dataset.augment.scale=interval(0.5,1)"], [0.5, 1.0]),
    ],
    ids=str,
)
def test_options_and_keys_can_be_searched(given: list[str], expected: list[Any]) -> None:
    (branch,) = spaces.space(Composer(), parse(["space=none", *given])).branches
    found = [config.augment for config in branch.extremes()][:2]
    assert [one.arguments["scale"] if isinstance(one, Component) else one for one in found] == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.augment=cropflip"], r"dataset\.augment=cropflip: must be one of none, crop_flip; "),
        (["dataset.augment=3"], r"dataset\.augment=3: must be one of none, crop_flip, or a mapping such as \{_target_"),
        (["dataset.augment=[none]"], r"dataset\.augment=\['none'\]: must be one of"),
        (["dataset.augment.pad=2"], r"dataset\.augment\.pad=2: has no effect with dataset\.augment=none: give "),
        (["dataset.augment=crop_flip", "dataset.augment.pad=-1"], r"dataset\.augment\.pad=-1: must be an integer >= 0"),
        (["dataset.augment=crop_flip", "dataset.augment.flip=1"], r"dataset\.augment\.flip=1: must be true or false"),
        (["dataset.augment=crop_flip", "dataset.augment.padd=1"], r"dataset\.augment\.padd=1: .* has pad, flip"),
        (NOISE[:1], r"dataset\.augment\._target_=tests\.test_augmentation\.noise: must be in models.*trusted=\["),
        (["dataset.augment=crop_flip", "model=wgan"], r"dataset\.augment=crop_flip: is not supported for a GAN"),
        (
            ["dataset.augment=crop_flip", "loop._target_=tests.test_loops.main", "trusted=[tests]"],
            r"dataset\.augment=crop_flip: has no effect with a loop: tests\.test_loops\.main makes its own batches",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused_in_one_message(overrides: list[str], message: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{message}") as error:
        run(*overrides)
    assert "\n" not in str(error.value)


# --- commands


def test_a_training_is_recorded_with_its_augmentation_and_trained_again_from_its_record(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    assert sweep(*TRAIN, "dataset.augment=crop_flip", "dataset.augment.pad=1").status == 0
    assert sweep(*TRAIN).status == 0
    cropped, plain = runs(folder, "train")
    assert cropped.data.params["dataset.augment.name"] == "crop_flip"
    assert cropped.data.params["dataset.augment.pad"] == "1"
    assert plain.data.params["dataset.augment.name"] == "none"
    assert history(folder, cropped, "loss") != history(folder, plain, "loss")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    path = Path(client.download_artifacts(cropped.info.run_id, "config.yaml", str(folder)))
    assert yaml.safe_load(path.read_text())["dataset"]["augment"] == {"name": "crop_flip", "pad": 1, "flip": True}
    path.rename(folder / "again.yaml")
    answer = sweep("--config-dir", str(folder), "--config-name", "again", "mode=train", "train.seed=1")
    assert answer.status == 0, answer.err
    answer = sweep("--config-dir", str(folder), "--config-name", "again", "mode=train", "dataset.augment=none")
    assert answer.status == 0, answer.err
    _, _, other_seed, without = runs(folder, "train")
    assert other_seed.data.params["dataset.augment.pad"] == "1"
    assert history(folder, without, "loss") == history(folder, plain, "loss")


def test_a_search_with_several_at_once_is_that_of_one_after_another(sweep: Callable[..., Answer], folder: Path) -> None:
    study = [*TRAIN[1:], "study.n_trials=3", "sampler=random", "dataset.augment=crop_flip", "train.precision=float64"]
    losses = []
    for engine in ("serial", "fused"):
        answer = sweep(
            *study, f"engine={engine}", f"tracking.uri=sqlite:///{engine}.db", f"study.storage=sqlite:///o{engine}.db"
        )
        assert answer.status == 0, answer.err
        client = MlflowClient(f"sqlite:///{folder}/{engine}.db")
        experiment = client.get_experiment_by_name("sweep")
        found = client.search_runs([experiment.experiment_id], "tags.`sweep.kind` = 'trial'", order_by=["start_time"])
        losses.append(sorted(run.data.metrics["val_loss"] for run in found))
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)
    assert len(set(losses[0])) == 3
    assert sweep("mode=report", "tracking.uri=sqlite:///fused.db").status == 0


def test_an_error_in_the_middle_of_a_training_shows_the_frames_of_the_user(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    target = "dataset.augment._target_=tests.test_augmentation.Sometimes"
    answer = sweep(*TRAIN, target, "trusted=[tests]", "engine=serial")
    assert answer.status != 0
    assert "the training failed: ArithmeticError: too much noise\n" in answer.err
    assert "test_augmentation.py" in answer.err
    assert "sweep/training" not in answer.err
    answer = sweep(*TRAIN, target, "dataset.augment.above=0.5", "trusted=[tests]")
    assert answer.status == 2
    assert answer.err.startswith(
        "sweep: dataset.augment._target_=tests.test_augmentation.Sometimes: fails on inputs [64, 1"
    )
    assert len(answer.err.splitlines()) == 1


# --- calls


def darker(inputs: torch.Tensor, targets: torch.Tensor, draws: torch.Tensor, most: float = 0.5) -> Any:
    return inputs * (1 - most * draws[:, :1, None, None]), targets


darker.n_draws = 1  # type: ignore[attr-defined]


def halves(inputs: torch.Tensor, targets: torch.Tensor, draws: torch.Tensor) -> Any:
    return inputs, inputs.new_full((len(targets), 2), 0.5)


halves.n_draws = 0  # type: ignore[attr-defined]

QUICK = {"train.steps": 20, "train.eval_every": 10, "train.device": "cpu", "model": "cnn", "model.channels": [2]}


def test_a_function_a_class_an_object_or_a_name_is_given_in_python(folder: Path) -> None:
    plain = library.train(QUICK, progress=False)
    found = [
        library.train({**QUICK, **keys}, augment=augment, progress=False)
        for augment, keys in (
            ("crop_flip", {"dataset.augment.pad": 1}),
            (darker, {"dataset.augment.most": 0.25}),
            (darker, {}),
            (Sometimes, {"dataset.augment.above": 1.0}),
            (Sometimes(2.0), {}),
        )
    ]
    assert found[0].params["dataset.augment.pad"] == "1"
    assert [trial.params["dataset.augment.name"] for trial in found] == [
        "crop_flip", "darker", "darker", "Sometimes", "Sometimes",
    ]  # fmt: skip
    losses = [trial.metrics["val_loss"] for trial in (plain, *found)]
    assert losses[0] == losses[4] == losses[5]
    assert len(set(losses[:4])) == 4
    study = library.search(
        {**QUICK, "study.n_trials": 2, "dataset.augment.most": library.interval(0, 1)}, augment=darker, progress=False
    )
    assert {trial.status for trial in study.trials} == {"complete"}
    again = library.train({**QUICK, **study.best.values}, augment=darker, progress=False)
    assert again.metrics["val_loss"] == study.best.metrics["val_loss"]
    assert study.report is not None
    calls = re.findall(r"sweep\.train\(.*?augment=darker\)", html.unescape(study.report.read_text()))
    best = next(call for call in calls if repr(study.best.values["optimizer.lr"]) in call)
    copied = eval(best, {"sweep": library, "darker": darker})
    assert copied.metrics["val_loss"] == study.best.metrics["val_loss"]


@pytest.mark.parametrize(
    ("overrides", "augment", "error", "message"),
    [
        ({}, 3, InvalidValueError, r"^dataset\.augment=3: must be a function .*, or a name, with overrides"),
        ({}, lambda x, y, d: (x, y), InvalidValueError, r"^dataset\.augment=function: .*n_draws.*; it has none"),
        ({}, halves, InvalidValueError, r"it returns \[64, 10\], and dataset\.augment returns targets \[64, 2\]"),
        ({"dataset.augment": "none"}, darker, InvalidValueError, r"given twice, as an override and as augment=\.\.\."),
        ({"dataset.augment.lots": 1}, darker, InvalidValueError, r"^dataset\.augment\.lots=1: is not a key of darker"),
        ({}, Sometimes, TrainingFailedError, r"(?s)^ArithmeticError: too much noise.*\.py:\d+ in __call__"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_object_is_said(
    folder: Path, overrides: dict[str, Any], augment: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        library.train({**QUICK, **overrides}, augment=augment, progress=False)


def test_what_is_drawn_is_part_of_the_identity_of_a_function(folder: Path) -> None:
    before = target_of("dataset.augment", darker)
    try:
        darker.n_draws = 2  # type: ignore[attr-defined]
        assert target_of("dataset.augment", darker) != before
    finally:
        darker.n_draws = 1  # type: ignore[attr-defined]
