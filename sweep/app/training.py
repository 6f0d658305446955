"""Carry out a single training, which is recorded as a run of its own."""

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from sweep import study
from sweep.app.front import Front, Watched
from sweep.app.plan import TrainingPlan
from sweep.app.resources import (
    Engines,
    checkpoints_of,
    record_folder,
    recording,
    save_weights,
    settle,
    weights_of,
)
from sweep.app.search import warn_of_labels
from sweep.checkpoints import CheckpointFiles
from sweep.config import EngineConfig, TrackingConfig
from sweep.core import Checkpoint, Result, Status, Trial
from sweep.errors import InvalidValueError
from sweep.messages import Ranking, Work
from sweep.pool import Trainer
from sweep.report.describe import describe, training_name
from sweep.report.figures import samples_picture
from sweep.report.text import scaling
from sweep.tracking import (
    Hooks,
    MlflowReader,
    MlflowRecorder,
    Store,
    TrainingRuns,
    is_training,
    open_store,
    recorded_run,
)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Args:
        trial: what was trained.
        store: where it is recorded.
        run_id: of its run; None of one that was interrupted.
        result: how it ended; None of one that was interrupted.
        kept: updates completed in the checkpoint of one that was interrupted, 0 without one.
        unsaved: the reason for which the file of train.save is not written; None if it is, or was not asked for.
    """

    trial: Trial
    store: Store
    run_id: str | None
    result: Result | None
    kept: int = 0
    unsaved: str | None = None


def train(plan: TrainingPlan, front: Front, trainer: Trainer) -> TrainingResult:
    """Train one configuration through the same loop as a search, and keep the state that it ends with.

    A training that was interrupted, has not reached its horizon, or is asked for more steps, goes on from there.

    Raises:
        InvalidValueError: names what cannot be carried out; nothing is written then.
    """
    run, data, tracking, judged = plan.run, plan.data, plan.tracking, plan.study
    trainer.check_device(run)
    if run.train.test and data.n_test == 0:
        raise InvalidValueError("train.test", True, "needs a test split, which this data set does not have")
    trainer.check([run])
    warn_of_labels(run, data, front.say)
    trial = Trial(0, run, run.train.seed, keeps_state=True, final=run.train.test)
    name = training_name(trial, data.digest)
    checkpoints = checkpoints_of(trainer, run, name, name, front.say)
    with checkpoints.claimed(), front.interruptible() as interrupted, ExitStack() as opened:
        trial, checkpoint = _going_on(trial, checkpoints)
        goes_on = None if checkpoint is None else recorded_run(checkpoint.record)
        folder, key = record_folder(tracking, run.train.checkpoint_dir, name), _unique(name, checkpoints)
        before = open_store(tracking, create=False, record=folder, hooks=Hooks(front.say))
        if goes_on is not None and before is None:
            raise _not_held(tracking, goes_on)  # before anything is created
        of_training = partial(is_training, name=key)
        store = opened.enter_context(recording(tracking, folder, "train", of_training, front.say, interrupted))
        if goes_on is not None and not store.holds(goes_on):
            raise _not_held(tracking, goes_on)
        begun = _begin(trial, checkpoint, checkpoints)
        ended = checkpoints.final.latest(trial)
        if begun:
            front.say(f"goes on from step {begun}, kept in {checkpoints.folder}")
        elif ended is not None:
            checkpoints.clear(trial)
            way = "trained anew, as a run of its own; train.more_steps trains on from there"
            front.say(f"has been trained to step {ended.state.step} before: {way}")
        for scaled in scaling(run):
            front.say(scaled)
        training = TrainingRuns(store, key, goes_on)
        recorder = MlflowRecorder(store, describe, training, draw=samples_picture)
        proposer = study.FixedTrials([trial])
        watched = Watched(judged.metric, judged.minimize, 1, 0, trial.last, single=True, first=begun)
        ranking = Ranking(judged.metric, judged.minimize)
        weights = weights_of(run, name, ranking, None, front.say)
        engine = _alone(plan.engine)
        work = Work([run], 1, False, judged.metric, str(checkpoints.own_files), ranking)
        with (
            Engines(trainer, front.say, interrupted).start(engine, work, judged.max_retries) as trains,
            front.watch(watched) as monitor,
        ):
            study.run(proposer, trains, recorder, checkpoints, monitor, judged.metric, interrupted, weights)
        if not proposer.results:
            kept = checkpoints.latest(trial)
            return TrainingResult(trial, store, None, None, 0 if kept is None else kept.state.step)
        settle(store, interrupted)
        (result,) = proposer.results
        if result.status is Status.COMPLETE:  # and now everything else is done
            last = checkpoints.latest(trial)  # a loop need not give the state that it ends with
            checkpoints.end(trial, last if last is not None and last.state.step == trial.last else None)
    run_id = store.public_id(recorder.run_id(trial))
    save = run.train.save
    unsaved = None if save is None else save_weights(MlflowReader(store).training(run_id), save)
    return TrainingResult(trial, store, run_id, result, unsaved=unsaved)


def _unique(name: str, checkpoints: CheckpointFiles) -> str:
    """Return the name of a training in a store: of the same training in another folder it is another one."""
    return f"{name}.{hashlib.sha256(str(checkpoints.folder.resolve()).encode()).hexdigest()[:8]}"


def _alone(config: EngineConfig) -> EngineConfig:
    """Return the engine of a single training: the serial one, unless another is asked for."""
    return EngineConfig("serial") if config.name == "auto" else config


def _going_on(trial: Trial, checkpoints: CheckpointFiles) -> tuple[Trial, Checkpoint | None]:
    """Return the training as it is asked for, and the checkpoint that it goes on from; None where it begins anew.

    Raises:
        InvalidValueError: names train.checkpoint_dir if there are checkpoints of it, and none is whole.
    """
    more, horizon = trial.config.train.more_steps, trial.config.train.steps
    interrupted, ended = checkpoints.latest(trial), checkpoints.final.latest(trial)
    if interrupted is not None:
        if interrupted.last == (horizon if more is None else interrupted.first + more):  # the same request
            return replace(trial, first=interrupted.first), interrupted
        if ended is None or interrupted.state.step >= ended.state.step:
            ended = interrupted
    if ended is None and (checkpoints.holds(trial) or checkpoints.final.holds(trial)):
        rule = "has no checkpoint of this training that is whole; delete it to begin the training anew"
        raise InvalidValueError("train.checkpoint_dir", checkpoints.folder, rule)
    if ended is None or (more is None and ended.state.step >= horizon):
        return trial, None
    trial = replace(trial, first=ended.state.step)
    return trial, replace(ended, first=trial.first, last=trial.last)


def _begin(trial: Trial, checkpoint: Checkpoint | None, checkpoints: CheckpointFiles) -> int:
    """Keep only what the training goes on from and the states that it ended with; return the step it is at."""
    interrupted = checkpoints.latest(trial)
    if interrupted is not None and interrupted != checkpoint:
        checkpoints.end(trial, interrupted)
    if checkpoint is not None:
        checkpoints.save(trial, checkpoint)
    for files in (checkpoints, checkpoints.final):
        files.sweep([trial.number])
    return 0 if checkpoint is None else checkpoint.state.step


def _not_held(tracking: TrackingConfig, run_id: str) -> InvalidValueError:
    rule = f"does not hold run {run_id} of the training that goes on: name the one that does, or another"
    return InvalidValueError("tracking.uri", tracking.uri, f"{rule} train.checkpoint_dir to begin anew")
