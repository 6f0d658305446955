"""Follows docs/trainers.md: writes its files and runs its commands."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Answer
from tests.pages import Page
from tests.test_main_job import history, runs

PAGE = Page("docs/trainers.md")
SMALL = ["train.steps=30", "train.eval_every=10", "train.device=cpu", "sampler=random"]


@pytest.fixture
def written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files of the page into the working directory."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    PAGE.write_files(folder)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(("name", "library"), [("bert", "transformers"), ("lit", "lightning")])
def test_a_trainer_is_searched_and_compared(
    sweep: Callable[..., Answer], written: None, folder: Path, name: str, library: str
) -> None:
    pytest.importorskip(library)
    given = [*PAGE.command(f"mylab.{name}.main"), *SMALL]
    answer = sweep(*given, "study.n_trials=2", "schedule=cosine", "warmup.steps=5")
    assert answer.status == 0, answer.err
    for run in runs(folder, "trial"):
        assert len(history(folder, run, "loss")) == 30
        rates = dict(history(folder, run, "lr"))
        assert max(rates.values()) == pytest.approx(float(run.data.params["optimizer.lr"]), rel=0.1)
        assert [step for step, _ in history(folder, run, "val_loss")] == [10, 20, 30]
    answer = sweep(*given, "mode=compare", "compare.schedules=[constant,cosine]", "compare.trials=1", "compare.seeds=2")
    assert answer.status == 0, answer.err
    finals = [run.data.metrics["test_loss"] for run in runs(folder, "final")]
    assert len(set(finals)) == 4, "each seed draws other weights"


@pytest.mark.parametrize(("name", "library"), [("bert", "transformers"), ("lit", "lightning")])
@pytest.mark.long
def test_a_killed_search_with_a_trainer_equals_an_uninterrupted_one(
    sweep: Callable[..., Answer], written: None, folder: Path, name: str, library: str
) -> None:
    pytest.importorskip(library)
    long = ["train.steps=400", "train.eval_every=90", "train.checkpoint_seconds=0.1", "study.n_trials=1"]
    given = [*PAGE.command(f"mylab.{name}.main"), *SMALL, *long]
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sweep", *given], cwd=folder, env=env, stdout=output, stderr=output
        )
        deadline = time.monotonic() + 60
        while not list(folder.glob("checkpoints/*/0-*.checkpoint")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL, (folder / "output.txt").read_text()
    answer = sweep(*given)
    assert answer.status == 0, answer.err
    assert "resumes at step" in answer.out
    assert sweep(*given, "study.name=whole").status == 0
    both = [{key: history(folder, run, key) for key in ("loss", "lr", "val_loss")} for run in runs(folder, "trial")]
    assert len(both) == 2
    assert both[0] == both[1]
    assert len(both[0]["loss"]) == 400


def test_a_data_set_of_hugging_face_trains_a_model_of_transformers(
    sweep: Callable[..., Answer], written: None, folder: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("transformers")
    generator = np.random.default_rng(0)
    splits = {}
    for name, n in {"train": 60, "validation": 20}.items():
        ids = [generator.integers(1, 50, generator.integers(3, 9)).tolist() for _ in range(n)]
        rows = [
            {"text": "", "input_ids": one, "attention_mask": [1] * len(one), "label": int(one[0]) % 3} for one in ids
        ]
        splits[name] = datasets.Dataset.from_list(rows)
    datasets.DatasetDict(splits).save_to_disk(folder / "reviews")
    answer = sweep(*PAGE.command("mylab.reviews.classifier"), *SMALL, "study.n_trials=2", "train.batch_size=16")
    assert answer.status == 0, answer.err
    assert all(run.data.metrics["val_loss"] > 0 for run in runs(folder, "trial"))
