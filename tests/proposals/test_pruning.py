"""Pruning: within one branch, at equal steps, not before warmup has ended."""

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial

from sweep.core import Evaluation, Result, Status, Trial
from sweep.proposals import OptunaProposer
from sweep.proposals.trial_tables import Stored
from sweep.schedules import Event
from tests.proposals.test_proposals import plan, proposer

PRUNERS = ["median", "percentile", "asha", "hyperband"]


def train(source: OptunaProposer, losses: list[float], steps: list[int]) -> tuple[Trial, int | None]:
    """Report losses at steps; the trial and the step at which it was pruned."""
    trial = source.ask()
    assert trial is not None
    for step, loss in zip(steps, losses, strict=True):
        source.report(trial, Evaluation(trial.number, step, {"val_loss": loss}))
        if source.should_prune(trial):
            source.tell(trial, Result(trial.number, Status.PRUNED))
            return trial, step
    source.tell(trial, Result(trial.number, Status.COMPLETE, losses[-1]))
    return trial, None


STEPS = [20, 40, 60, 80, 100]
OPTIONS = {
    "median": ["pruner.n_startup_trials=2"],
    "percentile": ["pruner.n_startup_trials=2"],
    "asha": ["pruner.min_resource=20", "pruner.reduction_factor=2"],
    "hyperband": ["pruner.min_resource=20", "pruner.reduction_factor=2"],
}


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_stops_a_hopeless_trial_and_keeps_a_good_one(tmp_path: Path, name: str) -> None:
    source = proposer(plan(tmp_path, f"pruner={name}", *OPTIONS[name], "warmup=none", "sampler=random"))
    for i in range(12):
        train(source, [1.0 - 0.01 * i] * 5, STEPS)
    assert train(source, [0.1] * 5, STEPS)[1] is None
    hopeless = [train(source, [50.0 + i] * 5, STEPS)[1] for i in range(4)]
    assert any(step is not None and step < 100 for step in hopeless)


def test_nothing_is_pruned_before_its_warmup_has_ended(tmp_path: Path) -> None:
    options = ["pruner=median", "pruner.n_startup_trials=2", "warmup.steps=40", "sampler=random"]
    source = proposer(plan(tmp_path, *options))
    for _ in range(3):
        train(source, [1.0] * 5, STEPS)
    assert train(source, [9.0] * 5, STEPS)[1] == 60


@pytest.mark.parametrize(
    ("schedule", "pruned_at"),
    [
        (["schedule=one_cycle", "schedule.pct_start=0.5", "schedule.total_steps=100"], 60),  # the peak is at 49
        (["schedule=noam", "schedule.noam_steps=70"], 80),
        (["schedule=constant", "warmup=until_error", "train.eval_every=20"], None),
    ],
)
def test_nothing_is_pruned_while_its_rate_still_rises(
    tmp_path: Path, schedule: list[str], pruned_at: int | None
) -> None:
    source = proposer(plan(tmp_path, *schedule, "pruner=median", "pruner.n_startup_trials=2", "sampler=random"))
    for _ in range(3):
        train(source, [1.0] * 5, STEPS)
    assert train(source, [9.0] * 5, STEPS)[1] == pruned_at


def test_after_its_event_a_warmup_has_ended(tmp_path: Path) -> None:
    options = [
        "schedule=constant",
        "warmup=until_error",
        "train.eval_every=20",
        "pruner=median",
        "pruner.n_startup_trials=2",
    ]
    source = proposer(plan(tmp_path, *options, "sampler=random"))
    for _ in range(3):
        train(source, [1.0] * 5, STEPS)
    trial = source.ask()
    assert trial is not None
    for step in STEPS[:3]:
        source.report(trial, Evaluation(trial.number, step, {"val_loss": 9.0}))
        happened = [Event(40, "warmup_end")] if step >= 40 else []
        assert source.should_prune(trial, happened) is (step == 60)


@pytest.mark.parametrize("killed", ["before the decision is written", "after it"])
@pytest.mark.parametrize("name", PRUNERS)
def test_a_trial_killed_while_it_was_pruned_is_pruned_at_the_same_step(
    tmp_path: Path, name: str, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path, f"pruner={name}", *OPTIONS[name], "warmup=none", "sampler=random")
    source = proposer(made)
    for i in range(4):
        train(source, [1.0 - 0.01 * i] * 5, STEPS)
    if killed != "after it":
        tables = source._cached._tables
        monkeypatch.setattr(tables, "update", _dying_once_decided(tables.update))
    trial, step = _pruned_but_not_told(source)
    again = proposer(made)
    assert again.interrupted == [trial.number]
    assert train(again, [50.0] * 5, STEPS) == (trial, step)


def _dying_once_decided(update: Callable[[int, Stored, FrozenTrial], None]) -> Callable[..., None]:
    def update_or_die(trial_id: int, stored: Stored, trial: FrozenTrial) -> None:
        if "sweep.pruned" in trial.user_attrs and not trial.state.is_finished():
            raise KeyboardInterrupt
        update(trial_id, stored, trial)

    return update_or_die


def _pruned_but_not_told(source: OptunaProposer) -> tuple[Trial, int]:
    """The first hopeless trial that is to be pruned, and the step; its process was killed there."""
    while (trial := source.ask()) is not None:
        for step in STEPS:
            source.report(trial, Evaluation(trial.number, step, {"val_loss": 50.0}))
            try:
                pruned = source.should_prune(trial)
            except KeyboardInterrupt:
                pruned = True
            if pruned:
                return trial, step
        source.tell(trial, Result(trial.number, Status.COMPLETE, 50.0))
    raise AssertionError("no trial was pruned")


def test_trials_are_compared_within_their_branch(tmp_path: Path) -> None:
    options = ["schedule=exponential,cosine", "pruner=median", "pruner.n_startup_trials=2", "warmup=none"]
    source = proposer(plan(tmp_path, *options, "sampler=random", "study.n_trials=60"))
    pruned = {"exponential": 0, "cosine": 0}
    for _ in range(40):
        trial = source.ask()
        assert trial is not None
        schedule = trial.values["schedule"]
        loss = {"exponential": 1.0, "cosine": 100.0}[schedule]
        source.report(trial, Evaluation(trial.number, 20, {"val_loss": loss}))
        pruned[schedule] += source.should_prune(trial)
        source.tell(trial, Result(trial.number, Status.COMPLETE, loss))
    assert pruned == {"exponential": 0, "cosine": 0}
