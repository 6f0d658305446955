"""Measures the start-up of commands, and the time in which Python imports their libraries."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTS = "import torch, mlflow, optuna"
TIMEOUT = 300

FIRST_UPDATE = "engine: "
"""Beginning of the line that a command prints when its engine is ready for the first update."""

STUDY, FUSED, COMPILED = "study ", "engine: fused", "engine: from now on updates are compiled"
"""Beginnings of the lines printed before an engine is chosen, when it is, and when compiled updates have taken over."""


def imports() -> float:
    """Return the seconds that a Python process needs to import torch, MLflow and Optuna."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, timeout=TIMEOUT)
    return time.perf_counter() - began


def command(
    folder: Path,
    arguments: Sequence[str],
    status: int = 0,
    until: str | None = None,
    since: str | None = None,
) -> float:
    """Return the seconds that a command takes.

    Args:
        folder: working directory, which keeps databases and compiled code for the next call.
        status: required exit status.
        until: beginning of the line of output at which the time ends and the command is interrupted; None for the whole
            command.
        since: beginning of the line of output at which the time starts; None for the start of the command.

    Raises:
        RuntimeError: if it ends with another status, or without that line.
    """
    call = [sys.executable, "-u", "-m", "sweep", *arguments]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    began = time.perf_counter()
    process = subprocess.Popen(
        call, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines, seconds = [], None
    for line in process.stdout:
        lines.append(line)
        if since is not None and line.startswith(since):
            began, since = time.perf_counter(), None
        if until is not None and seconds is None and line.startswith(until):
            seconds = time.perf_counter() - began
            process.send_signal(signal.SIGINT)
    ended = process.wait(TIMEOUT)
    if until is None:
        seconds = time.perf_counter() - began
    if ended != status or seconds is None:
        said = "".join(lines)[-3000:]
        raise RuntimeError(f"sweep {' '.join(arguments)} ended with status {ended}:\n{said}")
    return seconds
