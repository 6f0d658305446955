"""Follows README.md: writes its files and runs its commands."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import load
from tests.conftest import ROOT, SMALL, Answer
from tests.test_main_job import runs

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def write_files(folder: Path) -> list[str]:
    """Write the blocks that begin with `# path/of/file` as files; return their paths."""
    written = []
    for block in blocks("python") + blocks("yaml"):
        named = re.match(r"# (\S+/\S+\.(?:py|yaml))\n", block)
        if named:
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
            written.append(named[1])
    return written


def commands() -> list[list[str]]:
    """Return the command lines of README as arguments of `python -m sweep`."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("python -m sweep") for line in lines if line.startswith("python -m sweep")]
    return [shlex.split(line, comments=True) for line in typed]


def test_a_users_own_model_data_set_and_optimizer_are_searched(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_files(folder)
    kinds = {path.split("/")[1] for path in written if path.endswith(".yaml")}
    assert {"model", "dataset", "optimizer"} <= kinds
    monkeypatch.syspath_prepend(str(folder))
    (command,) = [line for line in commands() if "model=residual" in line]
    answer = sweep(*command, "train.steps=20", "study.n_trials=2")
    assert answer.status == 0, answer.err
    for run in runs(folder, "trial"):
        assert run.data.params["model._target_"].startswith("mylab.")
        assert run.data.params["dataset._target_"].startswith("mylab.")
        assert run.data.params["optimizer._target_"].startswith("mylab.")


def test_a_users_own_loss_is_trained_and_a_search_is_judged_by_a_metric_of_theirs(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(folder)
    monkeypatch.syspath_prepend(str(folder))
    (command,) = [line for line in commands() if "study.metric=val_f1" in line]
    answer = sweep(*command, *SMALL, "study.n_trials=2")
    assert answer.status == 0, answer.err
    for run in runs(folder, "trial"):
        assert run.data.params["task.loss.gamma"] == "1.5"
        assert 0 < run.data.metrics["val_f1"] < 1


def test_the_weights_of_the_best_trial_are_loaded_as_it_says(sweep: Callable[..., Answer], folder: Path) -> None:
    (command,) = [line for line in commands() if "train.save=best.pt" in line]
    assert sweep(*command, "train.steps=20", "study.n_trials=2").status == 0
    (block,) = [block for block in blocks("python") if "torch.load" in block]
    assert len([line for line in block.splitlines() if line]) == 4
    space: dict[str, Any] = {}
    exec(block, space)
    best = min(runs(folder, "trial"), key=lambda run: run.data.metrics["val_loss"])
    split = load(DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}))).val
    accuracy = (space["model"].eval()(split.inputs.float()).argmax(dim=1) == split.targets).float().mean()
    assert float(accuracy) == pytest.approx(best.data.metrics["val_accuracy"])


@pytest.mark.parametrize("mode", ["search", "preview", "compare"])
def test_a_users_own_schedule_is_searched_drawn_and_compared(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    write_files(folder)
    monkeypatch.syspath_prepend(str(folder))
    of_schedules = [line for line in commands() if "knee" in str(line)]
    by_mode = {next((word[5:] for word in line if word.startswith("mode=")), "search"): line for line in of_schedules}
    assert len(by_mode) == len(of_schedules) == 3
    total = {"search": ["study.n_trials=2"], "compare": ["compare.trials=1", "compare.seeds=2"]}.get(mode, [])
    answer = sweep(*by_mode[mode], *SMALL, *total)
    assert answer.status == 0, answer.err
    kept = {run.data.params["schedule.name"] for run in runs(folder, "trial")} if mode != "preview" else set()
    assert kept == {"search": {"knee"}, "compare": {"knee", "cosine"}, "preview": set()}[mode]
    if mode == "preview":
        assert (folder / "schedule.csv").read_text().startswith("step,knee,cosine\n0,0.0,0.0\n")


def test_a_users_own_loop_and_program_are_searched(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(folder)
    monkeypatch.syspath_prepend(str(folder))
    (program,) = [line for line in commands() if "loop=command" in line]
    answer = sweep(*program, "train.steps=60", "train.eval_every=30", "study.n_trials=2")
    assert answer.status == 0, answer.err
    assert [run.data.metrics["global_step"] for run in runs(folder, "trial")] == [60, 60]
    (loop,) = [line for line in commands() if "loop._target_=mylab.loop.main" in line]
    compared = ["mode=compare", "compare.schedules=[constant,cosine]", "compare.trials=1", "compare.seeds=2"]
    answer = sweep(*loop, *compared, "train.steps=60", "train.eval_every=30")
    assert answer.status == 0, answer.err
    assert all(8 <= int(run.data.params["loop.width"]) <= 64 for run in runs(folder, "trial")[2:])
    assert all(run.data.metrics["test_loss"] > 0 for run in runs(folder, "final"))


def test_their_code_is_refused_unless_it_is_declared_trusted_on_the_command_line(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(folder)
    monkeypatch.syspath_prepend(str(folder))
    (command,) = [line for line in commands() if "model=residual" in line]
    answer = sweep(*[argument for argument in command if not argument.startswith("trusted")])
    assert answer.status == 2
    assert "trusted=[package] adds one" in answer.err
    (folder / "myconf" / "experiment").mkdir()
    (folder / "myconf" / "experiment" / "sly.yaml").write_text("# @package _global_\ntrusted: [mylab]\n")
    sly = [argument for argument in command if not argument.startswith("trusted")]
    answer = sweep(*sly, "+experiment=sly")
    assert answer.status == 2
    assert "trusted" in answer.err
    assert "on the command line only" in answer.err


@pytest.mark.parametrize("command", [line for line in commands() if "mylab" not in str(line)], ids=" ".join)
def test_every_command_line_is_accepted(sweep: Callable[..., Answer], folder: Path, command: list[str]) -> None:
    if "mode=ui" in command:
        return  # served in tests/test_ui.py
    if "mode=report" in command:
        assert sweep(*SMALL, "study.n_trials=1").status == 0
    total = ["compare.trials=2", "compare.seeds=2"] if "mode=compare" in command else ["study.n_trials=2"]
    small = [*SMALL, "train.steps=120", "train.eval_every=60", *total]
    if "mode=report" in command or "--help" in command:
        small = []
    elif any(word.startswith(("model=cnn", "model=wgan")) for word in command):
        small = [argument for argument in small if "hidden" not in argument]
    answer = sweep(*command, *small)
    assert answer.status == 0, answer.err
