"""Print what is recorded: tables, the command line of the best trial, the pages in MLflow."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from rich.console import Console

from sweep.comparison import Comparison
from sweep.config import ENERGY_DISTANCE, TrackingConfig
from sweep.core import ComparisonRecord, StudyRecord, TrialRecord
from sweep.errors import InvalidValueError
from sweep.passwords import without_passwords
from sweep.report.standings import comparison_table, explanation
from sweep.report.text import counts, failures, train_command
from sweep.report.trials import study_table
from sweep.requests.build import ui_config
from sweep.requests.command import Command
from sweep.terminal.console import has_hyperlinks, say, say_pages
from sweep.tracking import (
    HOST,
    Store,
    artifact_page,
    compare_page,
    finals_page,
    metric_page,
    run_page,
    trainings_page,
    trials_page,
)

BEST = 10
"""Trials in the table, and on the page that compares trials."""
DRAWN = 4
"""Runs whose curves a page shows: the legend of MLflow's charts has no space for more."""


@dataclass(frozen=True)
class MlflowUi:
    """The MLflow UI that has the record of a command.

    Args:
        address: of its first page.
        where: the command that starts it, or the address of the tracking server.
        linked: whether the titles of its pages are printed as hyperlinks; otherwise their addresses are printed.
    """

    address: str
    where: str
    linked: bool

    @classmethod
    def of(cls, command: Command, tracking: TrackingConfig, out: Console) -> "MlflowUi":
        """Return the UI on the tracking server, or that on this machine; addresses contain no user or password."""
        config = ui_config(command.compose())
        linked = config.links == "auto" and has_hyperlinks(out)
        if tracking.uri.startswith("http"):
            parts = urlsplit(tracking.uri)
            address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
            return cls(address, address, linked)
        given = [text for text in command.request.plain if text.startswith(("tracking.uri", "tracking.exp", "ui.port"))]
        kept = [text for text in given if without_passwords(text) == text]
        start = shlex.join(["python", "-m", "sweep", "mode=ui", *kept])
        return cls(f"http://{HOST}:{config.port}", f"start it with: {start}", linked)


def show_study(out: Console, study: StudyRecord, ui: MlflowUi) -> None:
    """Print the best trials, the reasons of failed trials, the command of the best trial, and the pages in MLflow.

    Addresses are printed first, because they fill the screen.
    """
    best = study.ranked[:1]
    if not ui.linked:
        show_pages(out, study_pages(study, ui.address), ui)
    say(out, "")
    if best:
        out.print(study_table(study, BEST, out.width))
    say(out, "\n".join([counts(study.trials), *failures(_numbered(study))]))
    if best:
        say(out, f"\ntrain the best again:\n  {train_command(study, best[0])}")
    if ui.linked:
        show_pages(out, study_pages(study, ui.address), ui)


def show_comparison(out: Console, record: ComparisonRecord, comparisons: Sequence[Comparison], ui: MlflowUi) -> None:
    """Print for each data set the table, the verdict and the reasons of failures, and the pages in MLflow.

    Addresses are printed first, because they fill the screen.
    """
    pages = comparison_pages(record, comparisons, ui.address)
    if not ui.linked:
        show_pages(out, pages, ui)
    for comparison in comparisons:
        say(out, "")
        out.print(comparison_table(comparison, out.width))
        say(out, explanation(comparison, record.metric))
        say(out, f"\n{comparison.dataset}: {comparison.verdict}")
        for standing in comparison.standings:
            finals = {final.seed: final.run for final in standing.finals}
            lines = [*failures(_numbered(standing.family.study)), *failures(finals, "seed")]
            for line in lines:
                say(out, f"{standing.schedule}: {line}")
    if ui.linked:
        show_pages(out, pages, ui)


def show_pages(out: Console, pages: Mapping[str, str], ui: MlflowUi) -> None:
    """Print the pages in MLflow below a heading that says where MLflow is."""
    hint = "; ui.links=plain prints addresses" if ui.linked else ""
    say(out, f"\nin MLflow ({ui.where}{hint}):")
    say_pages(out, pages, ui.linked)


def _numbered(study: StudyRecord) -> dict[int, TrialRecord]:
    return {trial.number: trial for trial in study.trials if trial.number is not None}


def comparison_pages(record: ComparisonRecord, comparisons: Sequence[Comparison], base: str) -> dict[str, str]:
    """Return the pages about a comparison, title -> address; one final run represents each family.

    Args:
        base: address of the MLflow UI.
    """
    standings = [standing for comparison in comparisons for standing in comparison.standings]
    one_each = [standing.finals[0].run.run_id for standing in standings if standing.finals]
    series = [name for standing in standings for final in standing.finals for name in final.run.series]
    experiment = record.experiment_id
    return {
        "the report": artifact_page(base, experiment, record.run_id, "report.html"),
        "results of the final runs, seed by seed": run_page(base, experiment, record.run_id),
        "all final runs, best first": finals_page(
            base, experiment, record.run_id, comparisons[0].metric, record.minimize
        ),
        **_curves(one_each, series, experiment, base, "of the final runs, one seed each"),
        **_compared(one_each, experiment, base, "the final runs, one seed each"),
    }


def study_pages(study: StudyRecord, base: str) -> dict[str, str]:
    """Return the pages about a study, title -> address.

    Args:
        base: address of the MLflow UI.
    """
    experiment, best = study.experiment_id, study.ranked[:BEST]
    drawn, runs = best[:DRAWN], [trial.run_id for trial in best]
    series = [name for trial in drawn for name in trial.series]
    which = "of the best trial" if len(drawn) == 1 else f"of the best {len(drawn)} trials"
    return {
        "all trials, best first": trials_page(base, experiment, study.run_id, study.metric, study.minimize),
        f"{study.metric} of each trial, and the best so far": run_page(base, experiment, study.run_id),
        "the report": artifact_page(base, experiment, study.run_id, "report.html"),
        **_curves(runs[:DRAWN], series, experiment, base, which),
        **_compared(runs, experiment, base, f"the best {len(runs)} trials"),
    }


def training_pages(store: Store, runs: Sequence[str], series: Sequence[str], base: str) -> dict[str, str]:
    """Return the pages about single trainings, title -> address.

    Args:
        runs: of the trainings, the latest first.
        series: those of the latest.
        base: address of the MLflow UI.

    Raises:
        InvalidValueError: names tracking.experiment if there is none.
    """
    if not runs:
        raise InvalidValueError("tracking.experiment", store.experiment, "holds no run yet")
    metric, experiment = ENERGY_DISTANCE if "D_" in series else "val_loss", store.experiment_id
    pages = {
        "the latest training": run_page(base, experiment, runs[0]),
        "all single trainings, best first": trainings_page(base, experiment, metric),
    }
    latest = list(runs[:DRAWN])
    if len(latest) > 1:
        pages |= _curves(latest, series, experiment, base, f"of the latest {len(latest)} trainings")
        pages |= _compared(latest, experiment, base, f"the latest {len(latest)} trainings")
    return pages


def _curves(runs: list[str], series: Sequence[str], experiment_id: str, base: str, which: str) -> dict[str, str]:
    """Return a page for the rates and one for the losses of each optimizer."""
    metrics = [f"{name}{metric}" for name in dict.fromkeys(series) for metric in ("lr", "loss")] if runs else []
    return {f"{metric} {which}": metric_page(base, experiment_id, runs, metric) for metric in metrics}


def _compared(runs: list[str], experiment_id: str, base: str, which: str) -> dict[str, str]:
    """Return the page that compares runs, if there is more than one."""
    return {f"comparison of {which}": compare_page(base, experiment_id, runs)} if len(runs) > 1 else {}
