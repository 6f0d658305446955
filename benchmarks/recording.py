"""Measures the cost of recording: rows/s into a database and ms per trial, compared with MLflow's `log_batch`.

`python benchmarks/recording.py` prints a table; its exit status is 1 if the rows that are read back differ.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sweep.config import TrackingConfig
from sweep.core import Description, Evaluation, Result, Rows, Status, Trial
from sweep.schedules import Event
from sweep.tracking import MlflowRecorder, Store, StudyRun, open_store
from sweep.tracking.bulk import Change, Points, now_ms
from sweep.tracking.server import ClientWriter

TRIALS, UPDATES, EVALUATIONS, PARAMS = 200, 1000, 10, 50
LOG_BATCH_TRIALS = 20
"""Number of trials that are recorded with `log_batch`, which is slow."""
CHECKED_TRIALS = 5
"""Number of trials that are read back."""

Row = tuple[str, str, str]


def measure(trials: int = TRIALS) -> tuple[list[Row], bool]:
    """Return rows of (measure, value, comparison), and whether everything that is read back equals what was recorded.

    The trials are synthetic; their losses include a float's smallest and largest values, -0.0 and NaN.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(TrackingConfig(f"sqlite:///{folder}/mlflow.db", "benchmark"))
        store.client.create_run(store.experiment_id)  # the first run is slower, because MLflow initializes itself
        parent = StudyRun(store, "uid", "benchmark", "val_loss", minimize=True)
        parent.create({}, {})
        recorder = MlflowRecorder(store, describe, parent)
        opened, closed = zip(*(record(recorder, number) for number in range(trials)), strict=True)
        equal = all(
            same(store, recorder.run_id(trial(number)), number) for number in range(min(trials, CHECKED_TRIALS))
        )
        bulk, batched = (
            rows_a_second(store, store.writer.write, trials),
            rows_a_second(store, in_batches(store), LOG_BATCH_TRIALS),
        )
        size = Path(f"{folder}/mlflow.db").stat().st_size / trials / 2**20
    both = np.add(opened, closed)
    table = [
        ("rows into the database, 2000 at once", f"{bulk:,.0f} rows/s", f"{bulk / batched:.1f} × log_batch"),
        ("the same with MLflow's log_batch", f"{batched:,.0f} rows/s", "1"),
        (f"open a trial ({PARAMS} params, 2 files)", f"{np.median(opened):.1f} ms", worst(opened)),
        (f"close a trial ({UPDATES} updates, {EVALUATIONS} evaluations)", f"{np.median(closed):.1f} ms", worst(closed)),
        ("open and close", f"{np.median(both):.1f} ms", worst(both)),
        ("the database", f"{size:.2f} MiB a trial", ""),
        ("read back by MlflowClient", "equal" if equal else "DIFFERENT", f"{min(trials, CHECKED_TRIALS)} trials"),
    ]
    return table, equal


def worst(milliseconds: Sequence[float]) -> str:
    """Return the 95th percentile as a text."""
    return f"95 % within {np.quantile(milliseconds, 0.95):.1f} ms"


def trial(number: int) -> Trial:
    """Return a trial without a configuration."""
    return Trial(number, config=None, seed=0)  # type: ignore[arg-type]


def describe(trial: Trial, events: Sequence[Event] = ()) -> Description:
    """Return a description of typical size."""
    params = {f"group.key_{i}": f"value {i}" for i in range(PARAMS)}
    tags = {f"sweep.tag_{i}": "0123456789abcdef" for i in range(4)}
    return Description(f"{trial.number:03d}", params, tags, {"config.yaml": b"#" * 1500, "curve.svg": b" " * 12000})


def numbers(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return learning rates and losses of a trial, float64 [UPDATES] each; the last loss is NaN."""
    rng = np.random.default_rng(number)
    losses = rng.lognormal(size=UPDATES)
    losses[:3], losses[-1] = (5e-324, -0.0, 1.7e308), np.nan
    return 0.1 * 0.99 ** np.arange(UPDATES), losses


def record(recorder: MlflowRecorder, number: int) -> tuple[float, float]:
    """Record a trial; return the milliseconds to open and to close it."""
    rates, losses = numbers(number)
    began = time.perf_counter()
    recorder.open(trial(number))
    opened = time.perf_counter()
    time.sleep(0.01)  # imitates training: several rows within a millisecond are rare
    training = time.perf_counter()
    for part in np.split(np.arange(UPDATES), EVALUATIONS):
        recorder.record(Rows(number, int(part[0]), rates[part], losses[part]))
        step = int(part[-1]) + 1
        metrics = {"val_loss": 1 / step, "val_accuracy": 1 - 1 / step, "global_step": float(step)}
        recorder.evaluate(Evaluation(number, step, metrics))
    recorder.close(trial(number), Result(number, Status.COMPLETE, 1 / UPDATES))
    return (opened - began) * 1e3, (time.perf_counter() - training) * 1e3


def same(store: Store, run_id: str, number: int) -> bool:
    """Return whether MLflow's client reads what was recorded for a trial: every step once, every number exactly."""
    for key, column in zip(("lr", "loss"), numbers(number), strict=True):
        history = sorted(store.client.get_metric_history(run_id, key), key=lambda metric: int(metric.step))
        if [metric.step for metric in history] != list(range(UPDATES)):
            return False
        if not np.array_equal([metric.value for metric in history], column, equal_nan=True):
            return False
    return True


def rows_a_second(store: Store, write: Callable[[Sequence[Change]], None], runs: int) -> float:
    """Return the median rows/s when the rows of whole trials are written to separate runs."""
    steps, (rates, losses) = np.arange(UPDATES), numbers(0)
    rows_a_second = []
    for _ in range(runs):
        run_id = store.writer.create(store.experiment_id, "rows", {}, {})
        times = now_ms() + steps // 100  # timestamps of a training of ten milliseconds
        points = [Points("lr", steps, times, rates), Points("loss", steps, times, losses)]
        began = time.perf_counter()
        write([Change(run_id, points)])
        rows_a_second.append(2 * UPDATES / (time.perf_counter() - began))
    return float(np.median(rows_a_second))


def in_batches(store: Store) -> Callable[[Sequence[Change]], None]:
    """Return a function that writes rows with `log_batch`, in the largest batches that it accepts."""
    return ClientWriter(store.client).write


def main() -> int:
    table, equal = measure()
    print("| recording | measured | |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in table), sep="\n")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
