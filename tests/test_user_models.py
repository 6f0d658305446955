"""Tests a user's models with the command: they write into their input, and have state in attributes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL, Answer
from tests.test_main_job import history, runs
from tests.training import user_models

TRAIN = [*[key for key in SMALL if "hidden" not in key], "warmup=none", "engine=serial"]


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Overrides that choose a model of a package in the working directory."""
    (folder / "mylab").mkdir()
    shutil.copy(user_models.__file__, folder / "mylab" / "nets.py")
    (folder / "mylab" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder))

    def choose(name: str) -> list[str]:
        file = folder / "myconf" / "model" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"_target_: mylab.nets.{name}\n")
        return ["--config-dir", "myconf", "trusted=[mylab]", f"model={name}"]

    return choose


def losses(folder: Path, kind: str, metric: str = "val_loss") -> list[float]:
    return [history(folder, run, metric)[-1][1] for run in runs(folder, kind)]


def test_how_often_a_model_is_evaluated_that_writes_into_its_input_does_not_change_it(
    sweep: Callable[..., Answer], folder: Path, model: Callable[[str], list[str]]
) -> None:
    for every in (20, 40):
        answer = sweep(*model("Normalizing"), *TRAIN, "mode=train", f"train.eval_every={every}")
        assert answer.status == 0, answer.err
    often, once = losses(folder, "train")
    assert often == once


def test_a_training_in_parts_has_the_attributes_of_the_training_in_one(
    sweep: Callable[..., Answer], folder: Path, model: Callable[[str], list[str]]
) -> None:
    command = [*model("Attributes"), *TRAIN, "mode=train", "train.eval_every=40"]
    assert sweep(*command, "train.checkpoint_dir=one").status == 0
    for more in ("train.more_steps=13", "train.more_steps=27"):
        answer = sweep(*command, more)
        assert answer.status == 0, answer.err
    whole, parts = runs(folder, "train")
    assert history(folder, parts, "loss") == history(folder, whole, "loss")
    assert history(folder, parts, "val_loss")[-1] == history(folder, whole, "val_loss")[-1]


def test_a_model_whose_state_cannot_be_stored_is_refused_before_a_study_is_created(
    sweep: Callable[..., Answer], folder: Path, model: Callable[[str], list[str]]
) -> None:
    answer = sweep(*model("Metered"), *TRAIN, "study.n_trials=2")
    assert answer.status == 2
    assert "model._target_=mylab.nets.Metered: meter changes in training" in answer.err
    assert not (folder / "optuna.db").exists()
