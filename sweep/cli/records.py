"""The modes that read the record: report and ui."""

from contextlib import suppress
from dataclasses import asdict, replace
from subprocess import TimeoutExpired

from sweep.app.files import report_folder, write
from sweep.app.records import recorded
from sweep.app.reports import comparison_files, study_files
from sweep.cli.exits import DONE
from sweep.cli.show import (
    address,
    comparison_links,
    links,
    show_comparison,
    show_study,
    training_links,
    ui_command,
)
from sweep.comparison import compare as compared
from sweep.config import TrackingConfig
from sweep.core import ComparisonRecord
from sweep.errors import InvalidValueError
from sweep.requests import build
from sweep.requests.command import Command
from sweep.requests.plan import make_comparison, make_plan
from sweep.terminal.console import console, say
from sweep.terminal.interrupt import interruptible
from sweep.tracking import Hooks, MlflowReader, Store, open_store, serving

STATISTICS = ("trials", "confidence", "target", "test")
"""Keys of compare that a report can be of without another training."""


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


def _existing_store(command: Command) -> tuple[TrackingConfig, Store]:
    """Where something is recorded already."""
    tracking = build.tracking_config(command.compose())
    store = open_store(tracking, create=False, hooks=Hooks(lambda text: say(console(), text)))
    if store is None:
        raise InvalidValueError("tracking.uri", tracking.uri, f"has no experiment {tracking.experiment} yet")
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
