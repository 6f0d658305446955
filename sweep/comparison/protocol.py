"""The protocol of a comparison: equal tuning, one winner for each family, the same fresh seeds for all.

Every family (a schedule with the configuration that all families share) is tuned by the same number of trials on one
seed. The best by the validation metric at the end of the horizon is trained again on fresh seeds, the same for every
family, so that their results are paired. Only these final runs are evaluated on the test split.
"""

from collections.abc import Sequence
from dataclasses import replace

from sweep.core import FamilyRecord, FinalRecord, Status, StudyRecord, Trial, TrialRecord

TOLD = (Status.COMPLETE, Status.PRUNED, Status.DIVERGED)
"""The statuses of trials that count."""


def fresh_seeds(seed: int, count: int) -> range:
    """Return the seeds of the final runs, seed + 1 .. seed + count, where `seed` is that of the tuning."""
    return range(seed + 1, seed + count + 1)


def counted(study: StudyRecord, trials: int) -> list[TrialRecord]:
    """Return the first `trials` trials that ended; a study may have more."""
    return [trial for trial in study.trials if trial.status in TOLD][:trials]


def winner(study: StudyRecord, trials: int) -> TrialRecord | None:
    """Return the best of the trials that count; None if none of them ended as complete."""
    ranked = replace(study, trials=counted(study, trials)).ranked
    return ranked[0] if ranked else None


def final_trials(tuned: Trial, seeds: Sequence[int]) -> list[Trial]:
    """Return the final runs of a tuned trial, one for each seed, which is also their number."""
    return [replace(tuned, number=seed, seed=seed, config=tuned.config.with_seed(seed), final=True) for seed in seeds]


def judged_by(metric: str, tested: bool) -> str:
    """Return the metric that final runs are judged by: that of the trials, on the test split if there is one."""
    return metric.replace("val_", "test_") if tested else metric


def finals(family: FamilyRecord, trials: int, seeds: Sequence[int]) -> list[FinalRecord]:
    """Return the final runs of the family's winner that have ended, in the order of their seeds.

    Final runs of an earlier winner, from before the number of trials was increased, are left out.
    """
    best = winner(family.study, trials)
    if best is None:
        return []
    return [final for final in family.finals if final.trial == best.number and final.seed in seeds and final.run.status]
