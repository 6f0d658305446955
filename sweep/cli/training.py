"""mode=train: one training, recorded as a run of its own."""

import hashlib
import sys
from dataclasses import replace

from omegaconf import DictConfig

from sweep import study
from sweep.checkpoints import CheckpointFiles
from sweep.cli import build
from sweep.cli.command import DONE, FAILED, INTERRUPTED, Command
from sweep.cli.display import Display, console, say
from sweep.cli.interrupt import interruptible
from sweep.cli.resources import checkpoints_of, engine_of, settle, store_of
from sweep.cli.show import address, training_links, ui_command
from sweep.config import EngineConfig, RunConfig, TrackingConfig
from sweep.core import Checkpoint, Status, Trial
from sweep.data import load
from sweep.report import describe, figures_text, samples_picture, scaling, training_name
from sweep.schedules import key_figures
from sweep.tracking import Hooks, MlflowRecorder, TrainingRuns, open_store, recorded_run
from sweep.training import Work, check, choose_device
from sweep.validation import InvalidValueError


def train(command: Command) -> int:
    """Train one configuration through the same loop, recorded as a run of its own, and keep the state it ends with.

    A training that was interrupted, has not reached its horizon, or is asked for more steps, goes on from there.
    """
    config, run = _single(command)
    tracking, judged = build.tracking_config(config), build.study_config(config)
    base, data, out = address(command, tracking), load(run.dataset), console()
    choose_device(run.train)
    check(data, [run])
    judged.check_metric(run, data.classification)
    trial = Trial(0, run, run.train.seed, keeps_state=True)
    name = training_name(trial, data.digest)
    checkpoints = checkpoints_of(run, data, name, name, out)
    with checkpoints.claimed(), interruptible(lambda text: say(out, text)) as interrupted:
        trial, checkpoint = _going_on(trial, checkpoints)
        goes_on = None if checkpoint is None else recorded_run(checkpoint.record)
        if goes_on is not None and open_store(tracking, create=False, hooks=Hooks(lambda text: say(out, text))) is None:
            raise _not_held(tracking, goes_on)  # before anything is created
        store = store_of(tracking, run.train.checkpoint_dir, name, out, interrupted)
        if goes_on is not None and not store.holds(goes_on):
            raise _not_held(tracking, goes_on)
        begun = _begin(trial, checkpoint, checkpoints)
        ended = checkpoints.final.latest(trial)
        if begun:
            say(out, f"goes on from step {begun}, kept in {checkpoints.folder}")
        elif ended is not None:
            way = "trained anew, as a run of its own; train.more_steps trains on from there"
            say(out, f"has been trained to step {ended.state.step} before: {way}")
        for scaled in scaling(run):
            say(out, scaled)
        training = TrainingRuns(store, _unique(name, checkpoints), goes_on)
        recorder = MlflowRecorder(store, describe, training, draw=samples_picture)
        proposer = study.FixedTrials([trial])
        display = Display(out, judged.metric, judged.minimize, 1, 0, trial.last, single=True, first=begun)
        engine, work = _alone(build.engine_config(config)), Work([run], 1, learns=False)
        with engine_of(engine, data, work, judged.max_retries, out, interrupted) as trains, display:
            study.run(proposer, trains, recorder, checkpoints, display, judged.metric, interrupted)
        if not proposer.results:
            kept = checkpoints.latest(trial)
            say(out, f"interrupted: the same command goes on from step {0 if kept is None else kept.state.step}")
            return INTERRUPTED
        settle(store, interrupted)
        (result,) = proposer.results
        if result.status is Status.COMPLETE:  # and now everything else is done
            checkpoints.end(trial, checkpoints.latest(trial))
    events = display.events.get(trial.number, ())
    for series in run.series:
        if series.name:
            say(out, f"{series.name}lr")
        schedule = series.schedule.after(*events)
        curve = schedule.curve(run.train.steps * series.updates)
        say(out, figures_text(key_figures(curve, schedule.constant_half_life)))
    say(out, f"\nin MLflow ({ui_command(command)} serves it):")
    say(out, "\n".join(training_links(store, [recorder.run_id(trial)], [series.name for series in run.series], base)))
    if result.failure is not None:
        print(f"sweep: the training failed: {result.failure.details or result.failure.reason}", file=sys.stderr)
    return DONE if result.status is Status.COMPLETE else FAILED


def _single(command: Command) -> tuple[DictConfig, RunConfig]:
    """The configuration, which searches nothing."""
    for key, written in command.request.searched.items():
        raise InvalidValueError(
            key, written, "mode=train trains one configuration; a sweep expression is for mode=search"
        )
    config = command.compose()
    build.engine_config(config)
    return config, build.run_config(config)


def _unique(name: str, checkpoints: CheckpointFiles) -> str:
    """The name of a training in a store: of the same training in another folder it is another one."""
    return f"{name}.{hashlib.sha256(str(checkpoints.folder.resolve()).encode()).hexdigest()[:8]}"


def _alone(config: EngineConfig) -> EngineConfig:
    """The engine of a single training: the serial one, unless another is asked for."""
    return EngineConfig("serial") if config.name == "auto" else config


def _going_on(trial: Trial, checkpoints: CheckpointFiles) -> tuple[Trial, Checkpoint | None]:
    """The training as it is asked for, and the checkpoint that it goes on from; None where it begins anew.

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
    """Keep nothing but what the training goes on from, and the states that it has ended with; the step it is at."""
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
