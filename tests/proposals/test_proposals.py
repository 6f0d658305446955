"""Proposal n is a function of (space, seed, n, history): one suite over every sampler."""

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from sweep.core import Evaluation, Failure, Result, Status, Trial
from sweep.database import LockRetry
from sweep.errors import HopelessError, InvalidValueError, UnavailableError
from sweep.proposals import OptunaProposer, history_free, open_study, pruner, samplers
from sweep.proposals.proposer import MOST_FAILURES
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.plan import Plan, make_plan
from sweep.requests.resolvers import register_resolvers

register_resolvers()

SAMPLERS = ["tpe", "random", "grid", "qmc", "cmaes", "gp"]
FINITE = ["schedule.decay_rate=0.5,0.7,0.9", "schedule.decay_steps=range(5,20,5)", "warmup.steps=0", "optimizer.lr=0.1"]
"""A space that a grid can cover: 9 points."""
HISTORY_FREE = ["random", "grid", "qmc"]
CHOICE = ["schedule=exponential,cosine", "optimizer=momentum,adam"]


def plan(folder: Path, *overrides: str) -> Plan:
    """Return the plan of a search whose study is in a folder."""
    made = composed(*overrides)
    return replace(made, study=replace(made.study, storage=f"sqlite:///{folder}/optuna.db"))


@cache
def composed(*overrides: str) -> Plan:
    hidden = [] if any(text.startswith("model.hidden=") for text in overrides) else ["model.hidden=[4]"]
    return make_plan(Command(Composer(), parse(["train.steps=100", *hidden, *overrides]), ()))


def proposer(made: Plan) -> OptunaProposer:
    """A proposer of a process that has just started."""
    study, _ = open_study(made.study, made.name, made.identity, pruner(made.pruner, 100, made.space.conditional))
    return OptunaProposer(study, made.space, made.sampler, made.study)


def spoken(made: Plan) -> tuple[OptunaProposer, list[str]]:
    """A proposer of a process that has just started, and the lines that it says."""
    study, _ = open_study(made.study, made.name, made.identity, pruner(made.pruner, 100, made.space.conditional))
    said: list[str] = []
    patiently = LockRetry("study.storage", said.append)
    return OptunaProposer(study, made.space, made.sampler, made.study, patiently), said


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
    source = proposer(plan(tmp_path, *CHOICE, "sampler=random", "study.n_trials=12"))
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


def begin(source: OptunaProposer) -> Trial:
    """The next trial that is not given up, whose training begins."""
    while (trial := source.ask()) is not None:
        if not source.give_up(trial):
            source.begun(trial)
            return trial
    raise AssertionError("there is none")


def test_a_trial_that_crashed_too_often_is_given_up_and_listed(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.max_retries=1", "study.n_trials=2")
    for _ in range(2):
        assert begin(proposer(made)).number == 0
    source = proposer(made)
    trial = begin(source)
    assert (trial.number, source.failed, source.told) == (1, [0], 0)
    later = proposer(made)
    assert (later.failed, later.interrupted) == ([0], [1])


def test_a_trial_that_crashed_after_it_was_recorded_can_be_told_however_often(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.max_retries=0")
    for _ in range(3):
        source = proposer(made)
        trial = source.ask()
        assert trial is not None
    finish(source, trial)
    assert [t.state.name for t in source.study.get_trials()] == ["COMPLETE"]


def fail(source: OptunaProposer, trial: Trial) -> None:
    source.tell(trial, Result(trial.number, Status.FAILED, failure=Failure(f"reason {trial.number}")))


def test_a_failed_trial_is_told_with_its_reason_and_does_not_count(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.n_trials=2", "study.max_retries=3")
    source = proposer(made)
    fail(source, begin(source))
    later = proposer(made)
    assert (later.failed, later.told, later.total, later.interrupted) == ([0], 0, 2, [])
    for number in (1, 2):  # it is not tried again
        trial = begin(later)
        assert trial.number == number
        finish(later, trial)
    assert later.ask() is None
    stored = later.study.get_trials()[0]
    assert (stored.state.name, stored.user_attrs["sweep.reason"]) == ("FAIL", "reason 0")


def test_values_that_cannot_go_together_are_a_failed_trial(tmp_path: Path) -> None:
    """Neither both low ends nor both high ends are refused."""
    searched = ["schedule=tanh", "schedule.lb=-7,2", "schedule.ub=-6,3", "space=none", "sampler=grid"]
    made, said = plan(tmp_path, *searched), list[str]()
    study, _ = open_study(made.study, made.name, made.identity, pruner(made.pruner, 100, made.space.conditional))
    source = OptunaProposer(study, made.space, made.sampler, made.study, LockRetry("the study", said.append))
    trials = ask_all(source, 4)
    assert len(trials) == 3
    for trial in trials:
        finish(source, trial)
    (failed,) = [t for t in source.study.get_trials() if t.state.name == "FAIL"]
    rule = "schedule.lb=2: must be below ub, which is -6"
    assert (source.told, source.total, failed.user_attrs["sweep.reason"]) == (3, 3, rule)
    assert said == [f"trial {failed.number:3d}  failed\n  {rule}"]
    assert proposer(made).ask() is None


def test_a_grid_ends_when_every_point_was_tried(tmp_path: Path) -> None:
    made = plan(tmp_path, "sampler=grid", "study.n_trials=100", *FINITE)
    points = []
    for _ in range(3):  # in three commands
        source = proposer(made)
        for trial in ask_all(source, 4):
            points.append(tuple(trial.values.items()))
            (fail if trial.number in (1, 5) else finish)(source, trial)
    assert (len(points), len(set(points))) == (9, 9)
    assert (source.told, source.total, source.failed) == (7, 7, [1, 5])


def test_failed_points_of_a_grid_are_replaced_up_to_the_total(tmp_path: Path) -> None:
    source = proposer(plan(tmp_path, "sampler=grid", "study.n_trials=6", *FINITE))
    while (trial := source.ask()) is not None:
        (fail if trial.number < 2 else finish)(source, trial)
    assert (source.told, source.failed) == (6, [0, 1])


def test_a_search_whose_trials_all_fail_ends_with_the_last_reason(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.max_retries=0")
    for start in (0, MOST_FAILURES):  # the same command tries as many again
        source = proposer(made)
        for _ in range(MOST_FAILURES):
            fail(source, begin(source))
        last = start + MOST_FAILURES - 1
        for _ in range(2):
            with pytest.raises(
                HopelessError, match=f"the last {MOST_FAILURES} trials .* trial {last} with reason {last}"
            ):
                source.ask()
        assert source.failed == list(range(last + 1))


@pytest.mark.parametrize("status", [Status.COMPLETE, Status.PRUNED, Status.DIVERGED])
def test_one_trial_that_could_be_trained_lets_a_search_continue(tmp_path: Path, status: Status) -> None:
    source = proposer(plan(tmp_path))
    for _ in range(2):
        for _ in range(MOST_FAILURES - 1):
            fail(source, begin(source))
        trial = begin(source)
        source.tell(trial, Result(trial.number, status, 0.5 if status is Status.COMPLETE else None))


def test_live_trials_are_waited_for_before_a_search_ends_by_failures(tmp_path: Path) -> None:
    source = proposer(plan(tmp_path, f"study.n_trials={MOST_FAILURES + 2}"))
    live = ask_all(source, MOST_FAILURES + 1)
    for trial in live[:-1]:
        fail(source, trial)
    assert source.ask() is None
    finish(source, live[-1])
    assert begin(source).number == MOST_FAILURES + 1


def test_a_trial_that_was_asked_and_not_begun_has_no_attempt(tmp_path: Path) -> None:
    """A crash while it waits for its turn is no fault of it."""
    made = plan(tmp_path, "study.max_retries=0")
    for _ in range(3):
        source = proposer(made)
        trial = source.ask()
        assert trial is not None
        assert (trial.number, source.give_up(trial)) == (0, False)
    source.release(trial)
    (stored,) = source.study.get_trials()
    assert stored.user_attrs.get("sweep.attempts", 0) == 0
    assert begin(source).number == 0
    assert begin(proposer(made)).number == 1


def test_trials_that_crashed_too_often_before_are_no_sign_for_the_next(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.max_retries=0")
    source = proposer(made)
    for trial in ask_all(source, 4):
        source.begun(trial)
    assert begin(proposer(made)).number == 4


def test_a_trial_released_on_request_has_not_crashed(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.max_retries=1")
    for _ in range(5):
        source = proposer(made)
        trial = begin(source)
        assert trial.number == 0
        source.release(trial)


def test_a_trial_that_goes_on_from_checkpoints_may_crash_as_often_as_it_likes(tmp_path: Path) -> None:
    """Each attempt begins where the one before had come to: none was in vain."""
    made = plan(tmp_path, "study.max_retries=1", "study.n_trials=2")
    for _ in range(5):
        source = proposer(made)
        trial = begin(source)
        assert trial.number == 0
        source.kept(trial)
        source.kept(trial)
    (stored,) = proposer(made).study.get_trials()
    assert stored.user_attrs["sweep.attempts"] == 1
    for number in (0, 1):  # what was in vain counts again
        assert begin(proposer(made)).number == number


def test_what_was_kept_and_released_on_request_has_not_crashed(tmp_path: Path) -> None:
    made = plan(tmp_path, "study.max_retries=1")
    for _ in range(5):
        source = proposer(made)
        trial = begin(source)
        source.kept(trial)
        source.release(trial)
    (stored,) = proposer(made).study.get_trials()
    assert (trial.number, stored.user_attrs["sweep.attempts"]) == (0, 0)


def test_the_evaluations_of_a_checkpoint_are_reported_again_without_another_entry(tmp_path: Path) -> None:
    made = plan(tmp_path, "sampler=random", "pruner=median")
    evaluations = [Evaluation(0, step, {"val_loss": 1.0 / step}) for step in (20, 40, 60)]
    source = proposer(made)
    trial = source.ask()
    assert trial is not None
    for evaluation in evaluations[:2]:
        source.report(trial, evaluation)
    later = proposer(made)
    trial = later.ask()
    assert trial is not None
    for evaluation in evaluations:
        later.report(trial, evaluation)
    assert later.interrupted == []
    assert later.study.get_trials()[0].intermediate_values == {20: 1 / 20, 40: 1 / 40, 60: 1 / 60}


def ask_all(source: OptunaProposer, most: int) -> list[Trial]:
    """The trials that can be live at once, `most` of them at most."""
    return list(islice(iter(source.ask, None), most))


def test_as_many_trials_are_live_at_once_as_the_total_lacks(tmp_path: Path, sampler: str) -> None:
    source = proposer(plan(tmp_path, *overrides(sampler)))
    live = ask_all(source, 16)
    assert [trial.number for trial in live] == list(range(9))
    assert source.told == 0
    for trial in reversed(live):
        finish(source, trial)
        assert source.ask() is None
    assert (source.told, proposer(plan(tmp_path, *overrides(sampler))).told) == (9, 9)
    if sampler == "grid":
        assert len({tuple(trial.values.items()) for trial in live}) == 9


@pytest.mark.parametrize("crashed", [False, True])
def test_interrupted_while_many_were_live_they_are_resumed_in_their_order(
    tmp_path: Path, sampler: str, crashed: bool
) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole, first = (proposer(plan(tmp_path / name, *overrides(sampler))) for name in "ab")
    live = ask_all(first, 6)
    for number in (4, 1):
        finish(first, live[number])
    for trial in reversed(live):
        if trial.number not in (4, 1):
            first.report(trial, Evaluation(trial.number, 20, {"val_loss": 1.0}))
            if not crashed:
                first.release(trial)
    source = proposer(plan(tmp_path / "b", *overrides(sampler)))
    resumed = ask_all(source, 4)
    assert [(trial.number, trial.values) for trial in resumed] == [(n, live[n].values) for n in (0, 2, 3, 5)]
    rest = ask_all(source, 16)
    assert [trial.number for trial in rest] == [6, 7, 8]
    for trial in (*rest, *resumed):
        source.report(trial, Evaluation(trial.number, 20, {"val_loss": 1.0}))
        finish(source, trial)
    stored = source.study.get_trials()
    assert [(t.number, t.state.name) for t in stored] == [(n, "COMPLETE") for n in range(9)]
    assert all(set(t.intermediate_values) == {20, 100} for t in stored if t.number not in (4, 1))
    if sampler in HISTORY_FREE:
        while (trial := whole.ask()) is not None:
            finish(whole, trial)
        assert table(source) == table(whole)


def test_trials_given_back_are_asked_for_again_in_their_order(tmp_path: Path) -> None:
    source = proposer(plan(tmp_path, "sampler=random", "study.n_trials=6"))
    live = ask_all(source, 4)
    for number in (2, 0, 3):
        source.release(live[number])
    again = ask_all(source, 16)
    assert [trial.number for trial in again] == [0, 2, 3, 4, 5]
    assert [trial.values for trial in again[:3]] == [live[n].values for n in (0, 2, 3)]


def test_the_timeout_begins_no_trial_beside_those_that_are_live(tmp_path: Path) -> None:
    source = proposer(plan(tmp_path, "sampler=random", "study.timeout=1000"))
    trial = source.ask()
    assert trial is not None
    source._began -= 1000
    assert source.ask() is None
    finish(source, trial)
    assert source.told == 1


def test_tpe_keeps_away_from_what_is_live(tmp_path: Path) -> None:
    """Asked at once, its proposals are as different as those of draws: a live trial counts as a bad one."""
    options = ["sampler.n_startup_trials=4", "study.n_trials=30", "space=none", "optimizer.lr=interval(0.01,1.01)"]
    source = proposer(plan(tmp_path, *options))
    for _ in range(10):
        trial = source.ask()
        assert trial is not None
        finish(source, trial)
    rates = sorted(trial.config.optimizer.lr for trial in ask_all(source, 16))
    assert len(rates) == 16
    assert min(np.diff(rates)) > 0
    running = [t.params for t in source.study.get_trials() if t.state.name == "RUNNING"]
    assert sorted(params["optimizer.lr"] for params in running) == rates


@pytest.mark.parametrize("name", SAMPLERS)
def test_who_does_not_learn_may_be_asked_ahead(tmp_path: Path, name: str) -> None:
    made = plan(tmp_path, *overrides(name))
    assert proposer(made).history_free is history_free(made.sampler) is (name in HISTORY_FREE)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["sampler.n_startup_trials=0"],
        ["pruner=hyperband", "sampler.n_startup_trials=0"],
        ["warmup.steps=5"],
        CHOICE,
    ],
)
def test_tpe_proposes_what_optunas_own_would(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for folder in "ab":
        (tmp_path / folder).mkdir()
        source = proposer(plan(tmp_path / folder, "sampler.n_startup_trials=3", "study.n_trials=16", *options))
        live = ask_all(source, 2)
        for trial in live:
            source.tell(trial, Result(trial.number, Status.DIVERGED))
        while (trial := source.ask()) is not None:
            finish(source, trial)
        tables.append(table(source))
        monkeypatch.setattr(samplers, "_TPE", optuna.samplers.TPESampler)
    assert tables[0] == tables[1]


def test_what_is_in_memory_is_in_the_database(tmp_path: Path) -> None:
    """Of trials of every state, whatever they note: a reader sees what the samplers see."""
    source = proposer(plan(tmp_path, "sampler=tpe", "sampler.n_startup_trials=2", "study.n_trials=9", *CHOICE))
    for number, trial in enumerate(ask_all(source, 5)):
        source.annotate(trial, "mlflow_run_id", f"run{number}")
        if number < 4:
            source.report(trial, Evaluation(number, 20, {"val_loss": 0.1 * number}))
            source.tell(trial, Result(number, (Status.PRUNED, Status.DIVERGED)[number % 2]))
    source.release(trial)
    trial = source.ask()
    assert trial is not None
    source.annotate(trial, "mlflow_run_id", "another")
    source.begun(trial)
    again = source.ask()
    assert again is not None
    finish(source, again)
    kept = optuna.load_study(study_name=source.study.study_name, storage=f"sqlite:///{tmp_path}/optuna.db").get_trials()
    assert [_contents(t) for t in kept] == [_contents(t) for t in source._cached.study.get_trials()]
    assert [t.state.name for t in kept] == [*["PRUNED"] * 4, "RUNNING", "COMPLETE"]


def _contents(trial: optuna.trial.FrozenTrial) -> tuple[Any, ...]:
    noted = trial.user_attrs, trial.system_attrs, trial.intermediate_values
    return trial.number, trial.state, trial.values, trial.params, trial.distributions, *noted


def test_without_a_pruner_an_evaluation_is_written_when_its_trial_ends(tmp_path: Path) -> None:
    for name, written in (("none", {}), ("median", {20: 1.0})):
        source = proposer(plan(tmp_path, "sampler=random", f"pruner={name}"))
        trial = source.ask()
        assert trial is not None
        source.report(trial, Evaluation(0, 20, {"val_loss": 1.0}))
        assert source.study.get_trials()[0].intermediate_values == written
        finish(source, trial)
        assert set(source.study.get_trials()[0].intermediate_values) == {20, 100}


def test_a_trial_that_another_program_has_queued_is_asked_for(tmp_path: Path) -> None:
    made = plan(tmp_path, "sampler=random", "study.n_trials=2")
    proposer(made).study.enqueue_trial({"optimizer.lr": 0.125})
    source = proposer(made)
    for trial in ask_all(source, 3):
        assert (trial.config.optimizer.lr == 0.125) is (trial.number == 0)
        finish(source, trial)
    stored = source.study.get_trials()
    assert [(t.state.name, len(t.params)) for t in stored] == [("COMPLETE", 4)] * 2


QUEUE = [
    "sampler=random",
    "study.n_trials=2",
    "space=none",
    "warmup=none",
    "optimizer.lr=interval(0.25,1)",
    "schedule.decay_steps=range(5,20,5)",
    "optimizer=nesterov",
    "optimizer.nesterov=true,false",
    "model.hidden=[4],[8]",
]
"""A search of a float, an integer with steps, and two choices."""


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"optimizer.lr": 0.25},
        {"optimizer.lr": 1},
        {"optimizer.lr": 1.0, "schedule.decay_steps": 15, "optimizer.nesterov": False, "model.hidden": "[8]"},
        {"schedule.decay_steps": 5.0},
    ],
)
def test_a_queued_trial_may_give_some_values_or_all_ends_included(tmp_path: Path, params: dict[str, Any]) -> None:
    made = plan(tmp_path, *QUEUE)
    proposer(made).study.enqueue_trial(params)
    source = proposer(made)
    trial = source.ask()
    assert trial is not None
    assert trial.number == 0
    drawn = source.study.get_trials()[0].params
    assert drawn.keys() == {"optimizer.lr", "schedule.decay_steps", "optimizer.nesterov", "model.hidden"}
    assert params.items() <= drawn.items()
    finish(source, trial)
    later = proposer(made)
    finish(later, ask_all(later, 1)[0])


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"optimizer.lr": 0.2}, "optimizer.lr=0.2: is not in [0.25, 1.0]"),
        ({"optimizer.lr": 1.0000001}, "optimizer.lr=1.0000001: is not in [0.25, 1.0]"),
        ({"optimizer.lr": "0.5"}, "optimizer.lr=0.5: is not in [0.25, 1.0]"),
        ({"optimizer.lr": True}, "optimizer.lr=True: is not in [0.25, 1.0]"),
        ({"optimizer.lr": None}, "optimizer.lr=None: is not in [0.25, 1.0]"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr=nan: is not in [0.25, 1.0]"),
        ({"optimizer.lr": [0.5]}, "optimizer.lr=[0.5]: is not in [0.25, 1.0]"),
        ({"schedule.decay_steps": 7}, "schedule.decay_steps=7: is not in the integers of [5, 15] in steps of 5"),
        ({"schedule.decay_steps": 10.5}, "schedule.decay_steps=10.5: is not in the integers of [5, 15] in steps of 5"),
        ({"optimizer.nesterov": 1}, "optimizer.nesterov=1: is not in the list True, False"),
        ({"model.hidden": [4]}, "model.hidden=[4]: is not in the list [4], [8]"),
        ({"model.hidden": "[5]"}, "model.hidden=[5]: is not in the list [4], [8]"),
        ({"lr": 0.5}, "lr=0.5: is not searched; searched are "),
        ({"optimizer.lr": 0.5, "warmup.steps": 3}, "warmup.steps=3: is not searched; searched are "),
    ],
)
def test_a_queued_trial_that_is_none_of_the_search_fails_untrained_and_is_said(
    tmp_path: Path, params: dict[str, Any], why: str
) -> None:
    made = plan(tmp_path, *QUEUE)
    proposer(made).study.enqueue_trial(params)
    for _ in range(2):
        source, said = spoken(made)
        for trial in ask_all(source, 2):
            assert trial.number > 0
            finish(source, trial)
        assert len(said) <= 1
    states = [(t.state.name, "sweep.refused" in t.user_attrs) for t in source.study.get_trials()]
    assert states == [("FAIL", True), ("COMPLETE", False), ("COMPLETE", False)]
    assert source.study.get_trials()[0].user_attrs["sweep.refused"].startswith(why)
    assert source.failed == []


def test_a_trial_that_is_queued_while_the_search_runs_is_asked_for(tmp_path: Path) -> None:
    """And so is the number of every later trial the one that it has in the database."""
    made = plan(tmp_path, "sampler=tpe", "sampler.n_startup_trials=1", "study.n_trials=5")
    source, said = spoken(made)
    finish(source, ask_all(source, 1)[0])
    other = optuna.load_study(study_name=made.name, storage=made.study.storage)
    other.enqueue_trial({"optimizer.lr": 0.125})
    other.enqueue_trial({"optimizer.lr": 1e9})
    other.add_trial(other.trials[0])
    trials = ask_all(source, 3)
    assert [trial.number for trial in trials] == [1, 4, 5]
    assert trials[0].config.optimizer.lr == 0.125
    for trial in trials:
        finish(source, trial)
    assert [t.state.name for t in other.get_trials()] == ["COMPLETE", "COMPLETE", "FAIL", *["COMPLETE"] * 3]
    assert [t.params["optimizer.lr"] for t in other.get_trials()[4:]] == [t.config.optimizer.lr for t in trials[1:]]
    assert len(said) == 1


def foreign(state: str, **content: Any) -> optuna.trial.FrozenTrial:
    """A trial of another program, also one that Optuna itself would not accept."""
    value = 0.5 if state == "COMPLETE" else None
    trial = optuna.create_trial(state=getattr(optuna.trial.TrialState, state), value=value)
    for name, value in content.items():
        setattr(trial, name, value)
    return trial


WIDER: dict[str, optuna.distributions.BaseDistribution] = {
    "x": optuna.distributions.FloatDistribution(0, 10),
    "schedule.decay_rate": optuna.distributions.FloatDistribution(0, 10),
    "schedule.decay_steps": optuna.distributions.IntDistribution(1, 1000, log=True),
    "warmup.steps": optuna.distributions.IntDistribution(0, 1000),
    "optimizer.lr": optuna.distributions.FloatDistribution(1e-6, 100, log=True),
}
"""Of the names that are searched, and of another."""
DRAWN = {"schedule.decay_rate": 0.75, "schedule.decay_steps": 10, "warmup.steps": 2, "optimizer.lr": 0.1}


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
@pytest.mark.parametrize(
    ("state", "params", "counted", "said_of"),
    [
        ("COMPLETE", {}, 1, 0),
        ("COMPLETE", {"x": 1.0}, 1, 0),
        ("COMPLETE", DRAWN, 1, 0),
        ("COMPLETE", {**DRAWN, "optimizer.lr": 11.0}, 1, 0),
        ("PRUNED", {"optimizer.lr": 11.0}, 1, 0),
        ("FAIL", {"optimizer.lr": 11.0}, 0, 0),
        ("RUNNING", {"x": 1.0}, 0, 1),
        ("WAITING", {"x": 1.0}, 0, 1),
    ],
)
def test_trials_of_another_program_break_no_start_and_no_sampler(
    tmp_path: Path, name: str, state: str, params: dict[str, Any], counted: int, said_of: int
) -> None:
    made = plan(tmp_path, f"sampler={name}", "study.n_trials=4", "sampler.n_startup_trials=1")
    study = proposer(made).study
    added = foreign(state, params=params, distributions={key: WIDER[key] for key in params})
    study._storage.create_new_trial(study._study_id, template_trial=added)
    source, said = spoken(made)
    assert source.told == counted
    while (trial := source.ask()) is not None:
        finish(source, trial)
    assert source.told == 4
    assert len(said) == said_of
    left = proposer(made).study.get_trials()[0]
    assert left.state.name == ("FAIL" if state == "WAITING" else state)


def test_a_study_in_which_optuna_can_store_no_trial_of_ours_is_refused(tmp_path: Path) -> None:
    made = plan(tmp_path, "sampler=random")
    study = proposer(made).study
    linear = optuna.distributions.FloatDistribution(0, 1)
    study.add_trial(
        optuna.create_trial(value=0.5, params={"optimizer.lr": 0.5}, distributions={"optimizer.lr": linear})
    )
    with pytest.raises(
        InvalidValueError, match=r"^study\.name=.*: has trial 0 of another program, in which optimizer\.lr"
    ):
        proposer(made)


def test_a_trial_of_ours_that_does_not_fit_is_given_up_once(tmp_path: Path) -> None:
    """An earlier version trained a queued trial outside of the interval, and could not open the study again."""
    made = plan(tmp_path, "sampler=random", "study.n_trials=1")
    study = proposer(made).study
    content = {"params": DRAWN | {"optimizer.lr": 11.0}, "distributions": {k: WIDER[k] for k in DRAWN}}
    ours = foreign("RUNNING", **content, user_attrs={"sweep.attempts": 1})
    study._storage.create_new_trial(study._study_id, template_trial=ours)
    source, said = spoken(made)
    assert [line.split(":")[0] for line in said] == ["trial 0 is not trained"]
    finish(source, ask_all(source, 1)[0])
    assert [t.state.name for t in spoken(made)[0].study.get_trials()] == ["FAIL", "COMPLETE"]


def test_a_trial_that_lost_its_attributes_goes_on(tmp_path: Path) -> None:
    made = plan(tmp_path, "sampler=random", "study.n_trials=1")
    trial = ask_all(proposer(made), 1)[0]
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute("DELETE FROM trial_user_attributes")
    again = proposer(made).ask()
    assert again is not None
    assert (again.number, again.values) == (trial.number, trial.values)


def test_a_copy_that_a_heartbeat_has_queued_is_trained_as_a_trial_of_its_own(tmp_path: Path) -> None:
    made = plan(tmp_path, "sampler=random", "study.n_trials=1", "study.max_retries=0")
    source = proposer(made)
    ask_all(source, 1)
    study = source.study
    running = study.get_trials()[0]
    optuna.storages.RetryHeartbeatStaleTrialCallback()(study, running)
    study.tell(0, state=optuna.trial.TrialState.FAIL)
    later = proposer(made)
    trial = later.ask()
    assert trial is not None
    assert trial.number == 1
    assert later.study.get_trials()[1].params == running.params
    assert not later.give_up(trial)
    finish(later, trial)


@pytest.mark.parametrize("state", ["FAIL", "COMPLETE"])
def test_a_trial_that_another_program_ends_meanwhile_stays_so_and_is_said_once(tmp_path: Path, state: str) -> None:
    made = plan(tmp_path, "sampler=random", "study.n_trials=2")
    source, said = spoken(made)
    one, two = ask_all(source, 2)
    other = optuna.load_study(study_name=made.name, storage=made.study.storage)
    other.tell(0, 0.25 if state == "COMPLETE" else None, state=getattr(optuna.trial.TrialState, state))
    source.annotate(one, "mlflow_run_id", "a")
    finish(source, one)
    finish(source, two)
    assert said == ["trial 0 was ended by another program: its result is not told to Optuna"]
    assert [t.state.name for t in other.get_trials()] == [state, "COMPLETE"]


def test_a_study_that_is_deleted_meanwhile_is_named(tmp_path: Path) -> None:
    made = plan(tmp_path, "sampler=random")
    source = proposer(made)
    trial = ask_all(source, 1)[0]
    optuna.delete_study(study_name=made.name, storage=made.study.storage)
    for act in (lambda: finish(source, trial), source.ask):
        with pytest.raises(UnavailableError, match=f"study {made.name}, or a trial of it, was deleted"):
            act()


def test_an_ask_takes_no_longer_for_the_trials_that_there_have_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = proposer(plan(tmp_path, "sampler=random", "study.n_trials=20"))
    monkeypatch.setattr(optuna.Study, "get_trials", None)
    while (trial := source.ask()) is not None:
        finish(source, trial)
    assert source.told == 20


def test_the_timeout_begins_no_further_trial(tmp_path: Path) -> None:
    assert proposer(plan(tmp_path, "study.timeout=1e-9")).ask() is None
