"""Tests --help, --cfg and other flags that Hydra answers, within a second."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import ROOT, Answer

HEAVY = ("torch", "mlflow", "optuna", "sklearn", "matplotlib", "pandas")


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["--cfg=job", "schedule=exponential,cosine"]])
def test_information_is_given_without_what_takes_seconds_to_import(flags: list[str]) -> None:
    code = (
        "import sys\n"
        "from sweep.cli import main\n"
        "try: status = main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code or 0\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], status)\n"
    )
    command = [sys.executable, "-c", code, *flags]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "HEAVY [] 0" in answer.stdout
    assert "decay_rate: ${unless_half_life:0.5}" in answer.stdout


def test_help_lists_groups_and_examples(sweep: Callable[..., Answer]) -> None:
    out = sweep("--help").out
    assert "average: ema, none" in out
    assert "optimizer: adadelta, adagrad, adam, adam_gp, adamw, lion, momentum, muon, nadam," in out
    assert "python -m sweep mode=ui" in out


def test_cfg_resolves_what_is_asked(sweep: Callable[..., Answer]) -> None:
    out = sweep("--cfg", "job", "--resolve", "train.steps=1000", "schedule=cosine", "warmup.steps=100").out
    assert "decay_steps: 900" in out


def test_an_unknown_option_is_refused_there_too(sweep: Callable[..., Answer]) -> None:
    answer = sweep("--cfg", "job", "optimizer=foo")
    assert answer.status == 2
    assert answer.err.count("\n") == 1


def test_tab_completion_answers(sweep: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "_HYDRA" in sweep("--shell-completion", "install=bash").out.upper()


def test_multirun_is_refused_with_a_reason(sweep: Callable[..., Answer]) -> None:
    answer = sweep("--multirun", "optimizer.lr=0.1,0.2")
    assert answer.status == 2
    assert "without --multirun" in answer.err
