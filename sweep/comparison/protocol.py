"""Who is compared with what: equal tuning, one winner each, the same fresh seeds for all.

Every family (a schedule, with what it shares with the others) is tuned by the same number of trials on one seed. The
best by the validation metric at the end of the horizon is trained again on fresh seeds, the same for every family, so
that their results come in pairs. Only these final runs are evaluated on the test split.
"""

from collections.abc import Sequence
from dataclasses import replace

from sweep.core import FamilyRecord, FinalRecord, Status, StudyRecord, Trial, TrialRecord

TOLD = (Status.COMPLETE, Status.PRUNED, Status.DIVERGED)
"""How a trial ends that counts."""


def fresh_seeds(seed: int, count: int) -> range:
    """seed + 1 .. seed + count: of the final runs, where the tuning had `seed`."""
    return range(seed + 1, seed + count + 1)


def counted(study: StudyRecord, trials: int) -> list[TrialRecord]:
    """The tuning trials that count: the first so many that ended; a study may have been given more."""
    return [trial for trial in study.trials if trial.status in TOLD][:trials]


def winner(study: StudyRecord, trials: int) -> TrialRecord | None:
    """The best of the trials that count; None where none of them ended as complete."""
    ranked = replace(study, trials=counted(study, trials)).ranked
    return ranked[0] if ranked else None


def final_trials(tuned: Trial, seeds: Sequence[int]) -> list[Trial]:
    """The final runs of a tuned trial, one for each seed; their number is their seed."""
    return [replace(tuned, number=seed, seed=seed, config=tuned.config.with_seed(seed), final=True) for seed in seeds]


def judged_by(metric: str, tested: bool) -> str:
    """What final runs are judged by: the metric of the trials, on the test split where there is one."""
    return metric.replace("val_", "test_") if tested else metric


def finals(family: FamilyRecord, trials: int, seeds: Sequence[int]) -> list[FinalRecord]:
    """The final runs of the family's winner that have ended, in the order of their seeds.

    Those of an earlier winner, which a larger number of trials has replaced, are not among them.
    """
    best = winner(family.study, trials)
    if best is None:
        return []
    return [final for final in family.finals if final.trial == best.number and final.seed in seeds and final.run.status]
