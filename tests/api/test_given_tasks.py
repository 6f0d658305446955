"""Tests tasks and map-style data sets that are given in Python."""

from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

import sweep
from sweep.errors import InvalidValueError


class Points(Dataset):
    def __init__(self, n):
        self.x = torch.linspace(-1, 1, n).unsqueeze(1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"inputs": self.x[index], "labels": (self.x[index] > 0).long()[0]}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, inputs):
        return self.layer(inputs)


class Margin(sweep.Task):
    directions: ClassVar = {"wrong": "minimize"}

    def __init__(self, margin=1.0):
        self.margin = margin

    def loss(self, model, batch):
        return functional.multi_margin_loss(
            model(batch["inputs"]), batch["labels"], margin=self.margin, reduction="none"
        )

    def metrics(self, model, batch):
        return {"wrong": (model(batch["inputs"]).argmax(1) != batch["labels"]).float()}


DATA = {"train": Points(80), "val": Points(40)}
SMALL = ["train.steps=30", "train.batch_size=16", "train.eval_every=15"]


def test_a_task_and_data_sets_are_searched(folder):
    study = sweep.search(
        [*SMALL, "study.n_trials=2", "study.metric=val_wrong", "task.margin=0.5"],
        model=Net,
        dataset=DATA,
        task=Margin,
        progress=False,
    )
    assert study.metric == "val_wrong"
    assert study.minimize
    assert [trial.status for trial in study.trials] == ["complete"] * 2
    assert study.best.params["task.margin"] == "0.5"
    other = sweep.search([*SMALL, "study.n_trials=1"], model=Net, dataset=DATA, task=Margin(0.1), progress=False)
    assert other.name != study.name
    assert set(other.best.metrics) >= {"val_loss", "val_wrong"}


class NoLoss:
    pass


class Wrong(Margin):
    def loss(self, model, batch):
        return model(batch["inputs"]).tolist()


class Named(Margin):
    def metrics(self, model, batch):
        return {"loss": self.loss(model, batch)}


class Failing(Margin):
    def metrics(self, model, batch):
        return {"wrong": batch["nothing"]}


class Directed(Margin):
    directions: ClassVar = {"wrong": "up"}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (NoLoss, r"^task=.*NoLoss.*: must be a class or an object with a method loss\(model, batch\)"),
        (Wrong, r"^task=Wrong: fails on a batch of inputs \[16, 1\], .*must return a tensor.*it returned a list"),
        (Named, r"^task=Named: .*the name of a metric must be.*not 'loss'"),
        (Failing, r"^task=Failing: .*KeyError.*nothing.*test_given_tasks\.py:\d+"),
        (Directed, r"^task=Directed: has directions=.*minimize"),
    ],
)
def test_a_task_that_cannot_be_trained_is_refused_in_one_line(folder, task, said):
    with pytest.raises(InvalidValueError, match=said) as error:
        sweep.train(SMALL, model=Net, dataset=DATA, task=task, progress=False)
    assert "\n" not in str(error.value)
    assert not (folder / "mlflow.db").exists()
