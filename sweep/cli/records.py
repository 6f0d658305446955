"""The modes that read the record: report and ui."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from subprocess import TimeoutExpired

from rich.console import Console

from sweep.app.files import report_folder, write
from sweep.app.records import recorded
from sweep.app.reports import comparison_files, study_files
from sweep.cli.exits import DONE
from sweep.cli.show import MlflowUi, comparison_pages, show_comparison, show_study, study_pages, training_pages
from sweep.comparison import compare as compared
from sweep.config import TrackingConfig, UiConfig
from sweep.core import ComparisonRecord
from sweep.errors import InvalidValueError
from sweep.requests import build
from sweep.requests.command import Command
from sweep.requests.plan import make_comparison, make_plan
from sweep.terminal import browser
from sweep.terminal.console import console, say, say_pages
from sweep.terminal.interrupt import interruptible
from sweep.tracking import Hooks, MlflowReader, Store, open_store, serving

STATISTICS = ("trials", "confidence", "target", "test")
"""Keys of compare that a report can change without another training."""


def report(command: Command) -> int:
    """Print the table and write the report again from the record; of a comparison, with other statistics if given."""
    config = command.compose()
    tracking, store = _existing_store(command)
    reader, out, storage = MlflowReader(store), console(), build.study_config(config).storage
    found = recorded(reader, _name(command))
    folder = report_folder(build.report_config(config), found.name)
    shown = MlflowUi.of(command, tracking, out)
    if isinstance(found, ComparisonRecord):
        asked = asdict(build.compare_config(config))
        statistics = {key: asked[key] for key in STATISTICS if f"compare.{key}" in command.request.keys}
        found = replace(found, **statistics)
        comparisons = compared(found)
        write(comparison_files(reader, found, comparisons, storage), folder)
        show_comparison(out, found, comparisons, shown)
    else:
        write(study_files(reader, found, storage), folder)
        show_study(out, found, shown)
    say(out, f"\nreport: {folder / 'report.html'}")
    return DONE


def ui(command: Command) -> int:
    """Serve MLflow on this machine until interrupted; print pages of the record, and open the first in a browser.

    If the record is on a tracking server, nothing is served.
    """
    tracking, store = _existing_store(command)
    config, out = build.ui_config(command.compose()), console()
    shown = MlflowUi.of(command, tracking, out)
    pages = _pages(command, store, shown.address)
    if tracking.uri.startswith("http"):
        _show(out, pages, shown, config)
        return DONE
    with interruptible(lambda text: None, at_once=_interrupt) as interrupted:
        say(out, "MLflow is starting ...")
        with serving(tracking.uri, config.port, interrupted) as server:
            if not interrupted():
                say(out, f"MLflow runs at {shown.address}; Ctrl-C stops it")
                _show(out, pages, shown, config)
            while not interrupted():
                with suppress(TimeoutExpired):
                    server.wait(0.5)
                    if not interrupted():
                        raise RuntimeError("the MLflow server ended")
    return DONE


def _pages(command: Command, store: Store, base: str) -> dict[str, str]:
    """Return the pages about the study or comparison that a command is about, or about single trainings."""
    reader = MlflowReader(store)
    if not reader.names():
        trainings = reader.trainings()
        series = trainings[0].series if trainings else []
        return training_pages(store, [training.run_id for training in trainings], series, base)
    found = recorded(reader, _name(command))
    if isinstance(found, ComparisonRecord):
        return comparison_pages(found, compared(found), base)
    return study_pages(found, base)


def _show(out: Console, pages: Mapping[str, str], shown: MlflowUi, config: UiConfig) -> None:
    say_pages(out, pages, shown.linked)
    opens = out.file.isatty() and browser.is_at_hand() if config.open == "auto" else config.open
    if opens and not browser.open_page(next(iter(pages.values()))):
        say(out, "ui.open: no browser could be started")


def _interrupt() -> None:
    """Let a with block end its server."""
    raise KeyboardInterrupt


def _existing_store(command: Command) -> tuple[TrackingConfig, Store]:
    """Return the store of a command.

    Raises:
        InvalidValueError: names tracking.uri if it has no experiment.
    """
    tracking = build.tracking_config(command.compose())
    store = open_store(tracking, create=False, hooks=Hooks(lambda text: say(console(), text)))
    if store is None:
        raise InvalidValueError("tracking.uri", tracking.uri, f"has no experiment {tracking.experiment} yet")
    return tracking, store


def _name(command: Command) -> str | None:
    """Return the name of the study or comparison that a command is about; None if it does not say, for the latest."""
    name = build.study_config(command.compose()).name
    about = {key for key in command.request.keys if key.partition(".")[0] not in ("mode", "tracking", "report", "ui")}
    about -= {"study.storage", *(f"compare.{key}" for key in STATISTICS)}
    if name or not about:
        return name
    compares = command.request.datasets or any(key.startswith("compare.") for key in about)
    return make_comparison(command).name if compares else make_plan(command).name
