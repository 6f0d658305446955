"""A proposer that uses Optuna: it asks and tells trials, resumes interrupted ones, and counts to the total."""

import time
from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.config import SamplerConfig, StudyConfig
from sweep.core import GIVEN_UP, Evaluation, Failure, Result, Status, Trial
from sweep.database import LockRetry
from sweep.errors import HopelessError, InvalidValueError
from sweep.proposals.cached_study import CachedStudy
from sweep.proposals.distributions import Fit, choices, draw
from sweep.proposals.pruners import BranchStudy
from sweep.proposals.samplers import grid_size, history_free, sampler
from sweep.schedules import Event
from sweep.space import Branch, Space

ATTEMPTS = "sweep.attempts"
"""User attribute: how often the training of the trial was begun since its last checkpoint. A training that was
interrupted by request does not count."""
REASON = "sweep.reason"
"""User attribute: why the trial has failed."""
PRUNED = "sweep.pruned"
"""User attribute: the step at which the pruner decided to prune the trial."""

REFUSED = "sweep.refused"
"""User attribute: why a trial that another program queued or began was not trained."""

TOLD = (TrialState.COMPLETE, TrialState.PRUNED)

MOST_FAILURES = 20
"""Consecutive failed trials that end a search.

A search in which all trials fail must end. If 70 % of the trials fail, so many consecutive failures happen by chance
once in 1,250 times.
"""


class OptunaProposer:
    """Asks and tells the trials of an Optuna study, which no other process searches meanwhile.

    Any number of trials may be live at once. `ask`, `begun` and `tell` write to the database before they return. With a
    pruner, `report` does so, too; without one, evaluations are written when the trial ends. The time of a call does not
    depend on the number of earlier trials, unless the sampler or the pruner learns from them.

    Args:
        study: an open study, with its pruner.
        space: the search space.
        sampler_config: the sampler and its options.
        config: the total, the timeout, the retries, the metric.
        patiently: retries while the database is locked; its `say` shows each trial that is refused.
    """

    def __init__(
        self,
        study: Study,
        space: Space,
        sampler_config: SamplerConfig,
        config: StudyConfig,
        patiently: LockRetry | None = None,
    ) -> None:
        self.study, self.space, self.config = study, space, config
        self._sampler_config = sampler_config
        self._began = time.monotonic()
        self._fit = Fit(space)
        self._cached = CachedStudy(study, patiently, self._seen_as)
        self._live: dict[int, optuna.Trial] = {}
        self._reported: dict[int, set[int]] = {}
        self._step: dict[int, int] = {}
        self._grid: BaseSampler | None = None
        self._grid_size = grid_size(sampler_config, space)
        self.history_free = history_free(sampler_config)
        """Whether proposals do not depend on results, so that they may be asked for before results are known."""
        self._n_trials, self._failed_in_a_row, self._last_failed = 0, 0, -1
        self._left: list[int] = []
        """The numbers of the interrupted trials that are to be asked for again."""
        self._queued: list[int] = []
        """The numbers of the trials that other programs have queued."""
        self.told = 0
        """The number of trials that count: complete, pruned and diverged ones."""
        self._counted: set[int] = set()
        """The numbers of the live trials whose training has begun, so that the attempt is counted."""
        self.failed: list[int] = []
        """The numbers of the trials that have failed."""
        self._take(self._cached.stored)

    @property
    def total(self) -> int:
        """Return how many trials end the search: study.n_trials, or the points of a grid that did not fail."""
        if self._grid_size is None:
            return self.config.n_trials
        return min(self.config.n_trials, max(self._grid_size - len(self.failed), self.told))

    def _seen_as(self, trial: FrozenTrial) -> FrozenTrial:
        """Return the trial that samplers and pruners see: a failed one instead of one that does not fit the space."""
        if trial.state is TrialState.FAIL:
            return trial
        fits = self._fit.misfit(trial.params) is None
        if trial.state in TOLD and not self._fit.is_whole(trial.params):
            return _unknown(trial)
        if not fits and trial.state is TrialState.RUNNING and ATTEMPTS not in trial.user_attrs:
            return _unknown(trial)
        return self._fit.redistributed(trial) if fits else trial

    def _take(self, stored: Sequence[FrozenTrial]) -> None:
        """Count the trials in the database: ended, interrupted and queued ones. Other programs may have added some.

        Raises:
            InvalidValueError: names study.name, if Optuna cannot store trials of this space in the same study.
        """
        for trial in stored:
            if (name := self._fit.conflict(trial)) is not None:
                rule = f"has trial {trial.number} of another program, in which {name} has another kind of distribution"
                raise InvalidValueError(
                    "study.name", self.study.study_name, f"{rule}: Optuna cannot store both; choose another name"
                )
        self._n_trials += len(stored)
        self.told += sum(trial.state in TOLD for trial in stored)
        self.failed += [t.number for t in stored if t.state is TrialState.FAIL and REFUSED not in t.user_attrs]
        self._queued += [trial.number for trial in stored if trial.state is TrialState.WAITING]
        for trial in stored:
            if trial.state is not TrialState.RUNNING:
                continue
            reason = self._fit.misfit(trial.params)
            if reason is None:
                self._left.append(trial.number)
            elif ATTEMPTS in trial.user_attrs:
                self._refuse(trial.number, reason)
            else:
                self._say(f"trial {trial.number} was begun by another program and is left to it: {reason}")

    @property
    def interrupted(self) -> list[int]:
        """Return the numbers of the trials that were begun and are not in training."""
        return list(self._left)

    def ask(self) -> Trial | None:
        """Return an interrupted trial under its own number, or a new proposal until the total is reached.

        Raises:
            HopelessError: after MOST_FAILURES consecutive failed trials.
        """
        if self.config.timeout is not None and time.monotonic() - self._began >= self.config.timeout:
            return None
        if self.told + len(self._live) >= self.total:
            return None
        if self._failed_in_a_row >= MOST_FAILURES:
            if self._live:  # one of them may show that trials can be trained
                return None
            reason = self._cached[self._last_failed].user_attrs[REASON]
            text = f"the last {self._failed_in_a_row} trials have failed one after another"
            raise HopelessError(f"{text}, trial {self._last_failed} with {reason}")
        if self._left:
            frozen = self._cached[self._left.pop(0)]
            live = self._resumed(frozen)
        else:
            self._take(self._cached.read_new())
            live = self._queued_trial() or self._new_trial()
        try:
            return self._begin(live, reported=set(self._cached[live.number].intermediate_values))
        except InvalidValueError as error:  # each value is valid alone, but not together with the others
            self._say(f"trial {live.number:3d}  failed\n  {error}")
            self._count_failure(live, Failure(str(error)))
        return self.ask()

    def _new_trial(self) -> optuna.Trial:
        """Let the sampler propose a trial."""
        self._cached.study.sampler = self._sampler(self._n_trials)
        live = self._cached.study.ask()
        self._n_trials = live.number + 1
        return live

    def _queued_trial(self) -> optuna.Trial | None:
        """Return the first queued trial that fits the space, and refuse those before it; None without one."""
        while self._queued:
            live = self._next_queued()
            if live is not None:
                return live
        return None

    def _next_queued(self) -> optuna.Trial | None:
        """Begin the first of the queued trials; return None and refuse it if it does not fit the space."""
        number = self._queued.pop(0)
        self._cached.begin(number)
        queued = self._cached[number]
        reason = self._fit.misfit({**queued.params, **queued.system_attrs.get("fixed_params", {})})
        if reason is not None:
            self._refuse(number, reason)
            return None
        for attribute in (ATTEMPTS, PRUNED):  # it may be a copy of another trial, with that trial's attributes
            if attribute in queued.user_attrs:
                self._cached.annotate(number, attribute, 0)
        return self._resumed(self._cached[number])

    def _refuse(self, number: int, reason: str) -> None:
        """Tell a trial that does not fit the space as failed, and show the reason."""
        self._say(f"trial {number} is not trained: {reason}")
        self._cached.annotate(number, REFUSED, reason)
        self._cached.study.tell(number, state=TrialState.FAIL)
        self._cached.keep(number)

    def _say(self, line: str) -> None:
        self._cached.say(line)

    def give_up(self, trial: Trial) -> bool:
        if self._live[trial.number].user_attrs.get(ATTEMPTS, 0) <= self.config.max_retries:
            return False
        self._fail(self._forget(trial), GIVEN_UP)
        return True

    def begun(self, trial: Trial) -> None:
        """Count an attempt of a live trial, whose training begins now.

        A trial that was only asked for has no attempt, because it cannot have caused a crash.
        """
        live = self._live[trial.number]
        live.set_user_attr(ATTEMPTS, live.user_attrs.get(ATTEMPTS, 0) + 1)
        self._cached.keep(trial.number)
        self._counted.add(trial.number)

    def report(self, trial: Trial, evaluation: Evaluation) -> None:
        self._step[trial.number] = evaluation.step
        if evaluation.step not in self._reported[trial.number]:
            self._live[trial.number].report(evaluation.metrics[self.config.metric], evaluation.step)
            if self._prunes:
                self._cached.keep(trial.number)

    def should_prune(self, trial: Trial, events: Sequence[Event] = ()) -> bool:
        """Return the pruner's decision among the trials of the same branch; False until warmup has ended.

        asha and hyperband note that they were asked at a step, and do not prune when they are asked again. So the
        decision is stored: a trial that is interrupted before it is told is pruned when it reaches that step again.
        """
        if not self._prunes:
            return False
        frozen = self._cached[trial.number]
        if frozen.last_step is None or frozen.last_step <= trial.config.schedule.after(*events).warm_at:
            return False
        if frozen.last_step != self._step.get(
            trial.number
        ):  # it is trained again, and this step was decided before the interruption
            return False
        study: Any = self._cached.study
        if self.space.conditional:
            study = BranchStudy(study, {group: frozen.params[group] for group in self.space.groups})
        decided = frozen.user_attrs.get(PRUNED) == frozen.last_step
        pruned = bool(self._cached.study.pruner.prune(study, frozen)) or decided
        if pruned:
            self._live[trial.number].set_user_attr(PRUNED, frozen.last_step)
        self._cached.keep(trial.number)  # with the notes of the pruner
        return pruned

    def tell(self, trial: Trial, result: Result) -> None:
        """Tell how a trial ended. A diverged trial is told as pruned with a violated constraint, which samplers avoid.

        A failed trial does not count to the total.
        """
        live = self._forget(trial)
        if result.status is Status.FAILED:
            self._count_failure(live, result.failure or Failure("it could not be trained"))
            return
        live.set_constraint("diverged", 1.0 if result.status is Status.DIVERGED else 0.0)
        live.set_user_attr("sweep.status", result.status.value)
        if result.status is Status.COMPLETE:
            self._cached.study.tell(live, result.value)
        else:
            self._cached.study.tell(live, state=TrialState.PRUNED)
        self._cached.keep(trial.number)
        self.told += 1
        self._failed_in_a_row = 0

    def kept(self, trial: Trial) -> None:
        live = self._live[trial.number]
        self._counted.add(trial.number)
        if live.user_attrs.get(ATTEMPTS) != 1:  # attempts are counted from the last checkpoint
            live.set_user_attr(ATTEMPTS, 1)
            self._cached.keep(trial.number)

    def release(self, trial: Trial) -> None:
        counted = trial.number in self._counted
        live = self._forget(trial)
        if counted:
            live.set_user_attr(ATTEMPTS, live.user_attrs[ATTEMPTS] - 1)
            self._cached.keep(trial.number)
        insort(self._left, trial.number)

    def annotate(self, trial: Trial, name: str, value: str) -> None:
        """Set a user attribute of a live trial. It is written with the trial's next change: when its training begins,
        or when it is told.
        """
        self._live[trial.number].set_user_attr(name, value)

    def proposed(self, number: int) -> Trial:
        """Return the trial of that number as it was proposed."""
        params = self._cached[number].params
        branch = self.space.branch(params)
        return _trial(number, branch, {d.key: d.decode(params[branch.parameter(d)]) for d in branch.dimensions})

    @property
    def _prunes(self) -> bool:
        return not isinstance(self.study.pruner, NopPruner)

    def _forget(self, trial: Trial) -> optuna.Trial:
        """Remove a trial from the live ones, and return it."""
        del self._reported[trial.number]
        self._counted.discard(trial.number)
        self._step.pop(trial.number, None)
        return self._live.pop(trial.number)

    def _count_failure(self, live: optuna.Trial, failure: Failure) -> None:
        """Tell a trial as failed, and count it among the consecutive failures."""
        self._fail(live, failure)
        self._failed_in_a_row, self._last_failed = self._failed_in_a_row + 1, live.number

    def _fail(self, live: optuna.Trial, failure: Failure) -> None:
        live.set_user_attr("sweep.status", Status.FAILED.value)
        live.set_user_attr(REASON, failure.reason)
        self._cached.study.tell(live, state=TrialState.FAIL)
        self._cached.keep(live.number)
        insort(self.failed, live.number)

    def _sampler(self, number: int) -> BaseSampler:
        """Return the sampler of a proposal. A grid is built once, because building a large one takes long."""
        if self._grid_size is None or number >= self._grid_size:
            return sampler(self._sampler_config, self.space, number)
        if self._grid is None:
            self._grid = sampler(self._sampler_config, self.space, number)
        return self._grid

    def _resumed(self, frozen: FrozenTrial) -> optuna.Trial:
        """Make a stored trial live. Optuna has no other way for ask and tell than this constructor."""
        self._cached.study.sampler = self._sampler(frozen.number)
        return optuna.Trial(self._cached.study, frozen._trial_id)

    def _begin(self, live: optuna.Trial, reported: set[int]) -> Trial:
        """Return the trial to train.

        Args:
            reported: the steps that it reported before it was interrupted.
        """
        branch, values = self._drawn(live)
        self._cached.keep(live.number)
        trial = _trial(live.number, branch, values)
        self._live[live.number], self._reported[live.number] = live, reported
        return trial

    def _drawn(self, live: optuna.Trial) -> tuple[Branch, Mapping[str, Any]]:
        """Return the branch and the values of the configuration. Values that were drawn before an interruption stay."""
        selection = {group: draw(live, group, choice) for group, choice in choices(self.space).items()}
        branch = self.space.branch(selection)
        return branch, {d.key: d.decode(draw(live, branch.parameter(d), d)) for d in branch.dimensions}


def _trial(number: int, branch: Branch, values: Mapping[str, Any]) -> Trial:
    config = branch.configure(values)
    return Trial(number, config, config.train.seed, {**branch.selection, **values})


def _unknown(trial: FrozenTrial) -> FrozenTrial:
    """Return a failed trial in place of one that no sampler can learn from, so that the numbers stay the same."""
    return create_trial(state=TrialState.FAIL, system_attrs=trial.system_attrs)
