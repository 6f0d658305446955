"""Measures a user's loop that only reads rates and reports, and the same loop without sweep."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command import TIMEOUT, environment

STEPS, EVERY = 20_000, 1_000


def main(run: Any, path: str) -> None:
    """Run all steps, and write the elapsed seconds to a file."""
    began = time.perf_counter()
    for step in run.steps():
        rate = run.lr(step)
        run.record(rate)
        if run.evaluating(step):
            run.evaluate(val_loss=rate)
    Path(path).write_text(json.dumps(time.perf_counter() - began))


def with_sweep() -> float:
    """Return the microseconds of a step in a training with sweep."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = Path(folder, "seconds.json")
        command = [sys.executable, "-m", "sweep", "mode=train", "loop._target_=benchmarks.loops.main"]
        keys = [f"loop.path={seconds}", "trusted=[benchmarks]", f"train.steps={STEPS}", f"train.eval_every={EVERY}"]
        subprocess.run(
            [*command, *keys], cwd=folder, env=environment(folder), capture_output=True, timeout=TIMEOUT, check=True
        )
        return float(json.loads(seconds.read_text())) / STEPS * 1e6


def without() -> float:
    """Return the microseconds of a step of a loop that appends the same values to lists."""
    curve, rates, losses, evaluations = [0.1] * STEPS, [], [], []
    began = time.perf_counter()
    for step in range(STEPS):
        rate = curve[step]
        rates.append(rate)
        losses.append(rate)
        if (step + 1) % EVERY == 0:
            evaluations.append(rate)
    return (time.perf_counter() - began) / STEPS * 1e6
