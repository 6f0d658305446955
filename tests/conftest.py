"""Running the command as a user does: in a folder of its own, in this process or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share their machine

from sweep.cli import main

ROOT = Path(__file__).parent.parent

SMALL = ["train.steps=40", "train.eval_every=20", "model.hidden=[8]", "train.device=cpu"]
"""Overrides that make a training take a moment."""


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Carries out a command line in this process, in `folder`."""

    def carry_out(*arguments: str) -> Answer:
        capsys.readouterr()
        status = main(list(arguments))
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return carry_out


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Begins a command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "sweep", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
