"""Optuna as a proposer: asks, tells, resumes what was interrupted, and counts to the total."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweep.config import SamplerConfig, StudyConfig
from sweep.core import Evaluation, Event, Result, Status, Trial, Value
from sweep.search.distributions import distribution, draw
from sweep.search.pruners import BranchStudy
from sweep.search.samplers import grid_size, sampler
from sweep.space import Branch, Dimension, Space

ATTEMPTS = "sweep.attempts"
"""User attribute: how often the trial was begun and not ended by request."""

TOLD = (TrialState.COMPLETE, TrialState.PRUNED)


class OptunaProposer:
    """Trials of an Optuna study, asked and told by this process alone.

    Args:
        study: opened; its pruner is used.
        space: what is searched.
        sampler_config: which sampler proposes.
        config: total, timeout, retries, metric.
    """

    def __init__(self, study: Study, space: Space, sampler_config: SamplerConfig, config: StudyConfig) -> None:
        self.study, self.space, self.config = study, space, config
        self._sampler_config = sampler_config
        self._began = time.monotonic()
        self._live: dict[int, optuna.Trial] = {}
        self._reported: dict[int, set[int]] = {}
        self._step: dict[int, int] = {}
        size = grid_size(sampler_config, space)
        self.total = config.n_trials if size is None else min(config.n_trials, size)

    @property
    def told(self) -> int:
        """Trials that count: complete and pruned ones, diverged ones among the latter."""
        return len(self.study.get_trials(deepcopy=False, states=TOLD))

    @property
    def failed(self) -> list[int]:
        """The numbers of the trials that were given up."""
        return [t.number for t in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))]

    def ask(self) -> Trial | None:
        """An interrupted trial under its own number, or a new proposal until the total is reached."""
        if self.config.timeout is not None and time.monotonic() - self._began >= self.config.timeout:
            return None
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number not in self._live and not self._give_up(frozen):
                return self._begin(self._resumed(frozen), reported=set(frozen.intermediate_values))
        if self.told + len(self._live) >= self.total:
            return None
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = sampler(self._sampler_config, self.space, number)
        return self._begin(self.study.ask(), reported=set())

    def report(self, trial: Trial, evaluation: Evaluation) -> None:
        self._step[trial.number] = evaluation.step
        if evaluation.step not in self._reported[trial.number]:
            self._live[trial.number].report(evaluation.metrics[self.config.metric], evaluation.step)

    def should_prune(self, trial: Trial, events: Sequence[Event] = ()) -> bool:
        """The pruner's answer among the trials of the same branch; never before warmup has ended."""
        if isinstance(self.study.pruner, NopPruner):
            return False
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        if frozen.last_step is None or frozen.last_step <= trial.config.schedule.after(*events).warm_at:
            return False
        if frozen.last_step != self._step.get(trial.number):  # trained again, and decided before it was interrupted
            return False
        if not self.space.conditional:
            return bool(self.study.pruner.prune(self.study, frozen))
        selection = {group: frozen.params[group] for group in self.space.groups}
        return bool(self.study.pruner.prune(BranchStudy(self.study, selection), frozen))  # type: ignore[arg-type]

    def tell(self, trial: Trial, result: Result) -> None:
        """Divergence is told as pruned with a violated constraint, so that the sampler learns to avoid it."""
        live = self._live.pop(trial.number)
        live.set_constraint("diverged", 1.0 if result.status is Status.DIVERGED else 0.0)
        live.set_user_attr("sweep.status", result.status.value)
        if result.status is Status.COMPLETE:
            self.study.tell(live, result.value)
        else:
            self.study.tell(live, state=TrialState.PRUNED)

    def release(self, trial: Trial) -> None:
        live = self._live.pop(trial.number)
        live.set_user_attr(ATTEMPTS, live.user_attrs[ATTEMPTS] - 1)

    def annotate(self, trial: Trial, name: str, value: str) -> None:
        """Keep a user attribute with the trial."""
        self._live[trial.number].set_user_attr(name, value)

    def proposed(self, number: int) -> Trial:
        """The trial of that number as it was proposed."""
        params = self.study.get_trials(deepcopy=False)[number].params
        branch = self.space.branch(params)
        return _trial(number, branch, {d.key: d.decode(params[branch.parameter(d)]) for d in branch.dimensions})

    def _give_up(self, frozen: FrozenTrial) -> bool:
        """Tell a trial that crashed too often as failed."""
        if frozen.user_attrs.get(ATTEMPTS, 0) <= self.config.max_retries:
            return False
        self.study.tell(frozen.number, state=TrialState.FAIL)
        return True

    def _resumed(self, frozen: FrozenTrial) -> optuna.Trial:
        """The live form of a stored trial. Optuna offers none for ask and tell but this constructor."""
        self.study.sampler = sampler(self._sampler_config, self.space, frozen.number)
        return optuna.Trial(self.study, frozen._trial_id)

    def _begin(self, live: optuna.Trial, reported: set[int]) -> Trial:
        """The trial to train; `reported` are the steps that it reported before it was interrupted."""
        branch, values = self._drawn(live)
        live.set_user_attr(ATTEMPTS, live.user_attrs.get(ATTEMPTS, 0) + 1)
        self._live[live.number], self._reported[live.number] = live, reported
        return _trial(live.number, branch, values)

    def _drawn(self, live: optuna.Trial) -> tuple[Branch, Mapping[str, Any]]:
        """The branch and the values of the configuration; what was drawn before an interruption is kept."""
        cut = self._cut_while_drawn(live)
        selection = {group: self._draw(live, group, choice, cut) for group, choice in self._choices.items()}
        branch = self.space.branch(selection)
        return branch, {d.key: d.decode(self._draw(live, branch.parameter(d), d, cut)) for d in branch.dimensions}

    @property
    def _choices(self) -> dict[str, Dimension]:
        """The choice among the options of each searched group."""
        return {group: Dimension(group, ",".join(o), choices=o) for group, o in self.space.groups.items()}

    def _cut_while_drawn(self, live: optuna.Trial) -> bool:
        """Whether a trial was interrupted with some of its values drawn and some not."""
        if not live.params or not self.space.groups.keys() <= live.params.keys():
            return bool(live.params)
        branch = self.space.branch(live.params)
        return not {branch.parameter(d) for d in branch.dimensions} <= live.params.keys()

    def _draw(self, live: optuna.Trial, name: str, dimension: Dimension, cut: bool) -> Value:
        """A value; of a trial that was cut while drawn, the one that the whole proposal would have had."""
        if cut and name in live.params and name not in live.relative_params:  # draw past what is stored
            frozen = self.study.get_trials(deepcopy=False)[live.number]
            self.study.sampler.sample_independent(self.study, frozen, name, distribution(dimension))
        return draw(live, name, dimension)


def _trial(number: int, branch: Branch, values: Mapping[str, Any]) -> Trial:
    config = branch.configure(values)
    return Trial(number, config, config.train.seed, {**branch.selection, **values})
