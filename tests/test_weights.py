"""Tests the weights of the best trial, with the command and the library, and the files that store them."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import sweep as library
from models.mlp import MLP
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.core import Result, Status
from sweep.data import load
from sweep.errors import InvalidValueError
from sweep.messages import Ranking
from sweep.weights import WeightFiles
from tests.conftest import SMALL, Answer
from tests.test_main_job import runs

RANDOM = ["sampler=random", "engine=serial", "study.name=s"]


def kept(folder: Path, name: str = "s") -> list[str]:
    """Return the names of the files with weights."""
    return sorted(path.name for path in (folder / "checkpoints" / name / "weights").iterdir())


def loss_of(weights: dict[str, torch.Tensor]) -> float:
    """Return the validation loss of the MLP of SMALL with these weights."""
    model = MLP((8, 8), 10, hidden=[8])
    model.load_state_dict(weights)
    split = load(DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}))).val
    with torch.no_grad():
        return float(functional.cross_entropy(model(split.inputs.float()), split.targets))


def best_of(folder: Path) -> tuple[int, float]:
    """Return number and val_loss of the best recorded trial."""
    trials = runs(folder, "trial")
    best = min(trials, key=lambda run: run.data.metrics["val_loss"])
    return int(best.data.tags["sweep.trial"]), best.data.metrics["val_loss"]


@pytest.mark.parametrize("engine", [["engine=serial"], ["engine=fused", "engine.slots=3"]], ids=" ".join)
def test_a_search_writes_the_weights_of_its_best_trial(
    sweep: Callable[..., Answer], folder: Path, engine: list[str]
) -> None:
    answer = sweep(*SMALL, "sampler=random", "study.name=s", *engine, "study.n_trials=6", "train.save=best.pt")
    assert answer.status == 0, answer.err
    assert "weights: best.pt" in answer.out
    assert "train.save" not in answer.out.split("train the best again:")[1].splitlines()[1]
    number, loss = best_of(folder)
    assert loss_of(torch.load("best.pt", weights_only=True)) == pytest.approx(loss, rel=1e-5)
    assert stat.S_IMODE(os.stat("best.pt").st_mode) == 0o600
    (name,) = kept(folder)
    assert name.startswith(f"{number}-")
    assert "train.save" not in runs(folder, "trial")[0].data.params


def test_a_search_that_goes_on_keeps_the_best_of_all(sweep: Callable[..., Answer], folder: Path) -> None:
    seen = set()
    for total in (1, 2, 4, 6):
        assert sweep(*SMALL, *RANDOM, f"study.n_trials={total}", "train.save=best.pt").status == 0
        number, loss = best_of(folder)
        seen.add(number)
        assert loss_of(torch.load("best.pt", weights_only=True)) == pytest.approx(loss, rel=1e-5)
        (name,) = kept(folder)
        assert name.startswith(f"{number}-")
    assert len(seen) > 1, "the best trial was never another one"


def test_an_ended_search_writes_weights_that_were_kept_before(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, *RANDOM, "study.n_trials=2").status == 0
    assert sweep(*SMALL, *RANDOM, "study.n_trials=2", "train.save=best.pt").status == 0
    assert loss_of(torch.load("best.pt", weights_only=True)) == pytest.approx(best_of(folder)[1], rel=1e-5)


def test_weights_that_are_not_there_any_more_are_not_written(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, *RANDOM, "study.n_trials=2").status == 0
    for path in (folder / "checkpoints" / "s" / "weights").iterdir():
        path.unlink()
    answer = sweep(*SMALL, *RANDOM, "study.n_trials=2", "train.save=best.pt")
    assert answer.status == 1
    assert "train the best again" in answer.out
    number, _ = best_of(folder)
    assert answer.err.splitlines()[-1] == (
        f"sweep: best.pt is not written: the weights of trial {number} are not stored; "
        "mode=train trains it again, with train.save"
    )
    assert not Path("best.pt").exists()


def test_the_best_of_trials_that_are_the_same_training_has_its_weights(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    grid = ["sampler=grid", "space=none", "schedule.decay_rate=0.25,0.5", "schedule.decay_steps=10,20", "warmup=none"]
    assert sweep(*SMALL, *grid, "optimizer.lr=0.1", "study.name=s", "engine=serial", "train.save=best.pt").status == 0
    assert any("sweep.duplicate_of" in run.data.tags for run in runs(folder, "trial"))
    assert loss_of(torch.load("best.pt", weights_only=True)) == pytest.approx(best_of(folder)[1], rel=1e-5)


def test_a_training_writes_its_weights(sweep: Callable[..., Answer], folder: Path) -> None:
    command = [*SMALL, "mode=train", "optimizer.lr=0.1", "train.save=one.pth"]
    assert sweep(*command, "train.more_steps=20").status == 0
    first = torch.load("one.pth", weights_only=True)
    answer = sweep(*command)
    assert answer.status == 0
    assert "resumes at step 20" in answer.out
    latest, earlier = runs(folder, "train")[0], loss_of(first)
    assert loss_of(torch.load("one.pth", weights_only=True)) == pytest.approx(latest.data.metrics["val_loss"], rel=1e-5)
    assert earlier != latest.data.metrics["val_loss"]
    (name,) = {path.name for path in (folder / "checkpoints").rglob("weights/*")}
    assert name.startswith("0-")


def test_a_training_that_diverges_writes_nothing(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SMALL, "mode=train", "optimizer.lr=1e30", "train.save=one.pt")
    assert answer.status == 1
    assert answer.err.splitlines()[-1] == "sweep: one.pt is not written: no training is complete"
    assert not Path("one.pt").exists()


def test_averaged_weights_are_written_where_they_are_what_is_judged(sweep: Callable[..., Answer], folder: Path) -> None:
    command = [*SMALL, "mode=train", "average=ema", "optimizer.lr=0.1"]
    for metric in ("val_loss", "val_loss_ema"):
        assert sweep(*command, f"study.metric={metric}", f"train.save={metric}.pt").status == 0
        measured = runs(folder, "train")[0].data.metrics
        assert loss_of(torch.load(f"{metric}.pt", weights_only=True)) == pytest.approx(measured[metric], rel=1e-5)
    assert measured["val_loss"] != pytest.approx(measured["val_loss_ema"], rel=1e-3)


@pytest.mark.parametrize(
    ("save", "rule"),
    [
        ("best.bin", "must be a file that ends in .pt or .pth"),
        ("3", "must be a file that ends in .pt or .pth"),
        ("folder.pt", "must be a file that ends in .pt or .pth"),
        ("missing/best.pt", "must be a folder that exists and can be written to"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(
    sweep: Callable[..., Answer], folder: Path, save: str, rule: str
) -> None:
    (folder / "folder.pt").mkdir()
    answer = sweep(*SMALL, f"train.save={save}")
    assert answer.status == 2
    assert answer.err.startswith(f"sweep: train.save={save}: ")
    assert rule in answer.err
    assert not (folder / "mlflow.db").exists()


def test_a_comparison_refuses_it(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SMALL, "mode=compare", "compare.schedules=[constant,cosine]", "train.save=best.pt")
    assert answer.status == 2
    assert answer.err.startswith("sweep: train.save=best.pt: must be null with mode=compare")


# --- the library


class Net(nn.Module):
    """A user's model."""

    def __init__(self, input_shape: tuple[int, ...], n_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0], n_outputs)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x) if self.training else 0
        return self.layer(x)


class Renaming(Net):
    """A model with its own format of the state dict."""

    def state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return {f"my.{name}": value for name, value in super().state_dict(*args, **kwargs).items()}

    def load_state_dict(self, state_dict, *args, **kwargs):  # type: ignore[no-untyped-def]
        return super().load_state_dict({k.removeprefix("my."): v for k, v in state_dict.items()}, *args, **kwargs)


class OneWay(Net):
    """A model that cannot load its own state dict."""

    def state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return {f"my.{name}": value for name, value in super().state_dict(*args, **kwargs).items()}


class Unsavable(Net):
    """A model whose state dict holds an object."""

    def state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        return {**super().state_dict(*args, **kwargs), "path": Path("x")}


def points() -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(300, 4))
    return {"x": x, "y": (x[:, 0] > 0).astype(int)}


QUICK = {"train.steps": 40, "train.eval_every": 20, "train.device": "cpu", "study.n_trials": 3, "engine": "serial"}


def loads(model: type[nn.Module], weights: dict[str, torch.Tensor]) -> nn.Module:
    net = model((4,), 2)
    net.load_state_dict(weights)
    return net


@pytest.mark.usefixtures("folder", "copied_database")
@pytest.mark.parametrize("model", [Net, Renaming])
def test_a_trial_gives_its_weights(model: type[nn.Module]) -> None:
    study = library.search(QUICK, model=model, dataset=points(), progress=False)
    weights = study.best.weights()
    assert loads(model, weights).seen > 0
    if model is Renaming:
        assert all(name.startswith("my.") for name in weights)
    others = [trial for trial in study.trials if trial.number != study.best.number]
    with pytest.raises(LookupError) as raised:
        others[0].weights()
    assert str(raised.value) == (
        f"the weights of trial {others[0].number} are not stored; "
        "sweep.train({**overrides, **trial.values, 'train.seed': trial.seed}) trains it again"
    )
    again = library.train({**QUICK, **others[0].values}, model=model, dataset=points(), progress=False)
    assert loads(model, again.weights()).seen > 0
    assert again.metrics["val_loss"] == others[0].metrics["val_loss"]


@pytest.mark.usefixtures("folder", "copied_database")
def test_weights_of_a_comparisons_studies_are_kept(folder: Path) -> None:
    compared = {"compare.schedules": ["constant", "cosine"], "compare.trials": 2, "compare.seeds": 2}
    found = library.compare(
        {**{k: v for k, v in QUICK.items() if k != "study.n_trials"}, **compared},
        model=Net,
        dataset=points(),
        progress=False,
    )
    for study in found.studies.values():
        assert loads(Net, study.best.weights()).seen > 0
    with pytest.raises(LookupError, match="are not stored"):
        next(iter(found.finals.values()))[0].weights()


@pytest.mark.usefixtures("folder", "copied_database")
@pytest.mark.parametrize(("model", "reason"), [(OneWay, "Missing key"), (Unsavable, "")])
def test_weights_that_could_not_be_loaded_are_refused(model: type[nn.Module], reason: str) -> None:
    with pytest.raises(
        InvalidValueError, match=rf"^train\.save=best\.pt: cannot save the state dict of {model.__name__}"
    ):
        library.train({**QUICK, "train.save": "best.pt"}, model=model, dataset=points(), progress=False)
    assert not Path("mlflow.db").exists()
    trial = library.train(QUICK, model=model, dataset=points(), progress=False)  # and are not needed otherwise
    assert trial.status == "complete"


# --- the files


def files(folder: Path, held: str | None = None, best: tuple[float, int] | None = None, **given) -> WeightFiles:  # type: ignore[no-untyped-def]
    return WeightFiles(folder / "w", Ranking("val_loss", minimize=True, best=best), held, **given)


def complete(number: int, value: float) -> Result:
    return Result(number, Status.COMPLETE, value)


def test_the_file_of_the_best_before_stays_until_others_are_forgotten(tmp_path: Path) -> None:
    weights = files(tmp_path)
    first = weights.keep(complete(0, 0.5), b"zero", None)
    second = weights.keep(complete(1, 0.4), b"one", None)
    assert first is not None
    assert second is not None
    assert (Path(first).read_bytes(), Path(second).read_bytes()) == (b"zero", b"one")
    weights.forget_others()
    assert [str(path) for path in (tmp_path / "w").iterdir()] == [second]


@pytest.mark.parametrize(
    ("value", "number", "better"), [(0.5, 7, False), (0.5, 2, True), (0.6, 1, False), (0.4, 9, True)]
)
def test_on_a_tie_the_earlier_trial_is_the_best(tmp_path: Path, value: float, number: int, better: bool) -> None:
    weights = files(tmp_path)
    weights.keep(complete(5, 0.5), b"five", None)
    assert (weights.keep(complete(number, value), b"other", None) is not None) == better


def test_a_twin_has_the_file_of_the_trial_that_was_trained(tmp_path: Path) -> None:
    weights = files(tmp_path)
    first = weights.keep(complete(5, 0.5), b"five", None)
    assert weights.keep(complete(3, 0.5), None, 5) == first
    weights.forget_others()
    assert first is not None
    assert Path(first).exists()


def test_without_weights_of_the_best_there_is_no_file(tmp_path: Path) -> None:
    weights = files(tmp_path)
    weights.keep(complete(5, 0.5), b"five", None)
    assert weights.keep(complete(6, 0.4), None, 2) is None
    assert weights.keep(complete(7, 0.45), b"seven", None) is None
    weights.forget_others()
    assert not (tmp_path / "w").exists()


def test_a_file_that_is_recorded_is_held_and_others_are_removed(tmp_path: Path) -> None:
    held = files(tmp_path).keep(complete(5, 0.5), b"five", None)
    left = files(tmp_path).keep(complete(6, 0.4), b"six", None)  # by a command that was killed before it recorded it
    again = files(tmp_path, held, best=(0.5, 5))
    assert again.keep(complete(6, 0.6), b"other", None) is None
    again.forget_others()
    assert held is not None
    assert left is not None
    assert (Path(held).exists(), Path(left).exists()) == (True, False)


def test_a_full_disk_is_said_once_and_ends_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    weights = files(tmp_path, say=said.append)

    def full(path: Path, parts: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("sweep.atomic.atomic_write", full)
    assert weights.keep(complete(0, 0.5), b"zero", None) is None
    assert weights.keep(complete(1, 0.4), b"one", None) is None
    (line,) = said
    assert re.fullmatch(r"the weights of trial 0 are not kept: .*0-\w{16}\.pt cannot be written: No space .*", line)
