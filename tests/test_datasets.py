"""Tests searches on data sets that load their examples one by one, with the whole command."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer, long
from tests.faults.harness import Zygote
from tests.test_interruption import record

CODE = '''
import time

import torch
from torch.nn import functional
from torch.utils.data import Dataset


class Points(Dataset):
    """Examples of different lengths with random numbers; loading them can be slow."""

    def __init__(self, n, seconds):
        self.n, self.seconds = n, seconds

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        time.sleep(self.seconds)
        x = torch.arange(1 + index % 3) / 3 + 0.1 * torch.randn(1 + index % 3)
        return {"x": x, "size": len(x), "y": float(index % 5)}


def points(seconds=0.0):
    return {"train": Points(60, seconds), "val": Points(20, 0.0)}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(x.unsqueeze(-1)).squeeze(-1)


class PerEntry:
    """The loss counts the entries of x that are not padding."""

    directions = {"far": "minimize"}

    def loss(self, model, batch):
        there = torch.arange(batch["x"].shape[1]) < batch["size"].unsqueeze(1)
        return (model(batch["x"]) - batch["y"].unsqueeze(1)) ** 2, there.float()

    def metrics(self, model, batch):
        values, weights = self.loss(model, batch)
        return {"far": ((values > 1).float(), weights)}
'''
SEARCH = [
    "dataset._target_=mylab.points.points", "dataset.num_workers=2", "model._target_=mylab.points.Net",
    "task._target_=mylab.points.PerEntry", "study.metric=val_far", "trusted=[mylab]", "train.batch_size=16",
    "train.steps=60", "train.eval_every=20", "train.device=cpu", "train.checkpoint_seconds=0.1", "sampler=random",
    "study.n_trials=3",
]  # fmt: skip


def write(folder: Path) -> None:
    (folder / "mylab").mkdir()
    (folder / "mylab" / "points.py").write_text(CODE)


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create the user's package where commands in this process find it."""
    write(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("killed", [long(signal.SIGINT), signal.SIGKILL])
def test_an_interrupted_search_equals_an_uninterrupted_one(
    sweep_in: Callable[..., Answer], zygote: Zygote, tmp_path: Path, killed: signal.Signals
) -> None:
    """The random numbers of examples, and their order, do not depend on the process that loads them."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        write(folder)
    answer = sweep_in(one, *SEARCH, "dataset.num_workers=0")
    assert answer.status == 0, answer.err
    command = zygote.start(other, [*SEARCH, "dataset.seconds=0.01"])
    assert command.wait_for("\ntrial   0  complete"), command.said
    deadline = time.monotonic() + 30
    while not list(other.glob("checkpoints/*/1-*.checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.02)
    command.signal(killed)
    assert command.wait(60) == (130 if killed is signal.SIGINT else -killed), command.said
    answer = sweep_in(other, *SEARCH, "dataset.seconds=0.01")
    assert answer.status == 0, answer.err
    kept = ("loss", "lr", "val_loss", "val_far", "global_step")
    assert [row for row in record(other) if row[1] in kept] == [row for row in record(one) if row[1] in kept]
