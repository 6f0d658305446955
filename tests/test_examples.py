"""Follows the examples of docs that have code: writes their files and runs their commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.arrays import WHOLE
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import load, sources
from tests.conftest import SMALL, Answer
from tests.pages import Page
from tests.test_main_job import runs

CODE = Page("docs/your-code.md")
LOOPS = Page("docs/loops.md")
SCHEDULES = Page("docs/using-schedules.md")
TRAINING = Page("docs/your-training.md")
SHORT = ["train.steps=60", "train.eval_every=30"]
COMPARED = ["compare.trials=1", "compare.seeds=2"]


@pytest.fixture
def written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Page], None]:
    """Return a function that writes the files of a page into the working directory, from which they are imported."""
    monkeypatch.syspath_prepend(str(folder))
    return lambda page: page.write_files(folder)


def test_a_users_own_model_data_set_and_optimizer_are_searched(
    sweep: Callable[..., Answer], folder: Path, written: Callable[[Page], None]
) -> None:
    written(CODE)
    answer = sweep(*CODE.command("model=residual"), "train.steps=20", "study.n_trials=2")
    assert answer.status == 0, answer.err
    for run in runs(folder, "trial"):
        assert run.data.params["model._target_"].startswith("mylab.")
        assert run.data.params["dataset._target_"].startswith("mylab.")
        assert run.data.params["optimizer._target_"].startswith("mylab.")


def test_a_users_own_code_is_refused_unless_the_command_line_trusts_it(
    sweep: Callable[..., Answer], folder: Path, written: Callable[[Page], None]
) -> None:
    written(CODE)
    command = [word for word in CODE.command("model=residual") if not word.startswith("trusted")]
    answer = sweep(*command)
    assert answer.status == 2
    assert "trusted=[package] adds one" in answer.err
    (folder / "myconf" / "experiment").mkdir()
    (folder / "myconf" / "experiment" / "sly.yaml").write_text("# @package _global_\ntrusted: [mylab]\n")
    answer = sweep(*command, "+experiment=sly")
    assert answer.status == 2
    assert "trusted" in answer.err
    assert "on the command line only" in answer.err


def test_a_users_own_loss_is_trained_and_a_search_is_judged_by_a_metric_of_theirs(
    sweep: Callable[..., Answer], folder: Path, written: Callable[[Page], None]
) -> None:
    page = Page("docs/tasks.md")
    written(page)
    answer = sweep(*page.command("study.metric=val_f1"), *SMALL, "study.n_trials=2")
    assert answer.status == 0, answer.err
    for run in runs(folder, "trial"):
        assert run.data.params["task.loss.gamma"] == "1.5"
        assert 0 < run.data.metrics["val_f1"] < 1


def test_a_users_own_schedule_is_previewed_and_compared(
    sweep: Callable[..., Answer], folder: Path, written: Callable[[Page], None]
) -> None:
    written(SCHEDULES)
    preview, compare = (
        next(words for words in SCHEDULES.commands() if mode in words and "knee" in str(words))
        for mode in ("mode=preview", "mode=compare")
    )
    answer = sweep(*preview)
    assert answer.status == 0, answer.err
    assert (folder / "schedule.csv").read_text().startswith("step,knee,cosine\n0,0.0,0.0\n")
    answer = sweep(*compare, *SMALL, *COMPARED)
    assert answer.status == 0, answer.err
    assert {run.data.params["schedule.name"] for run in runs(folder, "trial")} == {"knee", "cosine"}
    knees = [run for run in runs(folder, "trial") if run.data.params["schedule.name"] == "knee"]
    assert all("schedule.knee" in json.loads(run.data.tags["sweep.values"]) for run in knees)


def test_a_users_own_loop_and_program_are_searched(
    sweep: Callable[..., Answer], folder: Path, written: Callable[[Page], None]
) -> None:
    written(LOOPS)
    answer = sweep(*LOOPS.command("loop=command"), *SHORT, "study.n_trials=2")
    assert answer.status == 0, answer.err
    assert [run.data.metrics["global_step"] for run in runs(folder, "trial")] == [60, 60]
    compared = ["mode=compare", "compare.schedules=[constant,cosine]", *COMPARED]
    answer = sweep(*LOOPS.command("mylab.loop.main"), *compared, *SHORT)
    assert answer.status == 0, answer.err
    assert all(8 <= int(run.data.params["loop.width"]) <= 64 for run in runs(folder, "trial")[2:])
    assert all(run.data.metrics["test_loss"] > 0 for run in runs(folder, "final"))


def test_a_users_own_gan_is_trained(
    sweep: Callable[..., Answer], folder: Path, written: Callable[[Page], None]
) -> None:
    page = Page("docs/gan.md")
    written(page)
    answer = sweep(*page.command("mylab.gans.Small"), "train.steps=4", "train.eval_every=4", "train.device=cpu")
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    assert run.data.metrics["D_global_step"] == 5 * run.data.metrics["G_global_step"] == 20


@pytest.mark.parametrize("command", TRAINING.commands(), ids=lambda command: command[0].partition("=")[2])
def test_every_kind_of_script_is_searched(
    sweep: Callable[..., Answer], folder: Path, written: Callable[[Page], None], command: list[str]
) -> None:
    written(TRAINING)
    (metric,) = [word.partition("=")[2] for word in command if word.startswith("study.metric=")] or ["val_loss"]
    answer = sweep(*command, "train.steps=20", "train.eval_every=10", "study.n_trials=2")
    assert answer.status == 0, answer.err
    trials = runs(folder, "trial")
    assert [run.data.metrics["global_step"] for run in trials] == [20, 20]
    assert all(metric in run.data.metrics for run in trials)


def test_the_weights_of_the_best_trial_are_loaded_as_the_page_does(sweep: Callable[..., Answer], folder: Path) -> None:
    page = Page("docs/weights.md")
    assert sweep(*page.command("train.save=best.pt"), "train.steps=20", "study.n_trials=2").status == 0
    (block,) = page.scripts()
    space: dict[str, Any] = {}
    exec(block, space)
    best = min(runs(folder, "trial"), key=lambda run: run.data.metrics["val_loss"])
    split = load(DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}))).val
    accuracy = (space["model"].eval()(split.inputs.float()).argmax(dim=1) == split.targets).float().mean()
    assert float(accuracy) == pytest.approx(best.data.metrics["val_accuracy"])


def test_text_is_generated_with_saved_weights_as_the_page_does(
    sweep: Callable[..., Answer], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page("docs/language-models.md")
    text = "A first line ends.\r\nAnd so does the second, with é.\n" * 40
    (folder / "shakespeare.txt").write_bytes(text.encode())
    answer = sweep(*page.command("train.save=gpt.pt"), "train.steps=2", "train.batch_size=4", "train.device=cpu")
    assert answer.status == 0, answer.err
    (block,) = page.scripts()
    capsys.readouterr()
    space: dict[str, Any] = {}
    exec(block, space)
    printed = capsys.readouterr().out.removesuffix("\n")
    assert printed.startswith(text[:10])
    assert len(printed) == 210
    assert set(printed) <= set(text)
    tokens = sources.text("shakespeare.txt").parts[WHOLE]["x"]
    assert [space["characters"].index(character) for character in text] == tokens.tolist()
