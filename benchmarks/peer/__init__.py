"""The peer of the whole command: its environment, and a timed run of it."""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / ".peer"
TIMEOUT = 900


@dataclass(frozen=True)
class Timing:
    """Of one run.

    Args:
        wall: seconds of the whole command.
        startup: of them, the seconds before its first trial.
        trials: that it trained.
    """

    wall: float
    startup: float
    trials: int

    def scaled(self, trials: int) -> float:
        """Seconds that so many trials would take: start-up once, the rest in proportion."""
        return self.startup + (self.wall - self.startup) * trials / self.trials


def environment() -> Path:
    """The Python of the peer's environment, which is made where it is missing or of other requirements (minutes)."""
    requirements, made_of = HERE / "requirements.txt", ENVIRONMENT / "made_of"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    python = ENVIRONMENT / "bin" / "python"
    if made_of.exists() and made_of.read_text() == digest:
        return python
    print(f"  making the peer's environment in {ENVIRONMENT} (minutes, once) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    pip = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", requirements], check=True)
    made_of.write_text(digest)
    return python


def run(python: Path, trials: int, steps: int, threads: int) -> Timing:
    """Run it in an empty folder.

    Raises:
        RuntimeError: if it fails, with the end of what it printed.
    """
    command = [python, HERE / "app.py", "--multirun", f"steps={steps}", f"threads={threads}"]
    command += [f"hydra.sweeper.n_trials={trials}"]
    environ = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=TIMEOUT)
        wall = time.time() - began
    if done.returncode:
        raise RuntimeError(f"the peer ended with status {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    starts = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("began ")]
    if len(starts) != trials:
        raise RuntimeError(f"the peer trained {len(starts)} trials, not {trials}:\n{done.stdout[-3000:]}")
    return Timing(wall, starts[0] - began, trials)
