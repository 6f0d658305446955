"""Measure the time that the coordinator needs for a trial: milliseconds to propose, record and report it, on SQLite.

`python -m benchmarks.coordinator` prints a table. A stand-in for the engine completes every trial at once, so
that only the coordinator's time is measured: everything that `sweep.study.run` does for a trial of 600 updates and 6
evaluations, without the messages to the trainer and without the display. Earlier trials are random ones that exist only
in Optuna's database.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import create_trial

from sweep import study as loop
from sweep.app.plan import Plan
from sweep.app.search import Search, open_search, record
from sweep.checkpoints import CheckpointFiles
from sweep.core import Evaluation, Progress, Result, Rows, Status, Trial
from sweep.proposals import open_study, pruner
from sweep.proposals.distributions import distributions
from sweep.proposals.trial_tables import TrialTables
from sweep.report.describe import describe
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.current_trainer import started_trainer
from sweep.requests.expressions import parse
from sweep.requests.plan import make_plan
from sweep.requests.resolvers import register_resolvers
from sweep.tracking import Hooks, MlflowRecorder, open_store

EVALUATIONS = 6
"""Number of evaluations of each trial."""
PARTS = ("ask", "open", "begun", "record", "evaluate", "report", "close", "tell")
"""Calls of the proposer and the recorder that are measured by themselves."""


@dataclass(frozen=True)
class Row:
    """Medians over the trials measured; the first trial does not count.

    Args:
        before: trials that the study had before.
        cpu, wall: milliseconds of a whole trial.
        parts: name of a call -> milliseconds of CPU time that a trial spends in it.
    """

    sampler: str
    before: int
    cpu: float
    wall: float
    parts: dict[str, float]


class Instant:
    """An engine with one slot that completes its trial without training it.

    Args:
        begun: told each trial that begins.
    """

    def __init__(self, begun: Callable[[Trial], None]) -> None:
        self._begun = begun
        self._live: Iterator[Progress] | None = None
        self._rng = np.random.default_rng(0)

    @property
    def free(self) -> int:
        return int(self._live is None)

    def start(self, trial: Trial) -> None:
        self._begun(trial)
        self._live = self._progress(trial)

    def advance(self) -> list[Progress]:
        assert self._live is not None
        progress = next(self._live)
        if progress.status is not None:
            self._live = None
        return [progress]

    def _progress(self, trial: Trial) -> Iterator[Progress]:
        number, steps = trial.number, trial.last
        rates, losses = trial.config.series[0].curve(()), self._rng.random(steps)
        for part in np.array_split(np.arange(steps), EVALUATIONS):
            last = int(part[-1]) + 1
            metrics = {"val_loss": float(self._rng.random()), "val_accuracy": 0.5, "global_step": float(last)}
            rows = [Rows(number, part, rates[part], losses[part])]
            done = Status.COMPLETE if last == steps else None
            yield Progress(number, rows, Evaluation(number, last, metrics), done)

    def snapshots(self) -> list[Progress]:
        return []

    def stop(self, trial: Trial) -> None:
        self._live = None


class Times:
    """A monitor that keeps the times at which trials end, and the CPU time of the calls that it wraps."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.calls: list[dict[str, float]] = []
        self._now: dict[str, float] = defaultdict(float)

    def wrap(self, owner: object) -> None:
        """Measure each method of PARTS that an object has."""
        for name in [name for name in PARTS if hasattr(owner, name)]:
            setattr(owner, name, self._timed(name, getattr(owner, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self._now[name] += time.thread_time() - began

        return timed

    def started(self, trial: Trial) -> None:
        """Nothing is shown."""

    def progressed(self, trial: Trial, progress: Progress) -> None:
        """Nothing is shown."""

    def ended(self, trial: Trial, result: Result) -> None:
        self.ends.append((time.thread_time(), time.perf_counter()))
        self.calls.append(dict(self._now))
        self._now.clear()

    def row(self, sampler: str, before: int) -> Row:
        cpu, wall = np.median(np.diff(self.ends, axis=0) * 1e3, axis=0).tolist()
        parts = {name: 1e3 * median(calls.get(name, 0.0) for calls in self.calls[1:]) for name in PARTS}
        return Row(sampler, before, cpu, wall, parts)


def fill(study: Study, plan: Plan, size: int) -> None:
    """Add complete trials to a study."""
    drawn, tables = distributions(plan.space.branches[0]), TrialTables(study)
    draws, rng = optuna.create_study(sampler=RandomSampler(seed=0)), np.random.default_rng(0)
    for number in range(tables.last_number() + 1, size):
        trial = create_trial(params=draws.ask(drawn).params, distributions=drawn, value=float(rng.random()))
        trial.number = number
        tables.insert(trial)


def measure(sampler: str, before: int, trials: int = 40, overrides: Sequence[str] = ()) -> Row:
    """Measure so many trials of a search that has `before` trials."""
    register_resolvers()
    with TemporaryDirectory() as folder:
        databases = [f"study.storage=sqlite:///{folder}/optuna.db", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        total = f"study.n_trials={before + trials + 1}"
        with started_trainer():
            given = [*databases, total, f"sampler={sampler}", *overrides]
            plan = make_plan(Command(Composer(), parse(given), ()))
        chosen = pruner(plan.pruner, plan.first.train.steps, plan.space.conditional)
        fill(open_study(plan.study, plan.name, plan.identity, chosen)[0], plan, before)
        with open_search(plan, lambda line: None, lambda: False) as opened:
            return carry_out(opened, folder).row(sampler, before)


def carry_out(opened: Search, folder: str) -> Times:
    """Carry out a search with the engine that completes trials at once."""
    proposer, times = opened.proposer, Times()
    store = open_store(opened.plan.tracking, hooks=Hooks())
    run = record(opened, store)
    run.reopen()
    annotate = proposer.annotate
    recorder = MlflowRecorder(store, describe, run, lambda trial, run_id: annotate(trial, "mlflow_run_id", run_id))
    times.wrap(proposer)
    times.wrap(recorder)
    checkpoints = CheckpointFiles(Path(folder, "checkpoints"), opened.uid, largest=2**30)
    loop.run(proposer, Instant(proposer.begun), recorder, checkpoints, times, opened.plan.study.metric)
    return times


def table(rows: Iterator[Row]) -> Iterator[str]:
    """Yield the lines of a markdown table, each as soon as it is measured."""
    columns = ["sampler", "trials before", "CPU, ms", "wall, ms", *PARTS]
    yield f"| {' | '.join(columns)} |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for row in rows:
        cells = [f"{cell:.2f}" for cell in (row.cpu, row.wall, *row.parts.values())]
        yield f"| {' | '.join([row.sampler, str(row.before), *cells])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the coordinator's time for a trial.")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[50, 500], help="trials before")
    parser.add_argument("--trials", type=int, default=40, help="measured for each row")
    asked = parser.parse_args()
    rows = (measure(sampler, size, asked.trials) for size in asked.sizes for sampler in asked.samplers)
    for line in table(rows):
        print(line, flush=True)


if __name__ == "__main__":
    main()
