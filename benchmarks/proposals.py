"""Measures the milliseconds per call of the proposer, on SQLite, for several numbers of earlier trials.

`python -m benchmarks.proposals` prints a table. The earlier trials are random and have no evaluations.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import random
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeVar

import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import create_trial

from sweep.config import SamplerConfig
from sweep.core import Evaluation, Result, Status
from sweep.proposals import OptunaProposer, open_study, pruner
from sweep.proposals.distributions import distributions
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.current_trainer import started_trainer
from sweep.requests.expressions import parse
from sweep.requests.plan import Plan, make_plan
from sweep.requests.resolvers import register_resolvers

T = TypeVar("T")

EVALUATIONS = 10
"""Evaluations of each trial."""


@dataclass(frozen=True)
class Row:
    """Medians over the measured trials, in milliseconds of wall time, without the first call of each kind.

    Args:
        trials: number of earlier trials of the study.
        open: the time to open the study with its trials.
        trial: all calls for one trial and its evaluations.
        cpu: CPU time of these calls.
    """

    sampler: str
    trials: int
    open: float
    ask: float
    annotate: float
    report: float
    tell: float
    trial: float
    cpu: float


def measure(
    samplers: Sequence[str] = ("random", "tpe"), sizes: Sequence[int] = (40, 500, 3000), asked: int = 20
) -> Iterator[Row]:
    """Yield a row for each size and sampler.

    Args:
        sizes: numbers of earlier trials, increasing.
        asked: number of measured trials for each row.
    """
    register_resolvers()
    with TemporaryDirectory() as folder:
        overrides = [f"study.storage=sqlite:///{folder}/optuna.db", "study.n_trials=1000000"]
        with started_trainer():
            plan = make_plan(Command(Composer(), parse(overrides), ()))
        for size in sizes:
            _fill(_study(plan), plan, size)
            for name in samplers:
                yield _row(plan, name, size, asked)


def _study(plan: Plan) -> Study:
    chosen = pruner(plan.pruner, plan.first.train.steps, plan.space.conditional)
    return open_study(plan.study, plan.name, plan.identity, chosen)[0]


def _fill(study: Study, plan: Plan, size: int) -> None:
    drawn = distributions(plan.space.branches[0])
    draws = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(size - len(study.get_trials(deepcopy=False))):
        params = draws.ask(drawn).params
        study.add_trial(create_trial(params=params, distributions=drawn, value=random()))


def _row(plan: Plan, name: str, size: int, asked: int) -> Row:
    times: dict[str, list[float]] = defaultdict(list)

    def timed(kind: str, call: Callable[[], T]) -> T:
        began = time.perf_counter()
        answer = call()
        times[kind].append((time.perf_counter() - began) * 1e3)
        return answer

    source = timed("open", lambda: OptunaProposer(_study(plan), plan.space, SamplerConfig(name), plan.study))

    def one() -> None:
        trial = timed("ask", source.ask)
        assert trial is not None
        timed("annotate", partial(source.annotate, trial, "mlflow_run_id", "0" * 32))
        for i in range(EVALUATIONS):
            evaluation = Evaluation(trial.number, i, {plan.study.metric: 0.5})
            timed("report", partial(source.report, trial, evaluation))
            source.should_prune(trial)
        timed("tell", partial(source.tell, trial, Result(trial.number, Status.COMPLETE, 0.5)))

    for _ in range(asked + 1):
        began = time.process_time()
        timed("trial", one)
        times["cpu"].append((time.process_time() - began) * 1e3)
    first = times.pop("open")[0]
    return Row(name, size, first, **{kind: median(taken[1:]) for kind, taken in times.items()})


def table(rows: Iterator[Row]) -> Iterator[str]:
    """Yield the lines of a Markdown table as they are measured."""
    columns = ["sampler", "trials", "open", "ask", "annotate", "report", "tell", "trial", "cpu"]
    yield "| " + " | ".join(columns) + " |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for row in rows:
        cells = [getattr(row, column) for column in columns]
        yield "| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    for line in table(measure()):
        print(line, flush=True)
