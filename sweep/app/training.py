"""Carries out a single training, which has its own run."""

import hashlib
from dataclasses import dataclass, replace

from sweep import study
from sweep.app.front import Front, Watched
from sweep.app.plan import TrainingPlan
from sweep.app.resources import Engines, checkpoints_of, save_weights, settle, store_of, weights_of
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
from sweep.tracking import Hooks, MlflowReader, MlflowRecorder, Store, TrainingRuns, open_store, recorded_run


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Args:
        trial: the training as a trial.
        store: the store with its record.
        run_id: id of its run; None if it was interrupted.
        result: its result; None if it was interrupted.
        kept: completed updates in the checkpoint of an interrupted training; 0 without a checkpoint.
        unsaved: why train.save was not written; None if it was written or is not set.
    """

    trial: Trial
    store: Store
    run_id: str | None
    result: Result | None
    kept: int = 0
    unsaved: str | None = None


def train(plan: TrainingPlan, front: Front, trainer: Trainer) -> TrainingResult:
    """Train one configuration with the loop of a search, and save the final state.

    A training resumes if it was interrupted, has not reached its horizon, or train.more_steps is set.

    Raises:
        InvalidValueError: names an invalid key; nothing is written then.
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
    with checkpoints.claimed(), front.interruptible() as interrupted:
        trial, checkpoint = _resumed(trial, checkpoints)
        resumed_run_id = None if checkpoint is None else recorded_run(checkpoint.record)
        if resumed_run_id is not None and open_store(tracking, create=False, hooks=Hooks(front.say)) is None:
            raise _run_missing(tracking, resumed_run_id)  # before anything is created
        store = store_of(tracking, run.train.checkpoint_dir, name, front.say, interrupted)
        if resumed_run_id is not None and not store.holds(resumed_run_id):
            raise _run_missing(tracking, resumed_run_id)
        begun = _begin(trial, checkpoint, checkpoints)
        ended = checkpoints.final.latest(trial)
        if begun:
            front.say(f"resumes at step {begun}, from {checkpoints.folder}")
        elif ended is not None:
            checkpoints.clear(trial)
            way = "trained again, as a new run; train.more_steps continues from there"
            front.say(f"has been trained to step {ended.state.step} before: {way}")
        for scaled in scaling(run):
            front.say(scaled)
        training = TrainingRuns(store, _name_in_store(name, checkpoints), resumed_run_id)
        recorder = MlflowRecorder(store, describe, training, draw=samples_picture)
        proposer = study.FixedTrials([trial])
        watched = Watched(judged.metric, judged.minimize, 1, 0, trial.last, single=True, first=begun)
        ranking = Ranking(judged.metric, judged.minimize)
        weights = weights_of(run, name, ranking, None, front.say)
        engine = _single_engine(plan.engine)
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
        if result.status is Status.COMPLETE:  # after everything else is done
            last = checkpoints.latest(trial)  # a loop may not save its final state
            checkpoints.end(trial, last if last is not None and last.state.step == trial.last else None)
    run_id = recorder.run_id(trial)
    save = run.train.save
    unsaved = None if save is None else save_weights(MlflowReader(store).training(run_id), save)
    return TrainingResult(trial, store, run_id, result, unsaved=unsaved)


def _name_in_store(name: str, checkpoints: CheckpointFiles) -> str:
    """Return the name of a training in a store; it depends on the folder of its checkpoints."""
    return f"{name}.{hashlib.sha256(str(checkpoints.folder.resolve()).encode()).hexdigest()[:8]}"


def _single_engine(config: EngineConfig) -> EngineConfig:
    """Return the engine of a single training: serial for engine=auto."""
    return EngineConfig("serial") if config.name == "auto" else config


def _resumed(trial: Trial, checkpoints: CheckpointFiles) -> tuple[Trial, Checkpoint | None]:
    """Return the requested training, and the checkpoint from which it resumes; None if it starts from the beginning.

    Raises:
        InvalidValueError: names train.checkpoint_dir if there are checkpoints of it, and all are damaged.
    """
    more, horizon = trial.config.train.more_steps, trial.config.train.steps
    interrupted, ended = checkpoints.latest(trial), checkpoints.final.latest(trial)
    if interrupted is not None:
        if interrupted.last == (horizon if more is None else interrupted.first + more):  # the same request
            return replace(trial, first=interrupted.first), interrupted
        if ended is None or interrupted.state.step >= ended.state.step:
            ended = interrupted
    if ended is None and (checkpoints.holds(trial) or checkpoints.final.holds(trial)):
        rule = "has damaged checkpoints of this training only; delete it to start the training again"
        raise InvalidValueError("train.checkpoint_dir", checkpoints.folder, rule)
    if ended is None or (more is None and ended.state.step >= horizon):
        return trial, None
    trial = replace(trial, first=ended.state.step)
    return trial, replace(ended, first=trial.first, last=trial.last)


def _begin(trial: Trial, checkpoint: Checkpoint | None, checkpoints: CheckpointFiles) -> int:
    """Delete all but the checkpoint from which the training resumes, and final states; return the current step."""
    interrupted = checkpoints.latest(trial)
    if interrupted is not None and interrupted != checkpoint:
        checkpoints.end(trial, interrupted)
    if checkpoint is not None:
        checkpoints.save(trial, checkpoint)
    for files in (checkpoints, checkpoints.final):
        files.sweep([trial.number])
    return 0 if checkpoint is None else checkpoint.state.step


def _run_missing(tracking: TrackingConfig, run_id: str) -> InvalidValueError:
    rule = f"does not have run {run_id} of this training: name the URI that has it, or a different"
    return InvalidValueError("tracking.uri", tracking.uri, f"{rule} train.checkpoint_dir to start again")
