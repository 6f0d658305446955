"""Tests groups of parameters, averages and micro-batches; reads the record with other tools."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient

from tests.conftest import SMALL, Answer
from tests.test_main_job import history, runs

GROUPS = {"layers.1.*": {"lr_factor": 0.5}, "bias_and_norm": {"weight_decay": 0.01}}
OPTIONS = [
    "optimizer.groups={layers.1.*:{lr_factor:0.5},bias_and_norm:{weight_decay:0.01}}",
    "average=ema",
    "average.decay=0.9",
    "train.accumulate=4",
]


def test_a_search_by_the_average_records_it_beside_the_weights(sweep: Callable[..., Answer], folder: Path) -> None:
    answer = sweep(*SMALL, *OPTIONS, "study.metric=val_loss_ema", "study.n_trials=2")
    assert answer.status == 0, answer.err
    (study,) = optuna.get_all_study_summaries("sqlite:///optuna.db")
    trials = optuna.load_study(study_name=study.study_name, storage="sqlite:///optuna.db").trials
    for run, trial in zip(runs(folder, "trial"), trials, strict=True):
        for metric in ("val_loss", "val_accuracy"):
            raw, averaged = history(folder, run, metric), history(folder, run, f"{metric}_ema")
            assert [step for step, _ in raw] == [step for step, _ in averaged] == [20, 40]
            assert raw != averaged
        assert trial.value == history(folder, run, "val_loss_ema")[-1][1]
        assert json.loads(run.data.params["optimizer.groups"]) == GROUPS
        assert run.data.params["average.decay"] == "0.9"
        assert run.data.params["train.accumulate"] == "4"
        assert [step for step, _ in history(folder, run, "loss")] == list(range(40))


def test_an_epoch_without_its_smaller_last_batch(sweep: Callable[..., Answer], folder: Path) -> None:
    """With 1079 examples, an epoch has two batches of 500."""
    whole = ["mode=train", "train.batch_size=500", "train.drop_last=true", "train.steps=${epochs:5}", "warmup=none"]
    answer = sweep(*SMALL[1:], *whole)
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    assert [step for step, _ in history(folder, run, "loss")] == list(range(10))
    assert run.data.params["train.drop_last"] == "true"


def test_the_recorded_configuration_trains_it_again(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, *OPTIONS, "mode=train").status == 0
    (first,) = runs(folder, "train")
    artifacts = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    path = artifacts.download_artifacts(first.info.run_id, "config.yaml", str(folder))
    Path(path).rename(folder / "again.yaml")
    assert sweep("--config-dir", str(folder), "--config-name", "again", "train.checkpoint_dir=other").status == 0
    again = runs(folder, "train")[-1]
    assert again.info.run_id != first.info.run_id
    for metric in ("loss", "lr", "val_loss", "val_loss_ema"):
        assert history(folder, again, metric) == history(folder, first, metric)


def test_a_factor_is_searched_and_repeated(sweep: Callable[..., Answer], folder: Path) -> None:
    group = "optimizer.groups={bias_and_norm:{lr_factor:1.0}}"
    searched = "optimizer.groups.bias_and_norm.lr_factor=tag(log,interval(0.1,10))"
    answer = sweep(*SMALL, "space=none", group, searched, "study.n_trials=2")
    assert answer.status == 0, answer.err
    command = next(line.strip() for line in answer.out.splitlines() if "mode=train" in line)
    best = min(runs(folder, "trial"), key=lambda run: run.data.metrics["val_loss"])
    factor = best.data.params["optimizer.groups.bias_and_norm.lr_factor"]
    assert 0.1 <= float(factor) <= 10
    assert f"optimizer.groups.bias_and_norm.lr_factor={factor}" in command


@pytest.mark.parametrize("optimizer", ["lion", "muon", "schedulefree"])
def test_optimizers_that_are_not_torch_s_are_searched(
    sweep: Callable[..., Answer], folder: Path, optimizer: str
) -> None:
    answer = sweep(*SMALL, f"optimizer={optimizer}", "schedule=constant", "study.n_trials=1")
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "trial")
    assert run.data.params["optimizer.name"] == optimizer
    assert {lr for _, lr in history(folder, run, "lr")} >= {float(run.data.params["optimizer.lr"])}


@pytest.mark.parametrize(
    ("group", "searched"),
    [
        (
            "optimizer.groups={bias_and_norm:{lr_factor:0.5},layers.1.*:{lr_factor:2}}",
            "optimizer.groups.bias_and_norm.lr_factor=interval(0.1,1)",
        ),
        (
            "schedule=joined schedule.boundaries=[20] schedule.pieces={a:{name:constant},b:{name:rex,decay_steps:20}}",
            "schedule.pieces.b.factor=interval(0.1,1)",
        ),
        ("schedule=exponential", "schedule.half_life=interval(5,20)"),
        ("average=ema study.metric=val_loss_ema", "average.decay=interval(0.5,0.9)"),
    ],
)
def test_the_command_that_trains_the_best_again_gives_its_loss(
    sweep: Callable[..., Answer], folder: Path, group: str, searched: str
) -> None:
    given = group.replace("decay_steps:20}", "decay_steps:20,factor:1.0}").split()
    answer = sweep(*SMALL, "space=none", *given, searched, "study.n_trials=3")
    assert answer.status == 0, answer.err
    best = min(
        runs(folder, "trial"), key=lambda run: run.data.metrics["val_loss_ema" if "ema" in group else "val_loss"]
    )
    command = next(line.strip() for line in answer.out.splitlines() if "mode=train" in line)
    assert searched.partition("=")[0] in command
    assert sweep(*shlex.split(command)[3:]).status == 0
    (again,) = runs(folder, "train")
    assert history(folder, again, "loss") == history(folder, best, "loss")
    assert history(folder, again, "lr") == history(folder, best, "lr")


def test_the_recorded_configuration_can_be_gone_on_with(sweep: Callable[..., Answer], folder: Path) -> None:
    assert sweep(*SMALL, "mode=train", "train.more_steps=10").status == 0
    (run,) = runs(folder, "train")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.download_artifacts(run.info.run_id, "config.yaml", str(folder))
    again = sweep("--config-dir", str(folder), "--config-name", "config", "train.more_steps=10")
    assert "resumes at step 10" in again.out
    (run,) = runs(folder, "train")
    assert [step for step, _ in history(folder, run, "loss")] == list(range(20))


def test_a_single_training_is_evaluated_on_the_test_split_where_that_is_asked_for(
    sweep: Callable[..., Answer], folder: Path
) -> None:
    answer = sweep(*SMALL, "mode=train")
    assert answer.status == 0, answer.err
    assert "test_" not in answer.out
    answer = sweep(*SMALL, "mode=train", "train.test=true")
    assert answer.status == 0, answer.err
    (asked, plain) = sorted(runs(folder, "train"), key=lambda run: "test_loss" not in run.data.metrics)
    assert "test_loss" not in plain.data.metrics
    assert [step for step, _ in history(folder, asked, "test_accuracy")] == [40]
    assert f"test_accuracy {asked.data.metrics['test_accuracy']:.4f}" in answer.out
    assert asked.data.metrics["val_loss"] == plain.data.metrics["val_loss"]
    assert asked.data.params == plain.data.params
    assert asked.data.tags["mlflow.runName"] == plain.data.tags["mlflow.runName"]


def test_the_test_split_is_evaluated_by_no_search_and_must_exist(sweep: Callable[..., Answer], folder: Path) -> None:
    for mode in ("search", "compare"):
        answer = sweep(*SMALL, f"mode={mode}", "train.test=true")
        assert answer.status == 2
        assert answer.err.startswith("sweep: train.test=True: is for mode=train")
        assert answer.err.count("\n") == 1
    x, y = np.zeros((10, 2)), np.arange(10) % 2
    np.savez(folder / "no_test.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    given = ["dataset=arrays", "dataset.path=no_test.npz", "train.batch_size=5", "mode=train", "train.test=true"]
    answer = sweep(*SMALL, *given)
    assert answer.status == 2
    assert answer.err == "sweep: train.test=True: needs a test split, which this data set does not have\n"
