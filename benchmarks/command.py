"""Runs a command of sweep as a user does, and reads the speed that it reports."""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT = 900


@dataclass(frozen=True)
class Engine:
    """The statistics of the engine in the tag `sweep.engine` of the study's run.

    Args:
        name: serial, fused.
        slots: trials in one training step.
        compiled: whether the step was compiled.
        why: why this engine and these slots were chosen.
        prepared: seconds for building, measuring and compiling before the first update.
        updates: of all trials.
        seconds: from the first update until everything was recorded.
        busy: part of the slots' updates that trained a trial, 0..1.
        waited: seconds in which a slot was free while proposals were still to come.
    """

    name: str
    slots: int
    compiled: bool
    why: str
    prepared: float
    updates: int
    seconds: float
    busy: float
    waited: float

    @property
    def speed(self) -> float:
        """Return the updates/s from the first update until everything was recorded."""
        return self.updates / self.seconds

    def __str__(self) -> str:
        slots = f" with {self.slots} slots" if self.slots > 1 else ""
        return f"{self.name}{slots}{', compiled' if self.compiled else ''}"


@dataclass(frozen=True)
class Run:
    """The times of a command.

    Args:
        wall: seconds from the start of the command to its end.
        engine: statistics of its engine.
    """

    wall: float
    engine: Engine

    @property
    def startup(self) -> float:
        """Return the seconds for imports, compiling and the report, which are not part of `engine.seconds`."""
        return self.wall - self.engine.seconds


def environment(folder: str) -> dict[str, str]:
    """Return the environment of a command in a folder, with empty caches of compiled code."""
    caches = {name: str(Path(folder, "compiled")) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    return {**os.environ, **caches, "PYTHONPATH": str(ROOT)}


def sweep(*overrides: str) -> Run:
    """Run `python -m sweep` in an empty folder with empty caches, and check that everything is recorded.

    Raises:
        RuntimeError: if it fails, or MLflow does not have the rate and the loss of every update.
    """
    with tempfile.TemporaryDirectory() as folder:
        environ = environment(folder)
        command = [sys.executable, "-m", "sweep", *overrides]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=TIMEOUT)
        wall = time.perf_counter() - began
        if done.returncode:
            said = (done.stdout + done.stderr)[-3000:]
            raise RuntimeError(f"sweep {' '.join(overrides)} ended with status {done.returncode}:\n{said}")
        return Run(wall, recorded(Path(folder, "mlflow.db")))


def recorded(database: Path) -> Engine:
    """Return the statistics of the engine of the only study in an MLflow database, which must have all its updates.

    Raises:
        RuntimeError: if there is no such tag, or rows are missing.
    """
    with closing(sqlite3.connect(database)) as connection:
        tags = connection.execute("SELECT value FROM tags WHERE key = 'sweep.engine'").fetchall()
        if len(tags) != 1:
            raise RuntimeError(f"{len(tags)} runs have the tag sweep.engine, not one")
        count = "SELECT count(*) FROM metrics WHERE key IN ('lr', 'loss')"
        (rows,) = connection.execute(count).fetchone()
    said = json.loads(tags[0][0])
    engine = Engine(**{field.name: said[field.name] for field in fields(Engine)})
    if rows != 2 * engine.updates:
        raise RuntimeError(f"{rows} values of lr and loss are recorded of {engine.updates} updates")
    return engine
