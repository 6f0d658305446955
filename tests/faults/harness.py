"""Searches that are killed, stopped, starved and locked out, and what their record must be in the end."""

import json
import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from math import isclose
from pathlib import Path
from random import Random
from typing import Any

import optuna
import torch

from sweep import container
from tests.faults.zygote import THREADS

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("SWEEP_FAULTS") == "long"
DONE, FAILED, REFUSED, INTERRUPTED, KILLED = 0, 1, 2, 130, -signal.SIGKILL

TRIALS, STEPS, EVERY = 6, 120, 30
OFTEN = ["train.checkpoint_seconds=0.01"] if "checkpoint_seconds" in (ROOT / "conf/config.yaml").read_text() else []
"""A checkpoint at every opportunity, where there are any."""

NOT_COMPARED = {
    "sweep.uid", "sweep.key", "sweep.lease", "sweep.engine", "sweep.weights", "mlflow.parentRunId", "mlflow.user"
}  # fmt: skip
"""Tags that tell one time, process or database from another. Of the weights, `check_weights` compares the best's."""

Table = dict[tuple[Any, ...], Any]
Rows = list[tuple[Any, ...]]


# ------------------------------------------------------------------------------------------------- what is searched


@dataclass(frozen=True)
class Case:
    """A search that comes out the same whenever it is interrupted.

    Args:
        exact: whether all values are the same to the last bit; else to the rounding of float64.
        best: whether the best trial so far is compared: trials that are trained beside each other may end in any order.
    """

    name: str
    overrides: tuple[str, ...]
    exact: bool = True
    best: bool = True


def search(*overrides: str, trials: int = TRIALS, steps: int = STEPS) -> tuple[str, ...]:
    """Overrides of a search that takes a moment."""
    return (
        "train.device=cpu", "dataset=digits", "model.hidden=[8]", f"train.steps={steps}", f"train.eval_every={EVERY}",
        f"study.n_trials={trials}", "study.max_retries=1000", *OFTEN, *overrides,
    )  # fmt: skip


RANDOM, TPE = ("sampler=random", "pruner=none"), ("sampler=tpe", "sampler.n_startup_trials=3", "pruner=none")
FUSED = ("engine=fused", "engine.slots=3", "train.compile=false", "train.precision=float64")

SERIAL_RANDOM = Case("serial, random", search("engine=serial", *RANDOM))
SERIAL_TPE = Case("serial, tpe", search("engine=serial", *TPE))
SERIAL_MEDIAN = Case(
    "serial, random, median",
    search("engine=serial", "sampler=random", "pruner=median", "pruner.n_startup_trials=2", trials=8),
)
FUSED_RANDOM = Case("fused, random", search(*FUSED, *RANDOM), exact=False, best=False)
WORKERS_TPE = Case("two workers, tpe", search("train.workers=2", *TPE))
REACTING = ("schedule=plateau", "warmup=until_error", "model.dropout=0.2")
TRAINING = Case("mode=train", ("mode=train", *search(*REACTING, steps=2000)))
WORKERS_TRAINING = Case("mode=train, two workers", ("mode=train", *search("train.workers=2", *REACTING, steps=600)))


# ---------------------------------------------------------------------------------------------------- its processes


class Zygote:
    """Gives processes that have imported the program already. A context.

    Args:
        outputs: a folder for what they print.
    """

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            cwd=ROOT,
            env=os.environ | THREADS | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._read, self._answers = b"", []
        self.ended: dict[int, int] = {}
        """Process -> status, as in subprocess."""
        self.started = 0
        self._ask("ready", 300)

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)

    def start(
        self,
        folder: Path,
        arguments: Sequence[str],
        point: str = "",
        repetition: int = 0,
        assign: Mapping[str, Any] | None = None,
    ) -> "Command":
        """Begin a command line in a folder; it ends at a point (driver.py) where one is named."""
        self.started += 1
        output = self.outputs / f"{folder.name}-{self.started}.out"
        order = {"folder": str(folder), "arguments": list(arguments), "output": str(output)}
        self._order(order | {"point": point, "repetition": repetition, "assign": dict(assign or {})})
        return Command(self, self._ask("started", 20), output, time.monotonic())

    def signal(self, pid: int, number: int, group: bool) -> bool:
        self._order({"signal": int(number), "pid": pid, "group": group})
        return bool(self._ask("sent", 20))

    def _order(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def _ask(self, key: str, patience: float) -> Any:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self.listen(deadline - time.monotonic())
            for answer in self._answers:
                if key in answer:
                    self._answers.remove(answer)
                    return answer[key]
        raise TimeoutError(f"the zygote did not answer: {key}")

    def listen(self, patience: float) -> None:
        """Take what is said, waiting for so many seconds."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        if not select.select([pipe], [], [], max(patience, 0))[0]:
            return
        said = os.read(pipe, 1 << 16)
        if not said:
            raise RuntimeError(f"the zygote ended with status {self._process.wait()}")
        *lines, self._read = (self._read + said).split(b"\n")
        for answer in map(json.loads, lines):
            if "ended" in answer:
                self.ended[answer["ended"]] = answer["status"]
            else:
                self._answers.append(answer)


@dataclass
class Command:
    """A command line that is being carried out.

    Args:
        output: what it prints.
        began: of time.monotonic().
    """

    zygote: Zygote
    pid: int
    output: Path
    began: float

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    @property
    def last_line(self) -> str:
        return (self.said.strip().splitlines() or [""])[-1]

    @property
    def status(self) -> int | None:
        """Its exit status, less the signal that ended it; None while it runs."""
        self.zygote.listen(0)
        return self.zygote.ended.get(self.pid)

    def wait(self, patience: float) -> int | None:
        """Its status, at the latest after so many seconds."""
        deadline = time.monotonic() + patience
        while self.status is None and (left := deadline - time.monotonic()) > 0:
            self.zygote.listen(left)
        return self.status

    def wait_for(self, text: str, patience: float = 180) -> bool:
        """Whether it prints that, before it ends."""
        deadline = time.monotonic() + patience
        while text not in self.said:
            if self.wait(0.003) is not None or time.monotonic() > deadline:
                return text in self.said
        return True

    def signal(self, number: int, group: bool = False) -> bool:
        """Send a signal; whether it had not ended."""
        return self.zygote.signal(self.pid, number, group)

    def kill_engine(self, which: Callable[[list[int]], list[int]] = lambda pids: pids) -> bool:
        """Kill what its server forked, and that alone: all, or `which` of them; whether there was anything."""
        parents = {pid: parent for pid, parent, group, _ in processes() if group == self.pid}
        servers = [pid for pid, parent in parents.items() if parent == self.pid]
        engines = which(sorted(pid for pid, parent in parents.items() if parent in servers))
        for pid in engines:
            os.kill(pid, signal.SIGKILL)
        return bool(engines)

    @property
    def survivors(self) -> list[int]:
        """The live processes of its group."""
        return [pid for pid, _, group, state in processes() if group == self.pid and state != "Z"]


def processes() -> Iterator[tuple[int, int, int, str]]:
    """All there are: number, parent, group, state."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            yield int(entry.name), int(parent), int(group), state


# ------------------------------------------------------------------------------------------------------ what strikes


Strike = Callable[[Command], bool]
"""Does something to a command; whether it came in time."""


@dataclass
class Reference:
    """A search that nothing happened to.

    Args:
        seconds: that it took.
        training: after so many of them it had an engine.
    """

    folder: Path
    seconds: float
    training: float

    @cached_property
    def table(self) -> Table:
        return final_table(self.folder)


@dataclass
class Bench:
    """Where searches are tried: in new folders, against the same search uninterrupted.

    Args:
        base: folders are made in it.
        databases: a folder with MLflow's and Optuna's databases, empty: to create them takes seconds.
    """

    base: Path
    zygote: Zygote
    databases: Path
    references: dict[Case, Reference] = field(default_factory=dict)
    folders: int = 0

    def folder(self, empty: bool = False, base: Path | None = None) -> Path:
        """A new working directory; with databases, unless it is to be empty."""
        self.folders += 1
        folder = (base or self.base) / f"{self.folders}"
        if empty:
            folder.mkdir()
        else:
            shutil.copytree(self.databases, folder)
        return folder

    def uninterrupted(self, case: Case) -> Reference:
        if case not in self.references:
            folder = self.folder()
            command = self.zygote.start(folder, case.overrides)
            command.wait_for("engine: ")
            training = time.monotonic() - command.began
            assert command.wait(120) == DONE, command.said
            self.references[case] = Reference(folder, time.monotonic() - command.began, training)
            check_no_step_missing_or_twice(folder)
        return self.references[case]

    def moment(self, case: Case, random: Random) -> Callable[[Command], bool]:
        """Waits for a random moment in the life of a search, half of them while it trains; whether it still runs."""
        reference = self.uninterrupted(case)
        if random.random() < 0.5:
            seconds = random.uniform(0, reference.seconds)
            return lambda command: command.wait(command.began + seconds - time.monotonic()) is None
        share = random.uniform(0, max(reference.seconds - reference.training, 0.3))

        def while_it_trains(command: Command) -> bool:
            if not command.wait_for("engine: "):
                return False
            said = re.search(r"(\d+) of (\d+) trials? done", command.said)
            left = 1 - int(said[1]) / int(said[2]) if said else 1
            return command.wait(share * max(left, 0.2)) is None

        return while_it_trains

    def finish(self, case: Case, folder: Path, patience: float = 120) -> Command:
        """Run a search to its end."""
        command = self.zygote.start(folder, case.overrides)
        status = command.wait(patience)
        assert status == DONE, f"status {status}:\n{command.said}"
        return command

    def check(self, case: Case, folder: Path, *told: object) -> None:
        """Refuse a finished search whose record is not that of the uninterrupted one; keeps the folder then."""
        try:
            check_no_step_missing_or_twice(folder)
            check_weights(folder)
            compare(final_table(folder), self.uninterrupted(case).table, case)
        except AssertionError as error:
            error.add_note(f"{case.name} in {folder}: {told}")
            raise
        shutil.rmtree(folder)
        for output in self.zygote.outputs.glob(f"{folder.name}-*.out"):
            output.unlink()


def kill_after(command: Command, seconds: float, group: bool = False) -> bool:
    """SIGKILL after so many seconds; whether it had not ended."""
    return command.wait(seconds) is None and command.signal(signal.SIGKILL, group)


# -------------------------------------------------------------------------------------------------- what is recorded


def rows(folder: Path, query: str, database: str = "mlflow.db") -> Rows:
    connection = sqlite3.connect(folder / database, timeout=30)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def every_row(folder: Path) -> Rows:
    """Of every active run: its id, metric, step, value as it is stored, whether it is no number."""
    query = """SELECT run_uuid, key, step, value, is_nan FROM metrics JOIN runs USING (run_uuid)
               WHERE lifecycle_stage = 'active' ORDER BY run_uuid, key, step"""
    return rows(folder, query)


def mlflow_table(folder: Path) -> Table:
    """All active runs: name, status, params, tags, metrics; without times and ids."""
    runs = rows(folder, "SELECT run_uuid, name, status FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time")
    tags: dict[str, dict[str, str]] = {run: {} for run, _, _ in runs}
    for run, key, value in rows(folder, "SELECT run_uuid, key, value FROM tags"):
        if run in tags:
            tags[run][key] = value
    names, seen = {}, Counter[str]()
    table: Table = {}
    for run, name, status in runs:
        called = " ".join(tags[run].get(key, "") for key in ("sweep.kind", "sweep.trial")).strip()
        seen[called] += 1
        names[run] = called if seen[called] == 1 else f"{called} (run {seen[called]} of it)"
        table[names[run], "name"], table[names[run], "status"] = name, status
    for run, of_run in tags.items():
        for key in of_run.keys() - NOT_COMPARED:
            table[names[run], "tag", key] = of_run[key]
    for run, key, value in rows(folder, "SELECT run_uuid, key, value FROM params"):
        if run in names:
            table[names[run], "param", key] = value
    for run, key, step, value, nan in every_row(folder):
        table[names[run], "metric", key, step] = None if nan else value
    for run, key, step, value, nan in rows(folder, "SELECT run_uuid, key, step, value, is_nan FROM latest_metrics"):
        if run in names:
            table[names[run], "latest", key, "step"], table[names[run], "latest", key] = step, None if nan else value
    return table


def optuna_table(folder: Path) -> Table:
    """All trials: state, params, distributions, value, intermediate values, constraint; without times and ids."""
    table: Table = {}
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")
    try:
        for name in optuna.get_all_study_names(storage):
            for trial in optuna.load_study(study_name=name, storage=storage).get_trials():
                at = ("Optuna's trial", trial.number)
                table[*at, "state"], table[*at, "value"] = trial.state.name, trial.value
                table[*at, "distributions"] = trial.distributions
                table[*at, "status"] = trial.user_attrs.get("sweep.status")
                table[*at, "constraints"] = {k: v for k, v in trial.system_attrs.items() if "constraint" in k}
                table |= {(*at, "param", key): value for key, value in trial.params.items()}
                table |= {(*at, "value", step): value for step, value in trial.intermediate_values.items()}
    finally:
        storage.engine.dispose()
    return table


def final_table(folder: Path) -> Table:
    """Both."""
    return mlflow_table(folder) | (optuna_table(folder) if (folder / "optuna.db").exists() else {})


def compare(found: Table, expected: Table, case: Case) -> None:
    """Refuse a table that is another, and say where."""

    def left_out(key: tuple[Any, ...]) -> bool:
        return not case.best and key[0] == "study" and key[1] in ("metric", "latest") and key[2].startswith("best_")

    def same(one: Any, other: Any) -> bool:
        if case.exact or not (isinstance(one, float) and isinstance(other, float)):
            return bool(one == other)
        return isclose(one, other, rel_tol=1e-8)

    keys = [key for key in dict.fromkeys([*expected, *found]) if not left_out(key)]
    differing = [key for key in keys if key not in found or key not in expected or not same(found[key], expected[key])]
    lines = [f"{key}: {found.get(key, 'missing')!r}, not {expected.get(key, 'there')!r}" for key in differing[:12]]
    assert not differing, f"{len(differing)} of {len(keys)} entries differ:\n" + "\n".join(lines)


def check_no_step_missing_or_twice(folder: Path) -> None:
    """Refuse a finished search in which anything is missing, left over or there twice."""
    twice = "SELECT run_uuid, key, step FROM metrics GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
    assert rows(folder, twice) == []
    active = "FROM runs JOIN tags USING (run_uuid) WHERE lifecycle_stage = 'active' AND tags.key ="
    doubled = f"SELECT tags.value, COUNT(*) {active} 'sweep.trial' GROUP BY tags.value HAVING COUNT(*) > 1"
    assert rows(folder, doubled) == [], "a trial has two runs"
    assert rows(folder, "SELECT name FROM runs WHERE status = 'RUNNING'") == []
    steps: dict[tuple[str, str], list[int]] = {}
    for run, key, step, _, _ in every_row(folder):
        steps.setdefault((run, key), []).append(step)
    statuses = dict(rows(folder, f"SELECT run_uuid, tags.value {active} 'sweep.status'"))
    horizons = dict(rows(folder, "SELECT run_uuid, CAST(value AS INTEGER) FROM params WHERE key = 'train.steps'"))
    kinds = dict(rows(folder, f"SELECT run_uuid, tags.value {active} 'sweep.kind'"))
    trained = [run for run, kind in kinds.items() if kind in ("trial", "train", "final")]
    assert trained, "nothing is recorded"
    assert list(kinds.values()).count("train") <= 1, "a training has two runs"
    for run in trained:
        assert run in statuses, f"run {run} has no status"
        updates = steps.get((run, "lr"), [])
        assert updates == list(range(len(updates))), f"run {run} lacks steps"
        assert updates == steps.get((run, "loss"), [])
        if statuses[run] == "complete":
            assert len(updates) == horizons[run]
            assert steps[run, "val_loss"][-1] == horizons[run]
        if statuses[run] != "diverged":
            evaluations = [*range(EVERY, len(updates) + 1, EVERY)]
            assert sorted({*evaluations, len(updates)}) == steps[run, "val_loss"]
    if (folder / "optuna.db").exists():
        of_optuna = rows(folder, "SELECT number, state FROM trials ORDER BY number", "optuna.db")
        assert [number for number, _ in of_optuna] == list(range(len(of_optuna)))
        assert {state for _, state in of_optuna} <= {"COMPLETE", "PRUNED"}, of_optuna
        assert list(kinds.values()).count("trial") == len(of_optuna)


def check_weights(folder: Path) -> None:
    """Refuse a finished search or training unless the one file with weights is that of its best trial."""
    query = """SELECT run_uuid, value FROM tags JOIN runs USING (run_uuid)
               WHERE key = 'sweep.weights' AND lifecycle_stage = 'active'"""
    named = dict(rows(folder, query))
    query = """SELECT run_uuid, latest_metrics.value FROM latest_metrics JOIN tags USING (run_uuid)
               JOIN runs USING (run_uuid) WHERE latest_metrics.key = 'val_loss' AND tags.key = 'sweep.status'
               AND tags.value = 'complete' AND lifecycle_stage = 'active' ORDER BY start_time"""
    best = min(rows(folder, query), key=lambda row: row[1])[0]
    kept = [str(path.relative_to(folder)) for path in (folder / "checkpoints").rglob("weights/*")]
    assert kept == [named.get(best)]


def final_state(folder: Path) -> dict[str, Any]:
    """Everything in the state that a training ended with, flattened: name -> tensor or plain value."""
    (file,) = (folder / "checkpoints").rglob("final/*.checkpoint")
    _, (state, _) = container.decode(file.read_bytes())
    return flattened(state)


def flattened(content: bytes) -> dict[str, Any]:
    """A state as torch saved it: name -> tensor or plain value."""
    held = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    return dict(_flattened("", held))


def _flattened(name: str, content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flattened(f"{name}.{key}", value)
    elif isinstance(content, list | tuple):
        for key, value in enumerate(content):
            yield from _flattened(f"{name}.{key}", value)
    else:
        yield name, content


def same_states(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether all tensors are the same to the last bit, and all else is equal."""
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
        for key, value in expected.items()
    )


# ----------------------------------------------------------------------------------------------------------- a disk


@contextmanager
def small_disk(at: Path, bytes_: int) -> Iterator[Callable[[int], None]]:
    """A file system in memory, of so many bytes; gives a function that changes how many.

    Raises:
        PermissionError: where nothing may be mounted.
    """
    at.mkdir(exist_ok=True)

    def mount(*options: str) -> None:
        answer = subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(at)], capture_output=True, text=True)
        if answer.returncode:
            raise PermissionError(answer.stderr.strip())

    mount("-o", f"size={bytes_}")
    try:
        yield lambda size: mount("-o", f"remount,size={size}")
    finally:
        subprocess.run(["umount", "-l", str(at)], check=False, capture_output=True)


def used(folder: Path) -> int:
    """Bytes of the file system of a folder that are in use."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def is_one_clear_line(said: str) -> bool:
    """Whether a command that failed ends with one line of its own, and no traceback."""
    lines = said.strip().splitlines()
    return "Traceback" not in said and bool(lines) and bool(re.match(r"sweep: ", lines[-1]))
