"""Records as a comparison and a search leave them behind, made up."""

from collections.abc import Sequence

import numpy as np

from sweep.core import (
    ComparisonRecord,
    FamilyRecord,
    FinalRecord,
    Measurement,
    Rows,
    Status,
    StudyRecord,
    TrialRecord,
)

STEPS, EVERY = 300, 30
SCHEDULES = ("cosine", "linear", "exponential", "natural_exponential", "constant")
FLOOR = {"cosine": 0.20, "linear": 0.21, "exponential": 0.24, "natural_exponential": 0.26, "constant": 0.40}
"""The loss that a family's best trial ends with."""
TARGET = 0.6
TIMED = {"exponential": (0.3, 0.99), "natural_exponential": (0.1, 2.0)}
"""The decay_rate of those that have one."""
DIVERGED_TRIAL, PRUNED_TRIAL = 3, 5
DIVERGED_SEED = 4
"""On which `constant` diverges."""


def comparison_record(
    datasets: Sequence[str] = ("digits",), schedules: Sequence[str] = SCHEDULES, seeds: int = 10, trials: int = 24
) -> ComparisonRecord:
    """Every schedule tuned on every data set, its winner trained on each seed; `constant` diverges on one seed."""
    return ComparisonRecord(
        name="which-schedule",
        run_id="comparison",
        experiment_id="1",
        metric="val_loss",
        minimize=True,
        trials=trials,
        seeds=range(1, seeds + 1),
        confidence=0.95,
        target=TARGET,
        test="t",
        families=[family(dataset, name, seeds, trials) for dataset in datasets for name in schedules],
    )


def family(dataset: str, schedule: str, seeds: int = 10, trials: int = 24) -> FamilyRecord:
    study = study_record(f"which-schedule-{dataset}-{schedule}", (schedule,), trials, dataset)
    finals = [final(study, study.ranked[0], schedule, seed) for seed in range(1, seeds + 1)] if study.ranked else []
    return FamilyRecord(dataset, schedule, study, finals)


def without_winner(dataset: str, schedule: str) -> FamilyRecord:
    """A family whose search ended with no complete trial."""
    study = study_record(f"which-schedule-{dataset}-{schedule}", (schedule,), trials=0, dataset=dataset)
    lost = [trial(study.name, schedule, number, Status.DIVERGED, np.random.default_rng(number)) for number in range(3)]
    return FamilyRecord(dataset, schedule, StudyRecord(**{**vars(study), "trials": lost}), [])


def study_record(
    name: str = "which", schedules: Sequence[str] = ("exponential",), trials: int = 24, dataset: str = "digits"
) -> StudyRecord:
    """A search over the keys of one schedule, or over several schedules in turn, each with its own keys."""
    rng = np.random.default_rng(list(name.encode()))
    statuses = {DIVERGED_TRIAL: Status.DIVERGED, PRUNED_TRIAL: Status.PRUNED}
    ended = [statuses.get(number, Status.COMPLETE) for number in range(trials)]
    return StudyRecord(
        name=name,
        run_id=f"{name}-study",
        experiment_id="1",
        metric="val_loss",
        minimize=True,
        searched=[*(["schedule"] if len(schedules) > 1 else []), *_keys(schedules)],
        command=f"dataset={dataset}" + (f" schedule={schedules[0]}" if len(schedules) == 1 else ""),
        trials=[trial(name, schedules[i % len(schedules)], i, status, rng) for i, status in enumerate(ended)],
    )


def _keys(schedules: Sequence[str]) -> list[str]:
    timed = ["schedule.decay_rate", "schedule.decay_steps"] if set(schedules) & set(TIMED) else []
    return [*timed, "warmup.steps", "optimizer.lr"]


def trial(study: str, schedule: str, number: int, status: Status, rng: np.random.Generator) -> TrialRecord:
    """A trial with drawn parameters; its loss is the lower the nearer its rate is to 0.1."""
    lr = 10 ** rng.uniform(-3, 0)
    params = {"schedule.name": schedule, "optimizer.lr": repr(lr), "train.steps": str(STEPS), "warmup.steps": "20"}
    if schedule in TIMED:
        params["schedule.decay_rate"] = repr(rng.uniform(*TIMED[schedule]))
        params["schedule.decay_steps"] = str(int(10 ** rng.uniform(0.8, 2.2)))
    loss = FLOOR[schedule] + 0.3 * np.log10(lr / 0.1) ** 2 + 0.02 * rng.random()
    metrics = {"val_loss": loss, "val_accuracy": 1 - loss / 3} if status is Status.COMPLETE else {}
    name = f"{number:03d} {schedule} lr={lr:.4g}"
    return TrialRecord(number, f"{study}-{number}", name, status, params, metrics, half_life=40.0, stalled_at=None)


def final(study: StudyRecord, winner: TrialRecord, schedule: str, seed: int) -> FinalRecord:
    """A final run of the winner, evaluated every EVERY updates."""
    rng = np.random.default_rng([seed, *study.name.encode()])
    end = FLOOR[schedule] + 0.015 * rng.standard_normal()
    diverged = schedule == "constant" and seed == DIVERGED_SEED
    steps = range(EVERY, (STEPS // 2 if diverged else STEPS) + 1, EVERY)
    measured = [
        Measurement(s, s / 50, {"val_loss": float(end + 2 * np.exp(-(5 - 5 * end) * s / STEPS))}) for s in steps
    ]
    metrics = {} if diverged else {"val_loss": measured[-1].metrics["val_loss"], "test_loss": end + 0.01}
    run_id, status = f"{study.name}-final-{seed}", Status.DIVERGED if diverged else Status.COMPLETE
    run = TrialRecord(seed, run_id, f"{schedule} seed={seed}", status, winner.params, metrics, None, None)
    return FinalRecord(winner.number or 0, seed, run, measured)


def rows(run: TrialRecord, seed: int = 0, steps: int = STEPS) -> Rows:
    """The curves of one run: a warmup, then what its schedule does; a noisy loss."""
    t, rng = np.arange(steps) / steps, np.random.default_rng(seed)
    factor = {
        "cosine": (1 + np.cos(np.pi * t)) / 2,
        "linear": 1 - t,
        "exponential": 0.5 ** (8 * t),
        "natural_exponential": np.exp(-3 * t),
        "constant": np.ones(steps),
    }[run.params["schedule.name"]]
    lr = float(run.params["optimizer.lr"]) * factor * np.minimum(1, (np.arange(steps) + 1) / 20)
    loss = (FLOOR[run.params["schedule.name"]] + 2 * np.exp(-6 * t)) * rng.lognormal(0, 0.15, steps)
    if run.status is Status.DIVERGED:
        half = steps // 2
        return Rows(-1, np.arange(half), lr[:half], np.append(loss[: half - 1], np.inf))
    return Rows(-1, np.arange(steps), lr, loss)


def rows_of_finals(record: ComparisonRecord, steps: int = STEPS) -> dict[str, list[Rows]]:
    return {f.run.run_id: [rows(f.run, f.seed, steps)] for of in record.families for f in of.finals}


def rows_of_best(study: StudyRecord) -> dict[str, list[Rows]]:
    return {best.run_id: [rows(best, best.number or 0)] for best in study.ranked[:10]}


def importances(record: ComparisonRecord) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """Of every family: the later a key stands among the searched, the more it matters."""
    return {(of.dataset, of.schedule): {"": shares(of.study.searched)} for of in record.families}


def shares(keys: Sequence[str]) -> dict[str, float]:
    """Shares of 1 that rise from the first key to the last."""
    return {key: 2 * i / (len(keys) * (len(keys) + 1)) for i, key in enumerate(keys, 1)}
