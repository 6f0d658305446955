"""Follows docs/your-training.md: writes its files and runs its commands."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Answer
from tests.test_main_job import runs

PAGE = (ROOT / "docs" / "your-training.md").read_text()
SH = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ").splitlines()
COMMANDS = [shlex.split(line.removeprefix("python -m sweep"), comments=True) for line in SH if line]


def write_files(folder: Path) -> None:
    for name, block in re.findall(r"```python\n# (mylab/\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)


def test_the_page_has_an_example_for_each_way() -> None:
    assert len(COMMANDS) == 8
    assert {"task=model", "task=language_model", "dataset.block=32"} <= {word for line in COMMANDS for word in line}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0].partition("=")[2])
def test_every_example_is_searched(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    write_files(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:  # of another example
        monkeypatch.delitem(sys.modules, name)
    (metric,) = [word.partition("=")[2] for word in command if word.startswith("study.metric=")] or ["val_loss"]
    answer = sweep(*command, "train.steps=20", "train.eval_every=10", "study.n_trials=2")
    assert answer.status == 0, answer.err
    trials = runs(folder, "trial")
    assert [run.data.metrics["global_step"] for run in trials] == [20, 20]
    assert all(metric in run.data.metrics for run in trials)
