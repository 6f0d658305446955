"""Proposal n is a function of (space, seed, n, history): one suite over every sampler."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from sweep.cli.compose import Composer, register_resolvers
from sweep.cli.expressions import parse
from sweep.cli.main import Command
from sweep.cli.plan import Plan, make_plan
from sweep.core import Evaluation, Result, Status, Trial
from sweep.search import OptunaProposer, open_study, pruner

register_resolvers()

SAMPLERS = ["tpe", "random", "grid", "qmc", "cmaes", "gp"]
FINITE = ["schedule.decay_rate=0.5,0.7,0.9", "schedule.decay_steps=range(5,20,5)", "warmup.steps=0", "optimizer.lr=0.1"]
"""A space that a grid can cover: 9 points."""
HISTORY_FREE = ["random", "grid", "qmc"]


def plan(folder: Path, *overrides: str) -> Plan:
    common = [f"study.storage=sqlite:///{folder}/optuna.db", "train.steps=100", "model.hidden=[4]"]
    return make_plan(Command(Composer(), parse([*common, *overrides]), ()))


def proposer(made: Plan) -> OptunaProposer:
    """A proposer of a process that has just started."""
    study, _ = open_study(made.study, made.name, made.identity, pruner(made.pruner, 100, made.space.conditional))
    return OptunaProposer(study, made.space, made.sampler, made.study)


def value(trial: Trial) -> float:
    """A smooth objective, so that model-based samplers have something to learn."""
    lr = trial.config.optimizer.lr
    return float((np.log10(lr) + 1) ** 2 + trial.config.schedule.curve(100)[-1])


def finish(source: OptunaProposer, trial: Trial) -> None:
    source.report(trial, Evaluation(trial.number, 100, {"val_loss": value(trial)}))
    source.tell(trial, Result(trial.number, Status.COMPLETE, value(trial)))


def overrides(sampler: str) -> list[str]:
    return [f"sampler={sampler}", "study.n_trials=9", *(FINITE if sampler == "grid" else [])]


def table(source: OptunaProposer) -> list[tuple[int, str, Mapping[str, Any], float | None]]:
    return [(t.number, t.state.name, t.params, t.value) for t in source.study.get_trials()]


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_proposal_is_in_the_space_and_the_total_is_kept(tmp_path: Path, sampler: str) -> None:
    source = proposer(plan(tmp_path, *overrides(sampler)))
    numbers = []
    while (trial := source.ask()) is not None:
        numbers.append(trial.number)
        assert 0.5 <= trial.values["schedule.decay_rate"] <= 0.99
        assert trial.config.decay.decay_steps == trial.values["schedule.decay_steps"]
        finish(source, trial)
    assert numbers == list(range(9))


def test_a_process_for_each_trial_proposes_what_one_process_would(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = proposer(plan(tmp_path / "a", *overrides(sampler)))
    while (trial := whole.ask()) is not None:
        finish(whole, trial)
    made = plan(tmp_path / "b", *overrides(sampler))
    for _ in range(9):
        source = proposer(made)
        trial = source.ask()
        assert trial is not None
        finish(source, trial)
    assert source.ask() is None
    assert table(source) == table(whole)


def test_an_interrupted_trial_is_resumed_under_its_number_and_shifts_nothing(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = proposer(plan(tmp_path / "a", *overrides(sampler)))
    while (trial := whole.ask()) is not None:
        finish(whole, trial)
    crashed = proposer(plan(tmp_path / "b", *overrides(sampler)))
    for _ in range(4):
        trial = crashed.ask()
        assert trial is not None
        if trial.number < 3:
            finish(crashed, trial)
    crashed.report(trial, Evaluation(3, 20, {"val_loss": 1.0}))
    source = proposer(plan(tmp_path / "b", *overrides(sampler)))
    resumed = source.ask()
    assert resumed is not None
    assert (resumed.number, resumed.values) == (3, trial.values)
    source.report(resumed, Evaluation(3, 20, {"val_loss": 1.0}))
    finish(source, resumed)
    while (trial := source.ask()) is not None:
        finish(source, trial)
    assert table(source) == table(whole)


def test_a_trial_killed_between_two_of_its_draws_completes_the_same_proposal(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole, cut = (proposer(plan(tmp_path / name, *overrides(sampler))) for name in "ab")
    for _ in range(4):
        trial = whole.ask()
        assert trial is not None
        finish(whole, trial)
    for _ in range(3):
        trial = cut.ask()
        assert trial is not None
        finish(cut, trial)
    _ask_and_die(cut)
    source = proposer(plan(tmp_path / "b", *overrides(sampler)))
    trial = source.ask()
    assert trial is not None
    finish(source, trial)
    assert table(source) == table(whole)


def _ask_and_die(source: OptunaProposer) -> None:
    """Leave a trial that has drawn the first of its values only."""
    draws = 0
    suggest = optuna.Trial._suggest

    def once(*arguments: Any) -> Any:
        nonlocal draws
        draws += 1
        if draws > 1:
            raise KeyboardInterrupt
        return suggest(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.Trial, "_suggest", once)
        with pytest.raises(KeyboardInterrupt):
            source.ask()


@pytest.mark.parametrize("name", HISTORY_FREE)
def test_a_sampler_without_history_ignores_the_results(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, other = (proposer(plan(tmp_path / folder, *overrides(name))) for folder in "ab")
    drawn = []
    for source, sign in ((one, 1), (other, -1)):
        values = []
        while (trial := source.ask()) is not None:
            values.append(trial.values)
            source.tell(trial, Result(trial.number, Status.COMPLETE, sign * value(trial)))
        drawn.append(values)
    assert drawn[0] == drawn[1]


def test_a_model_based_sampler_learns_from_the_results(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    last = []
    for folder, sign in (("a", 1), ("b", -1)):
        options = ["sampler=tpe", "sampler.n_startup_trials=4", "study.n_trials=12"]
        source = proposer(plan(tmp_path / folder, *options))
        while (trial := source.ask()) is not None:
            source.tell(trial, Result(trial.number, Status.COMPLETE, sign * value(trial)))
            last.append(trial.values)
    assert last[:4] == last[12:16]
    assert last[11] != last[23]


def test_quasi_random_points_cover_every_stratum(tmp_path: Path) -> None:
    dimension = ["space=none", "optimizer.lr=interval(0.01,1.01)"]
    source = proposer(plan(tmp_path, "sampler=qmc", "study.n_trials=64", *dimension))
    strata = set()
    while (trial := source.ask()) is not None:
        strata.add(int((trial.config.optimizer.lr - 0.01) * 64))
        source.tell(trial, Result(trial.number, Status.COMPLETE, 0.0))
    assert len(strata) == 64


def test_a_grid_proposes_each_point_once_and_ends(tmp_path: Path) -> None:
    source = proposer(plan(tmp_path, "sampler=grid", "study.n_trials=100", *FINITE))
    assert source.total == 9
    points = []
    while (trial := source.ask()) is not None:
        points.append((trial.values["schedule.decay_rate"], trial.values["schedule.decay_steps"]))
        finish(source, trial)
    assert sorted(points) == [(r, d) for r in (0.5, 0.7, 0.9) for d in (5, 10, 15)]


def test_a_choice_among_groups_draws_the_parameters_of_its_option_alone(tmp_path: Path) -> None:
    choice = ["schedule=exponential,cosine", "optimizer=momentum,adam", "sampler=random", "study.n_trials=12"]
    source = proposer(plan(tmp_path, *choice))
    while (trial := source.ask()) is not None:
        finish(source, trial)
    seen = set()
    for stored in source.study.get_trials():
        schedule, optimizer = stored.params["schedule"], stored.params["optimizer"]
        seen.add(schedule)
        own = {"exponential": ["schedule.decay_rate", "schedule.decay_steps"], "cosine": ["schedule.end_factor"]}
        keys = [*own[schedule], "warmup.steps", "optimizer.lr"]
        prefix = f"{schedule}.{optimizer}."
        assert set(stored.params) == {"schedule", "optimizer", *(prefix + key for key in keys)}
    assert seen == {"exponential", "cosine"}


def test_divergence_is_told_as_pruned_with_a_violated_constraint(tmp_path: Path) -> None:
    source = proposer(plan(tmp_path, "study.n_trials=2"))
    for status in (Status.DIVERGED, Status.COMPLETE):
        trial = source.ask()
        assert trial is not None
        source.tell(trial, Result(trial.number, status, 0.5 if status is Status.COMPLETE else None))
    diverged, complete = source.study.get_trials()
    assert (diverged.state.name, diverged.value) == ("PRUNED", None)
    assert diverged.constraints == {"diverged": 1.0}
    assert (complete.state.name, complete.constraints) == ("COMPLETE", {"diverged": 0.0})
    assert source.ask() is None


def test_a_trial_that_crashed_too_often_is_given_up_and_listed(tmp_path: Path) -> None:
    options = ["study.max_retries=1", "study.n_trials=2"]
    made = plan(tmp_path, *options)
    for _ in range(2):
        trial = proposer(made).ask()
        assert trial is not None
        assert trial.number == 0
    source = proposer(made)
    trial = source.ask()
    assert trial is not None
    assert (trial.number, source.failed, source.told) == (1, [0], 0)


def test_a_trial_released_on_request_has_not_crashed(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.max_retries=1")
    for _ in range(5):
        source = proposer(made)
        trial = source.ask()
        assert trial is not None
        assert trial.number == 0
        source.release(trial)


def test_the_timeout_begins_no_further_trial(tmp_path: Path) -> None:
    assert proposer(plan(tmp_path, "study.timeout=1e-9")).ask() is None
