"""Tests the recipes of conf/experiment: each composes, trains, can be searched, and agrees with its paper."""

from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import sweep
from models.resnet import ResNet
from sweep.api.results import Trial
from sweep.requests import build, spaces
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.resolvers import register_resolvers
from sweep.schedules.reaction import Event
from tests.conftest import ROOT, Answer
from tests.pages import Page
from tests.test_main_job import runs

register_resolvers()

"""Overrides of a recipe whose data set is replaced."""


def images(seed: int, n: int, shape: tuple[int, ...], classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return images of one colour, which is that of their class, with noise: bytes [n, *shape], and labels [n]."""
    colours = np.random.default_rng(0).integers(0, 192, size=(classes, shape[0], 1, 1))
    y = np.arange(n) % classes
    noise = np.random.default_rng(seed).integers(0, 64, size=(n, *shape))
    return (colours[y] + noise).astype(np.uint8), y


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Overrides that replace the data set of each recipe by generated images of the same shape."""
    folder = tmp_path_factory.mktemp("data")
    shapes = {"resnet110_cifar10": (3, 32, 32), "fashion_mnist_cnn": (1, 28, 28)}
    overrides = {}
    for name, shape in shapes.items():
        path = folder / f"{name}.npz"
        splits = {
            split: images(seed, n, shape)
            for seed, (split, n) in enumerate({"train": 160, "val": 40, "test": 40}.items(), 1)
        }
        arrays = {f"{array}_{split}": values[i] for split, values in splits.items() for i, array in enumerate("xy")}
        np.savez(path, **arrays)
        overrides[name] = ["dataset=arrays", f"dataset.path={path}"]
    return overrides


def test_the_files_set_keys_of_the_whole_configuration() -> None:
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert path.read_text().startswith("# @package _global_\n"), path


def test_resnet110_is_configured_as_in_the_paper(data: dict[str, list[str]]) -> None:
    given = ["experiment=resnet110_cifar10", *data["resnet110_cifar10"]]
    augmented = Composer().compose([word for word in given if word != "~dataset.augment"])
    assert augmented.dataset.augment.name == "crop_flip"
    config = build.run_config(Composer().compose(given))
    keys = config.resolved
    assert keys["model"] | {"depth": 110, "width": 16, "shortcut": "A"} == keys["model"]
    assert keys["optimizer"] | {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4} == keys["optimizer"]
    assert keys["train"] | {"steps": 64_000, "batch_size": 128} == keys["train"]
    assert keys["schedule"]["milestones"] == [32_000, 48_000]
    assert 50_000 * (1 - keys["dataset"]["val_fraction"]) == 45_000
    rate = config.schedule.after(Event(400, "warmup_end"))
    steps = [0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999]
    assert [rate(step) for step in steps] == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_classifier_of_fashion_mnist_is_trained_for_two_epochs(data: dict[str, list[str]]) -> None:
    given = ["experiment=fashion_mnist_cnn", *data["fashion_mnist_cnn"], "train.batch_size=16"]
    config = build.run_config(Composer().compose(given))
    assert (config.train.steps, config.train.eval_every) == (20, 5)
    assert config.schedule(config.train.steps) == 0


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "resnet110_cifar10",
            {"schedule.gamma", "schedule.milestones.0", "schedule.milestones.1", "optimizer.lr"},
        ),
        ("fashion_mnist_cnn", {"schedule.end_factor", "warmup.steps", "optimizer.lr"}),
    ],
)
def test_a_recipe_has_a_space_and_another_schedule_has_its_own(
    data: dict[str, list[str]], name: str, keys: set[str]
) -> None:
    def searched(*further: str) -> set[str]:
        (branch,) = spaces.space(Composer(), parse([f"experiment={name}", *data[name], *further])).branches
        assert list(branch.extremes())
        return {dimension.key for dimension in branch.dimensions}

    assert searched() == keys
    warmup = keys & {"warmup.steps"}
    assert searched("schedule=cosine") == {"schedule.end_factor", "optimizer.lr"} | warmup
    assert searched("optimizer.lr=0.05") == keys - {"optimizer.lr"}


SMALL = {"resnet110_cifar10": ["model.depth=8"], "fashion_mnist_cnn": []}
FEW = ["train.steps=6", "train.batch_size=16", "train.eval_every=3", "engine=serial"]
"""Overrides for a short training of a recipe."""


@pytest.mark.parametrize("name", list(SMALL))
def test_a_recipe_is_searched(
    sweep: Callable[..., Answer], folder: Path, data: dict[str, list[str]], name: str
) -> None:
    answer = sweep(f"experiment={name}", *data[name], *SMALL[name], *FEW, "study.n_trials=2")
    assert answer.status == 0, answer.err
    trials = runs(folder, "trial")
    assert [run.data.metrics["global_step"] for run in trials] == [6, 6]
    assert all(run.data.params["experiment"] == name for run in trials)
    assert all("val_accuracy" in run.data.metrics for run in trials)


def test_the_experiment_of_the_page_builds_on_a_recipe_and_is_found_beside_those_that_ship(
    folder: Path, data: dict[str, list[str]]
) -> None:
    Page("docs/recipes.md").write_files(folder)
    composer = Composer(str(folder / "myconf"))
    for name, depth in (("resnet20", 20), ("resnet110_cifar10", 110)):
        config = build.run_config(composer.compose([f"experiment={name}", *data["resnet110_cifar10"]]))
        assert config.resolved["model"]["depth"] == depth
        assert config.resolved["optimizer"]["weight_decay"] == 1e-4
        assert config.options["experiment"] == name


# --- the training of a residual network

SMALL_RESNET = ["model.depth=8", "model.width=8", "train.batch_size=16", "train.device=cpu"]
TIMES = ["train.steps=40", "train.eval_every=2"]
"""With these overrides the boundaries of the recipe are at the updates 20 and 30."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: dict[str, list[str]]) -> Iterator[Callable[..., Trial]]:
    """Train the recipe for 40 updates of 16 generated images, in a new folder."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def train(*further: str) -> Trial:
        given = ["experiment=resnet110_cifar10", *data["resnet110_cifar10"], *SMALL_RESNET, *TIMES, *further]
        with chdir(folder):
            return sweep.train(given, progress=False)

    with chdir(folder):
        yield train


@pytest.mark.parametrize("counting", ["overlap", "prefix"])
def test_the_warmup_ends_at_an_evaluation_and_boundaries_count_all_updates(
    trained: Callable[..., Trial], counting: str
) -> None:
    """With `prefix` they would count from the end of warmup; the recipe has `overlap`."""
    trial = trained() if counting == "overlap" else trained(f"warmup.counting={counting}")
    rates = trial.rows()["lr"].to_numpy()
    end = int(np.argmax(rates > 0.05))
    assert 2 < end < 20
    assert end % 2 == 0
    first = 20 if counting == "overlap" else 20 + end
    expected = np.repeat([0.01, 0.1, 0.01, 0.001], [end, first - end, 10, 30 - first])
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_statistics_of_batch_normalization_advance_with_updates_and_are_used_in_evaluations(
    trained: Callable[..., Trial], data: dict[str, list[str]]
) -> None:
    trial = trained()
    weights = trial.weights()
    counts = {int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")}
    assert counts == {40}  # and not those of the 20 evaluations
    model = ResNet((3, 32, 32), 10, depth=8, width=8)
    model.load_state_dict(weights)
    path = data["resnet110_cifar10"][1].partition("=")[2]
    with np.load(path) as arrays:
        mean, deviation = arrays["x_train"].mean(axis=0), arrays["x_train"].std(axis=0)
        x, y = torch.from_numpy((arrays["x_val"] - mean) / deviation).float(), torch.from_numpy(arrays["y_val"])
    with torch.no_grad():
        losses = {mode: functional.cross_entropy(model.train(mode)(x), y).item() for mode in (False, True)}
    assert trial.metrics["val_loss"] == pytest.approx(losses[False], rel=1e-4)
    assert losses[True] != pytest.approx(losses[False], rel=0.01)
