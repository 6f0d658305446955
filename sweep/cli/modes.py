"""The modes: each wires the rooms together for one purpose."""

import csv
import json
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired

from omegaconf import DictConfig

from sweep import study
from sweep.cli import build
from sweep.cli.display import Display, console, say
from sweep.cli.interrupt import interruptible
from sweep.cli.main import DONE, FAILED, INTERRUPTED, Command
from sweep.cli.plan import Plan, make_plan
from sweep.cli.show import address, links, recorded_study, repeating, show_study, training_links, ui_command
from sweep.config import RunConfig, TrackingConfig
from sweep.core import Status, Trial
from sweep.data import load
from sweep.database import same_database
from sweep.report import as_params, curve_picture, describe, figures_text, stall_warning
from sweep.schedules import key_figures
from sweep.search import OptunaProposer, check_storage, open_study, pruner, sampler
from sweep.tracking import MlflowReader, MlflowRecorder, Store, StudyRun, open_store, serving
from sweep.training import SerialEngine, choose_device
from sweep.validation import InvalidValueError


def search(command: Command) -> int:
    """Search: trials until the total is reached, then the table of the best."""
    plan, out = make_plan(command), console()
    base, judged = address(command, plan.tracking), plan.study.metric
    horizon = plan.first.train.steps
    chosen_pruner = pruner(plan.pruner, horizon, plan.space.conditional)
    engine = _checked_engine(plan)
    recorded_before = open_store(plan.tracking, create=False)
    optuna_study, uid = open_study(plan.study, plan.name, plan.identity, chosen_pruner)
    proposer = OptunaProposer(optuna_study, plan.space, plan.sampler, plan.study)
    if proposer.told and recorded_before is None:
        raise _recorded_elsewhere(plan)
    store = recorded_before or open_store(plan.tracking)
    parent = StudyRun(store, uid, plan.name, judged, plan.study.minimize)
    if parent.exists:
        parent.reopen()
    elif proposer.told:
        raise _recorded_elsewhere(plan)
    else:
        tags = {"sweep.searched": json.dumps(plan.space.keys), "sweep.command": repeating(command)}
        parent.create(as_params(plan.recorded), tags)
    recorder = MlflowRecorder(
        store, describe, parent, on_open=lambda trial, run_id: proposer.annotate(trial, "mlflow_run_id", run_id)
    )
    say(out, f"study {plan.name}: {proposer.told} of {proposer.total} trials done")
    display = Display(out, judged, plan.study.minimize, proposer.total, proposer.told, horizon, parent.best)
    try:
        with interruptible(display.say) as interrupted, display:
            study.run(proposer, engine, recorder, display, judged, interrupted)
    except BaseException as error:
        parent.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    recorder.give_up(proposer.failed)
    short = proposer.told < proposer.total
    parent.finish("KILLED" if interrupted() and short else "FINISHED")
    if interrupted() and short:
        say(out, f"interrupted: {proposer.told} of {proposer.total} trials are recorded; the same command goes on")
        return INTERRUPTED
    show_study(out, recorded_study(MlflowReader(store), plan.name), base, ui_command(command))
    if proposer.failed:
        say(out, f"given up after {plan.study.max_retries} retries: trials {proposer.failed}")
    if short:
        say(out, f"study.timeout={plan.study.timeout} ended the search at {proposer.told} of {proposer.total} trials")
    return DONE


def train(command: Command) -> int:
    """Train one configuration through the same loop, recorded as a run of its own."""
    config, run = _single(command, "mode=train trains one configuration")
    tracking, judged = build.tracking_config(config), build.study_config(config)
    base, data, out = address(command, tracking), load(run.dataset), console()
    engine = SerialEngine(data, choose_device(run.train), run.train.precision)
    engine.check(run)
    judged.check_metric(data.classification)
    store = open_store(tracking)
    recorder = MlflowRecorder(store, describe)
    trial = Trial(0, run, run.train.seed)
    proposer = study.FixedTrials([trial])
    display = Display(out, judged.metric, judged.minimize, 1, 0, run.train.steps, single=True)
    with interruptible(display.say) as interrupted, display:
        study.run(proposer, engine, recorder, display, judged.metric, interrupted)
    if not proposer.results:
        say(out, "interrupted: the training is begun again by the same command")
        return INTERRUPTED
    say(out, figures_text(key_figures(run.schedule, run.train.steps)))
    say(out, f"\nin MLflow ({ui_command(command)} serves it):")
    say(out, "\n".join(training_links(store, [recorder.run_id(trial)], base)))
    return DONE if proposer.results[0].status is Status.COMPLETE else FAILED


def preview(command: Command) -> int:
    """The curve as csv and picture, and its key figures; trains nothing."""
    config, run = _single(command, "mode=preview shows one schedule")
    path = Path(build.preview_config(config).path)
    curve, figures = run.schedule.curve(run.train.steps), key_figures(run.schedule, run.train.steps)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("step", "lr"), *((step, repr(lr)) for step, lr in enumerate(curve.tolist()))])
    picture = path.with_suffix(".png")
    picture.write_bytes(curve_picture(curve, figures))
    out = console()
    say(out, figures_text(figures))
    warning = stall_warning(figures)
    if warning:
        say(out, f"warning: {warning}")
    say(out, f"written to {path} and {picture}")
    return DONE


def report(command: Command) -> int:
    """The table again, from what is recorded."""
    tracking, store = _existing_store(command)
    recorded = recorded_study(MlflowReader(store), _study_name(command))
    show_study(console(), recorded, address(command, tracking), ui_command(command))
    return DONE


def ui(command: Command) -> int:
    """Serve MLflow on this machine until interrupted, with links that open pages with something on them."""
    tracking, store = _existing_store(command)
    out, reader, base = console(), MlflowReader(store), address(command, tracking)
    if reader.studies():
        lines = links(recorded_study(reader, _study_name(command)), base)
    else:
        lines = training_links(store, [training.run_id for training in reader.trainings()], base)
    if tracking.uri.startswith("http"):
        say(out, "\n".join(lines))
        return DONE
    port = build.ui_config(command.compose()).port
    say(out, "MLflow is starting ...")
    with interruptible(lambda text: None) as interrupted, serving(tracking.uri, port, interrupted) as server:
        if not interrupted():
            say(out, "\n".join([f"MLflow serves {base}; Ctrl-C ends it.", *lines]))
        while not interrupted():
            with suppress(TimeoutExpired):
                server.wait(0.5)
                if not interrupted():
                    raise RuntimeError("the MLflow server ended")
    return DONE


def _checked_engine(plan: Plan) -> SerialEngine:
    """The engine of a plan, after everything that could be refused later has been tried. Writes nothing."""
    engine = SerialEngine(plan.data, choose_device(plan.first.train), plan.first.train.precision)
    for branch in plan.space.branches:
        engine.check(branch.configure({}))
        for config in branch.extremes():
            engine.check(config)
    plan.study.check_metric(plan.data.classification)
    sampler(plan.sampler, plan.space, 0)
    if same_database(plan.study.storage, plan.tracking.uri):
        raise InvalidValueError("study.storage", plan.study.storage, "must be another database than tracking.uri")
    check_storage(plan.study)
    return engine


def _recorded_elsewhere(plan: Plan) -> InvalidValueError:
    """The refusal to go on with a study whose trials are recorded somewhere else."""
    rule = f"does not hold the trials that study {plan.name} has in study.storage; name the tracking.uri that does"
    return InvalidValueError("tracking.uri", plan.tracking.uri, f"{rule}, or another study.name")


def _single(command: Command, rule: str) -> tuple[DictConfig, RunConfig]:
    """The configuration of a mode that has no search."""
    for key, written in command.request.searched.items():
        raise InvalidValueError(key, written, f"{rule}; a sweep expression is for mode=search")
    config = command.compose()
    build.check_engine(config)
    return config, build.run_config(config)


def _existing_store(command: Command) -> tuple[TrackingConfig, Store]:
    """Where something is recorded already."""
    tracking = build.tracking_config(command.compose())
    store = open_store(tracking, create=False)
    if store is None:
        raise InvalidValueError("tracking.uri", tracking.uri, f"holds no experiment {tracking.experiment} yet")
    return tracking, store


def _study_name(command: Command) -> str | None:
    """The study that a command line is about; None for the one begun last, where it says nothing about it."""
    name = build.study_config(command.compose()).name
    about = {key for key in command.request.keys if key.partition(".")[0] not in ("mode", "tracking", "ui")}
    about -= {"study.storage"}
    return name or (make_plan(command).name if about else None)
