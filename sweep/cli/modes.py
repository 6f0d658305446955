"""The modes: each wires the rooms together for one purpose."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from subprocess import TimeoutExpired

from omegaconf import DictConfig

from sweep import study
from sweep.checkpoints import CheckpointFiles
from sweep.cli import build
from sweep.cli.compare import compare
from sweep.cli.display import Display, console, say
from sweep.cli.interrupt import interruptible
from sweep.cli.main import DONE, FAILED, INTERRUPTED, Command
from sweep.cli.plan import make_comparison, make_plan
from sweep.cli.publish import comparison_files, report_folder, study_files, write
from sweep.cli.resources import checkpoints_of, engine_of, settle, store_of
from sweep.cli.search import search
from sweep.cli.show import (
    address,
    comparison_links,
    links,
    recorded,
    show_comparison,
    show_study,
    training_links,
    ui_command,
)
from sweep.comparison import compare as compared
from sweep.config import EngineConfig, RunConfig, TrackingConfig
from sweep.core import Checkpoint, ComparisonRecord, Status, Trial
from sweep.data import load
from sweep.report import (
    curve_picture,
    curves_picture,
    describe,
    figures_table,
    figures_text,
    heading,
    training_name,
    warnings,
)
from sweep.schedules import key_figures
from sweep.tracking import (
    MlflowReader,
    MlflowRecorder,
    Store,
    TrainingRuns,
    open_store,
    recorded_run,
    serving,
)
from sweep.training import CPU, Task, Work
from sweep.validation import InvalidValueError

__all__ = ["compare", "preview", "report", "search", "train", "ui"]


def train(command: Command) -> int:
    """Train one configuration through the same loop, recorded as a run of its own, and keep the state it ends with.

    A training that has not reached its horizon, or is asked for more steps, goes on from there.
    """
    config, run = _single(command, "mode=train trains one configuration")
    tracking, judged = build.tracking_config(config), build.study_config(config)
    engine = _alone(build.engine_config(config))
    base, data, out = address(command, tracking), load(run.dataset), console()
    Task(data, CPU, run.train.precision).check(run)
    judged.check_metric(data.classification, run.average)
    trial = Trial(0, run, run.train.seed, keeps_state=True)
    name = training_name(trial, data.digest)
    checkpoints = checkpoints_of(run, data, name, name, out)
    trial, checkpoint = _going_on(trial, checkpoints)
    checkpoints.prepare()
    goes_on = None if checkpoint is None else recorded_run(checkpoint.record)
    _check_store(tracking, goes_on)
    proposer = study.FixedTrials([trial])
    begun = 0 if checkpoint is None else checkpoint.state.step
    display = Display(out, judged.metric, judged.minimize, 1, 0, trial.last, single=True, first=begun)
    if checkpoint is not None:
        say(out, f"goes on from step {begun}, kept in {checkpoints.folder}")
    work = Work([run], 1, learns=False)
    with interruptible(display.say) as interrupted:
        store = store_of(tracking, run.train.checkpoint_dir, name, out, interrupted)
        recorder = MlflowRecorder(store, describe, TrainingRuns(store, name, goes_on))
        with engine_of(engine, data, work, judged.max_retries, out, interrupted) as trains, display:
            study.run(proposer, trains, recorder, checkpoints, display, judged.metric, interrupted)
        if proposer.results:
            settle(store, interrupted)
    if not proposer.results:
        kept = checkpoints.latest(trial)
        say(out, f"interrupted: the same command goes on from step {0 if kept is None else kept.state.step}")
        return INTERRUPTED
    (result,) = proposer.results
    events = display.events.get(trial.number, ())
    say(out, figures_text(key_figures(run.schedule.after(*events), run.train.steps)))
    say(out, f"\nin MLflow ({ui_command(command)} serves it):")
    say(out, "\n".join(training_links(store, [recorder.run_id(trial)], base)))
    return DONE if result.status is Status.COMPLETE else FAILED


def _alone(config: EngineConfig) -> EngineConfig:
    """The engine of a single training: the serial one, unless another is asked for."""
    return EngineConfig("serial") if config.name == "auto" else config


def _going_on(trial: Trial, checkpoints: CheckpointFiles) -> tuple[Trial, Checkpoint | None]:
    """The training as it is asked for, and the checkpoint that it goes on from; None where it begins anew."""
    more, horizon = trial.config.train.more_steps, trial.config.train.steps
    interrupted, ended = checkpoints.latest(trial), checkpoints.final.latest(trial)
    if interrupted is not None:
        if interrupted.last == (horizon if more is None else interrupted.first + more):  # the same request
            return replace(trial, first=interrupted.first), interrupted
        checkpoints.end(trial, interrupted)
        ended = checkpoints.final.latest(trial)
    if ended is None and (checkpoints.holds(trial) or checkpoints.final.holds(trial)):
        rule = "has no checkpoint of this training that is whole; delete it to begin the training anew"
        raise InvalidValueError("train.checkpoint_dir", checkpoints.folder, rule)
    if ended is None or (more is None and ended.state.step >= horizon):
        return trial, None
    trial = replace(trial, first=ended.state.step)
    ended = replace(ended, first=trial.first, last=trial.last)
    checkpoints.save(trial, ended)
    return trial, ended


def _check_store(tracking: TrackingConfig, goes_on: str | None) -> None:
    """Refuse a store that does not hold the run of a training that goes on."""
    store = open_store(tracking, create=False)
    if goes_on is not None and (store is None or not store.holds(goes_on)):
        rule = f"does not hold run {goes_on} of the training that goes on: name the one that does, or another"
        raise InvalidValueError("tracking.uri", tracking.uri, f"{rule} train.checkpoint_dir to begin anew")


def preview(command: Command) -> int:
    """Curves as csv and picture, and their key figures; trains nothing. Lists (a,b,c) are drawn side by side."""
    build.engine_config(command.compose())
    path = Path(build.preview_config(command.compose()).path)
    runs = _previewed(command)
    curves = {label: run.schedule.curve(run.train.steps) for label, run in runs.items()}
    figures = [key_figures(run.schedule, run.train.steps) for run in runs.values()]
    columns = list(curves) if len(curves) > 1 else ["lr"]
    with path.open("w", newline="") as file:
        rows = zip(*(map(repr, curve.tolist()) for curve in curves.values()), strict=True)
        csv.writer(file).writerows([("step", *columns), *((step, *row) for step, row in enumerate(rows))])
    picture = path.with_suffix(".png")
    single = len(curves) == 1
    picture.write_bytes(curve_picture(next(iter(curves.values())), figures[0]) if single else curves_picture(curves))
    out = console()
    if single:
        say(out, figures_text(figures[0]))
    else:
        out.print(figures_table(dict(zip(curves, figures, strict=True))))
    for label, run in runs.items():
        of = "" if single else f"{label}: "
        for warning in warnings(run):
            say(out, f"warning: {of}{warning}")
        for reaction in run.schedule.reactions:
            say(out, f"{of}drawn before any event: {reaction.name} waits for {reaction.watches} at the evaluations")
    say(out, f"written to {path} and {picture}")
    return DONE


def report(command: Command) -> int:
    """The table and the report again, from what is recorded; of a comparison, with other statistics if asked for."""
    config = command.compose()
    tracking, store = _existing_store(command)
    reader, out, storage = MlflowReader(store), console(), build.study_config(config).storage
    found = recorded(reader, _name(command))
    folder = report_folder(build.report_config(config), found.name)
    base, serve = address(command, tracking), ui_command(command)
    if isinstance(found, ComparisonRecord):
        asked = asdict(build.compare_config(config))
        statistics = {key: asked[key] for key in STATISTICS if f"compare.{key}" in command.request.keys}
        found = replace(found, **statistics)
        comparisons = compared(found)
        show_comparison(out, found, comparisons, base, serve)
        write(comparison_files(reader, found, comparisons, storage), folder)
    else:
        show_study(out, found, base, serve)
        write(study_files(reader, found, storage), folder)
    say(out, f"\nreport: {folder / 'report.html'}")
    return DONE


STATISTICS = ("trials", "confidence", "target", "test")
"""Keys of compare that a report can be of without another training."""


def ui(command: Command) -> int:
    """Serve MLflow on this machine until interrupted, with links that open pages with something on them."""
    tracking, store = _existing_store(command)
    out, reader, base = console(), MlflowReader(store), address(command, tracking)
    if reader.names():
        found = recorded(reader, _name(command))
        if isinstance(found, ComparisonRecord):
            lines = comparison_links(found, compared(found), base)
        else:
            lines = links(found, base)
    else:
        lines = training_links(store, [training.run_id for training in reader.trainings()], base)
    if tracking.uri.startswith("http"):
        say(out, "\n".join(lines))
        return DONE
    port = build.ui_config(command.compose()).port
    with interruptible(lambda text: None, at_once=_interrupt) as interrupted:
        say(out, "MLflow is starting ...")
        with serving(tracking.uri, port, interrupted) as server:
            if not interrupted():
                say(out, "\n".join([f"MLflow serves {base}; Ctrl-C ends it.", *lines]))
            while not interrupted():
                with suppress(TimeoutExpired):
                    server.wait(0.5)
                    if not interrupted():
                        raise RuntimeError("the MLflow server ended")
    return DONE


def _interrupt() -> None:
    """Let a with block end its server."""
    raise KeyboardInterrupt


def _previewed(command: Command) -> dict[str, RunConfig]:
    """The configurations to preview, by what tells them apart: one for each combination of the lists given.

    Raises:
        InvalidValueError: names an interval, or curves of different lengths.
    """
    request = command.request
    lists: dict[str, Sequence[str]] = dict(request.groups)
    for key, override in request.sweeps.items():
        if override.is_interval_sweep():
            rule = "mode=preview draws the values of a list (a,b,c) or range; an interval is for mode=search"
            raise InvalidValueError(key, request.searched[key], rule)
        lists[key] = build.listed(command.compose(), override)
    runs = {}
    for values in product(*lists.values()):
        chosen = {key: f"{key}={value}" for key, value in zip(lists, values, strict=True)}
        parts = [_label(key, value) for key, value in zip(lists, values, strict=True)]
        runs[" ".join(parts) or "lr"] = build.run_config(command.composer.compose([*chosen.values(), *request.plain]))
    for run in runs.values():
        if run.train.steps != next(iter(runs.values())).train.steps:
            raise InvalidValueError("train.steps", run.train.steps, "must be the same for all that is drawn")
    return runs


def _label(key: str, value: str) -> str:
    """A choice in a legend: a schedule by its name, anything else with what it is."""
    return value if key == "schedule" else f"{heading(key)}={value}".replace("\\", "")  # Hydra escapes interpolations


def _single(command: Command, rule: str) -> tuple[DictConfig, RunConfig]:
    """The configuration of a mode that has no search."""
    for key, written in command.request.searched.items():
        raise InvalidValueError(key, written, f"{rule}; a sweep expression is for mode=search")
    config = command.compose()
    build.engine_config(config)
    return config, build.run_config(config)


def _existing_store(command: Command) -> tuple[TrackingConfig, Store]:
    """Where something is recorded already."""
    tracking = build.tracking_config(command.compose())
    store = open_store(tracking, create=False)
    if store is None:
        raise InvalidValueError("tracking.uri", tracking.uri, f"holds no experiment {tracking.experiment} yet")
    return tracking, store


def _name(command: Command) -> str | None:
    """The study or comparison that a command line is about; None for the one begun last, where it does not say."""
    name = build.study_config(command.compose()).name
    about = {key for key in command.request.keys if key.partition(".")[0] not in ("mode", "tracking", "report", "ui")}
    about -= {"study.storage", *(f"compare.{key}" for key in STATISTICS)}
    if name or not about:
        return name
    compares = command.request.datasets or any(key.startswith("compare.") for key in about)
    return make_comparison(command).name if compares else make_plan(command).name
