"""The modes: each turns a command line into a request, and its result into lines on the terminal."""

import csv
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product, zip_longest
from pathlib import Path
from subprocess import TimeoutExpired

from sweep import app
from sweep.app import comparison_files, report_folder, study_files, write
from sweep.cli.display import Terminal, console, say
from sweep.cli.exits import DONE, FAILED, INTERRUPTED
from sweep.cli.interrupt import interruptible
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
from sweep.config import RunConfig, TrackingConfig
from sweep.core import ComparisonRecord, Status
from sweep.report import (
    curve_picture,
    curves_picture,
    figures_table,
    figures_text,
    heading,
    scaling,
    warnings,
)
from sweep.requests import build, spaces
from sweep.requests.command import Command
from sweep.requests.plan import make_comparison, make_plan, make_training
from sweep.schedules import key_figures
from sweep.tracking import (
    Hooks,
    MlflowReader,
    Store,
    open_store,
    serving,
)
from sweep.validation import InvalidValueError


def search(command: Command) -> int:
    """Search, then show the table of the best and the report. The exit status is FAILED if all trials have failed."""
    plan, front = make_plan(command), Terminal()
    base = address(command, plan.tracking)
    result = app.search(plan, front)
    if result.record is None or result.report is None:
        front.say(f"interrupted: {result.told} of {result.total} trials are recorded; the same command goes on")
        return INTERRUPTED
    show_study(front.console, result.record, base, ui_command(command))
    front.say(f"\nreport: {result.report}")
    if result.told < result.total:
        front.say(f"study.timeout={plan.study.timeout} ended the search at {result.told} of {result.total} trials")
    return FAILED if result.failed and not result.told else DONE


def train(command: Command) -> int:
    """Train one configuration, then show the key figures of its curve, and why it has failed if it has."""
    plan, front = make_training(command), Terminal()
    base, run = address(command, plan.tracking), plan.run
    ended = app.train(plan, front)
    if ended.result is None or ended.run_id is None:
        front.say(f"interrupted: the same command goes on from step {ended.kept}")
        return INTERRUPTED
    assert front.display is not None
    for series in run.series:
        if series.name:
            front.say(f"{series.name}lr")
        schedule = series.schedule.after(*front.display.events.get(ended.trial.number, ()))
        curve = schedule.curve(run.train.steps * series.updates)
        front.say(figures_text(key_figures(curve, schedule.constant_half_life)))
    front.say(f"\nin MLflow ({ui_command(command)} serves it):")
    front.say("\n".join(training_links(ended.store, [ended.run_id], [series.name for series in run.series], base)))
    failure = ended.result.failure
    if failure is not None:
        print(f"sweep: the training failed: {failure.details or failure.reason}", file=sys.stderr)
    return DONE if ended.result.status is Status.COMPLETE else FAILED


def compare(command: Command) -> int:
    """Compare schedules, then show for each data set the table and the verdict."""
    plan, front = make_comparison(command), Terminal()
    base = address(command, plan.first.tracking)
    result = app.compare(plan, front)
    if result.report is None:
        front.say(f"interrupted: {result.left} trainings are left; the same command goes on")
        return INTERRUPTED
    show_comparison(front.console, result.record, result.comparisons, base, ui_command(command))
    front.say(f"\nreport: {result.report}")
    return FAILED if result.failed else DONE


def preview(command: Command) -> int:
    """Curves as csv and picture, and their key figures; trains nothing. Lists (a,b,c) are drawn side by side."""
    build.engine_config(command.compose())
    path = Path(build.preview_config(command.compose()).path)
    runs = _previewed(command)
    drawn = {
        _column(label if len(runs) > 1 else "", series.name): (series.schedule, run.train.steps * series.updates)
        for label, run in runs.items()
        for series in run.series
    }
    curves = {column: schedule.curve(steps) for column, (schedule, steps) in drawn.items()}
    figures = [key_figures(curves[column], schedule.constant_half_life) for column, (schedule, _) in drawn.items()]
    columns = list(curves)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = zip_longest(*(map(repr, curve.tolist()) for curve in curves.values()), fillvalue="")
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
        of = "" if len(runs) == 1 else f"{label}: "
        for scaled in scaling(run):
            say(out, f"{of}{scaled}")
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
        write(comparison_files(reader, found, comparisons, storage), folder)
        show_comparison(out, found, comparisons, base, serve)
    else:
        write(study_files(reader, found, storage), folder)
        show_study(out, found, base, serve)
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
        trainings = reader.trainings()
        series = trainings[0].series if trainings else []
        lines = training_links(store, [training.run_id for training in trainings], series, base)
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
        lists[key] = spaces.listed(command.compose(), override)
    runs = {}
    for values in product(*lists.values()):
        chosen = {key: f"{key}={value}" for key, value in zip(lists, values, strict=True)}
        parts = [_label(key, value) for key, value in zip(lists, values, strict=True)]
        runs[" ".join(parts) or "lr"] = build.run_config(command.composer.compose([*chosen.values(), *request.plain]))
    for run in runs.values():
        if run.train.steps != next(iter(runs.values())).train.steps:
            raise InvalidValueError("train.steps", run.train.steps, "must be the same for all that is drawn")
    return runs


def _column(label: str, series: str) -> str:
    """What a curve is called: its run where there are several, and whose rate it is where a run has two."""
    return " ".join(filter(None, [label, f"{series}lr" if series or not label else ""]))


def _label(key: str, value: str) -> str:
    """A choice in a legend: a schedule by its name, anything else with what it is."""
    return value if key == "schedule" else f"{heading(key)}={value}".replace("\\", "")  # Hydra escapes interpolations


def _existing_store(command: Command) -> tuple[TrackingConfig, Store]:
    """Where something is recorded already."""
    tracking = build.tracking_config(command.compose())
    store = open_store(tracking, create=False, hooks=Hooks(lambda text: say(console(), text)))
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
