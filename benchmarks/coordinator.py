"""What a trial costs the coordinator: milliseconds of proposing, recording and telling it, on SQLite.

`python -m benchmarks.coordinator` prints a table. The engine is a stand-in that completes every trial at once, so that
all the time is the coordinator's. The trials before are in Optuna's database alone, drawn at random.
"""

import argparse
import cProfile
import pickle
import pstats
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import create_trial

from sweep import study as loop
from sweep.app.resources import CheckpointFiles
from sweep.app.search import open_search, record
from sweep.config import SamplerConfig
from sweep.core import Evaluation, Progress, Rows, Status, Trial
from sweep.proposals import OptunaProposer, open_study, pruner
from sweep.proposals.distributions import distributions
from sweep.report.describe import describe
from sweep.requests.asking import own_trainer
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.plan import Plan, make_plan
from sweep.requests.resolvers import register_resolvers
from sweep.tracking import Hooks, MlflowRecorder, open_store

PARTS = ("ask", "give_up", "begun", "open", "annotate", "record", "evaluate", "report", "close", "tell", "send")


@dataclass(frozen=True)
class Row:
    """Medians over the trials measured, in milliseconds.

    Args:
        before: trials that the study had before.
        parts: name of a call -> milliseconds of CPU time of a trial.
        cpu, wall: of the whole trial.
    """

    sampler: str
    before: int
    parts: dict[str, float]
    cpu: float
    wall: float


class Instant:
    """An engine that completes each trial as soon as it is asked to advance.

    Args:
        begun: told each trial that begins.
        evaluations: of each trial.
    """

    def __init__(self, begun: Callable[[Trial], None], evaluations: int, clock: "Clock") -> None:
        self._begun, self._evaluations, self._clock = begun, evaluations, clock
        self._live: deque[tuple[Trial, Iterator[Progress]]] = deque()
        self._rng = np.random.default_rng(0)

    @property
    def free(self) -> int:
        return 1 - len(self._live)

    def start(self, trial: Trial) -> None:
        with self._clock.of("send"):
            pickle.loads(pickle.dumps(("start", trial)))
        self._begun(trial)
        self._live.append((trial, self._progress(trial)))

    def advance(self) -> list[Progress]:
        with self._clock.of("engine"):
            trial, following = self._live[0]
            progress = next(following)
            if progress.status is not None:
                self._live.popleft()
        with self._clock.of("send"):
            again: Progress = pickle.loads(pickle.dumps(progress))
        return [again]

    def _progress(self, trial: Trial) -> Iterator[Progress]:
        number, steps = trial.number, trial.last
        rates, losses = trial.config.series[0].curve(()), self._rng.random(steps)
        for part in np.array_split(np.arange(steps), self._evaluations):
            last = int(part[-1]) + 1
            metrics = {"val_loss": float(self._rng.random()), "val_accuracy": 0.5, "global_step": float(last)}
            rows = [Rows(number, int(part[0]), rates[part], losses[part])]
            done = Status.COMPLETE if last == steps else None
            yield Progress(number, rows, Evaluation(number, last, metrics), done)

    def snapshots(self) -> list[Progress]:
        return []

    def stop(self, trial: Trial) -> None:
        self._live.clear()


class Silent:
    """A monitor that shows nothing."""

    def started(self, trial: Trial) -> None: ...
    def progressed(self, trial: Trial, progress: Progress) -> None: ...
    def ended(self, trial: Trial, result: object) -> None: ...


class Clock:
    """CPU time of this thread by the name of what it was spent on, nested calls excluded."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._nested = [0.0]

    def of(self, name: str) -> "Clock":
        self._name = name
        return _Timed(self, name)  # type: ignore[return-value]

    def wrap(self, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, self._wrapped(name, getattr(owner, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with _Timed(self, name):
                return call(*args, **kwargs)

        return timed


class _Timed:
    def __init__(self, clock: Clock, name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.clock._nested.append(0.0)
        self.began = time.thread_time()

    def __exit__(self, *error: object) -> None:
        taken = time.thread_time() - self.began
        self.clock.spent[self.name] += taken - self.clock._nested.pop()
        self.clock._nested[-1] += taken


def fill(study: Study, plan: Plan, size: int) -> None:
    """Add complete trials to a study."""
    drawn = distributions(plan.space.branches[0])
    draws, rng = optuna.create_study(sampler=RandomSampler(seed=0)), np.random.default_rng(0)
    for _ in range(size - len(study.get_trials(deepcopy=False))):
        study.add_trial(create_trial(params=draws.ask(drawn).params, distributions=drawn, value=float(rng.random())))


def measure(sampler: str, before: int, trials: int, overrides: Sequence[str] = (), profile: str = "") -> Row:
    """Measure trials of a search that has so many trials before."""
    register_resolvers()
    with TemporaryDirectory() as folder:
        given = [
            f"study.storage=sqlite:///{folder}/optuna.db",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"train.checkpoint_dir={folder}/checkpoints",
            f"study.n_trials={before + trials + 1}",
            f"sampler={sampler}",
            *overrides,
        ]
        with own_trainer():
            plan = make_plan(Command(Composer(), parse(given), ()))
        chosen = pruner(plan.pruner, plan.first.train.steps, plan.space.conditional)
        fill(open_study(plan.study, plan.name, plan.identity, chosen)[0], plan, before)
        with open_search(plan, lambda line: None, lambda: False) as opened:
            store = open_store(plan.tracking, hooks=Hooks())
            run = record(opened, store)
            run.reopen()
            return _carry_out(opened, store, run, sampler, before, trials, profile)


def _carry_out(opened: Any, store: Any, run: Any, sampler: str, before: int, trials: int, profile: str) -> Row:
    proposer: OptunaProposer = opened.proposer
    clock = Clock()
    checkpoints = CheckpointFiles(store_folder(opened), opened.uid, 10**9)
    recorder = MlflowRecorder(
        store, describe, run, on_open=lambda trial, run_id: proposer.annotate(trial, "mlflow_run_id", run_id)
    )
    clock.wrap(proposer, "ask", "give_up", "begun", "annotate", "report", "tell")
    clock.wrap(recorder, "open", "record", "evaluate", "close", "ended", "duplicate_of")
    clock.wrap(checkpoints, "latest", "end")
    engine = Instant(proposer.begun, 6, clock)
    spent: list[dict[str, float]] = []
    times: list[tuple[float, float]] = []

    class Marks(Silent):
        def ended(self, trial: Trial, result: object) -> None:
            spent.append(dict(clock.spent))
            clock.spent.clear()
            times.append((time.thread_time(), time.perf_counter()))

    profiler = cProfile.Profile() if profile else None
    if profiler:
        profiler.enable()
    loop.run(proposer, engine, recorder, checkpoints, Marks(), opened.plan.study.metric)
    if profiler:
        profiler.disable()
        profiler.dump_stats(profile)
    each = np.diff(np.array(times), axis=0) * 1e3
    names = {name for one in spent for name in one}
    parts = {name: 1e3 * median(one.get(name, 0.0) for one in spent[1:]) for name in names}
    cpu, wall = np.median(each, axis=0).tolist()
    return Row(sampler, before, parts, cpu - parts.pop("engine", 0.0), wall - 0.0)


def store_folder(opened: Any) -> Any:
    from pathlib import Path

    return Path(opened.plan.first.train.checkpoint_dir) / "study"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[50, 500])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--profile", default="")
    parser.add_argument("overrides", nargs="*")
    asked, rest = parser.parse_known_args()
    for size in asked.sizes:
        for name in asked.samplers:
            row = measure(name, size, asked.trials, [*asked.overrides, *rest], asked.profile)
            parts = "  ".join(f"{k} {v:.2f}" for k, v in sorted(row.parts.items(), key=lambda kv: -kv[1]) if v > 0.04)
            print(f"{name:7s} {size:6d}  cpu {row.cpu:6.1f}  wall {row.wall:6.1f}  {parts}", flush=True)
    if asked.profile:
        pstats.Stats(asked.profile).sort_stats("tottime").print_stats(60)


if __name__ == "__main__":
    main()
