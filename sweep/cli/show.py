"""What is recorded, shown: the table, the command line of the best, the links into MLflow."""

import shlex
from collections.abc import Sequence
from urllib.parse import urlsplit

from rich.console import Console

from sweep.comparison import Comparison
from sweep.config import ENERGY_DISTANCE, TrackingConfig
from sweep.core import ComparisonRecord, StudyRecord, TrialRecord
from sweep.errors import InvalidValueError
from sweep.passwords import without_passwords
from sweep.report.standings import comparison_table
from sweep.report.text import counts, failures, study_table, train_command
from sweep.requests.build import ui_config
from sweep.requests.command import Command
from sweep.terminal.console import say
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
"""Trials in the table."""
COMPARED = 4
"""Trials that the links compare: as many as the legend of MLflow's charts has room for."""


def show_study(out: Console, study: StudyRecord, base: str, serve: str) -> None:
    """Print the links into MLflow, the best trials, the reasons of failed trials, and the command of the best trial.

    Args:
        base: address of the MLflow UI.
        serve: the command that serves it.
    """
    best = study.ranked[:1]
    say(out, f"\nin MLflow ({serve} serves it):")  # first, so that the long addresses do not push the table away
    say(out, "\n".join(links(study, base)))
    if best:
        say(out, "")
        out.print(study_table(study, BEST, out.width))
    say(out, "\n".join([counts(study.trials), *failures(_numbered(study))]))
    if best:
        say(out, f"\ntrain the best again:\n  {train_command(study, best[0])}")


def show_comparison(
    out: Console, record: ComparisonRecord, comparisons: Sequence[Comparison], base: str, serve: str
) -> None:
    """Where to look, then for each data set the table, the verdict, and why trials and final runs failed.

    Args:
        base: address of the MLflow UI.
        serve: the command that serves it.
    """
    say(out, f"\nin MLflow ({serve} serves it):")
    say(out, "\n".join(comparison_links(record, comparisons, base)))
    for comparison in comparisons:
        say(out, "")
        out.print(comparison_table(comparison, out.width))
        say(out, f"{comparison.dataset}: {comparison.verdict}")
        for standing in comparison.standings:
            finals = {final.seed: final.run for final in standing.finals}
            lines = [*failures(_numbered(standing.family.study)), *failures(finals, "seed")]
            for line in lines:
                say(out, f"{standing.schedule}: {line}")


def _numbered(study: StudyRecord) -> dict[int, TrialRecord]:
    return {trial.number: trial for trial in study.trials if trial.number is not None}


def comparison_links(record: ComparisonRecord, comparisons: Sequence[Comparison], base: str) -> list[str]:
    """Addresses of pages about a comparison: one final run of each family stands for its others."""
    standings = [standing for comparison in comparisons for standing in comparison.standings]
    one_each = [standing.finals[0].run.run_id for standing in standings if standing.finals]
    experiment = record.experiment_id
    pages = {
        "the report": artifact_page(base, experiment, record.run_id, "report.html"),
        "results of the final runs, seed by seed": run_page(base, experiment, record.run_id),
        "all final runs": finals_page(base, experiment, record.run_id, comparisons[0].metric, record.minimize),
    }
    series = [name for standing in standings for final in standing.finals for name in final.run.series]
    return _lines(pages | _comparison(one_each, series, experiment, base, "of the final runs, one seed each"))


def links(study: StudyRecord, base: str) -> list[str]:
    """Addresses of pages about a study."""
    runs = [trial.run_id for trial in study.ranked[:COMPARED]]
    series = [name for trial in study.ranked[:COMPARED] for name in trial.series]
    pages = {
        "its trials": trials_page(base, study.experiment_id, study.run_id, study.metric, study.minimize),
        "the best so far, trial by trial": run_page(base, study.experiment_id, study.run_id),
        "the report": artifact_page(base, study.experiment_id, study.run_id, "report.html"),
    }
    which = "of the best trial" if len(runs) == 1 else f"of the best {len(runs)}"
    return _lines(pages | _comparison(runs, series, study.experiment_id, base, which))


def training_links(store: Store, runs: Sequence[str], series: Sequence[str], base: str) -> list[str]:
    """Addresses of pages about single trainings, the newest first.

    Args:
        series: those of the newest.

    Raises:
        InvalidValueError: names tracking.experiment if there is none.
    """
    if not runs:
        raise InvalidValueError("tracking.experiment", store.experiment, "holds no run yet")
    metric = ENERGY_DISTANCE if "D_" in series else "val_loss"
    pages = {
        "the latest training": run_page(base, store.public_experiment_id, runs[0]),
        "single trainings": trainings_page(base, store.public_experiment_id, metric),
    }
    latest = list(runs[:COMPARED])
    if len(latest) > 1:
        pages |= _comparison(latest, series, store.public_experiment_id, base, f"of the latest {len(latest)}")
    return _lines(pages)


def _comparison(runs: list[str], series: Sequence[str], experiment_id: str, base: str, which: str) -> dict[str, str]:
    if not runs:
        return {}
    metrics = [f"{name}{metric}" for name in dict.fromkeys(series) for metric in ("lr", "loss")]
    pages = {f"{metric} {which}": metric_page(base, experiment_id, runs, metric) for metric in metrics}
    if len(runs) > 1:
        pages[f"comparison {which}"] = compare_page(base, experiment_id, runs)
    return pages


def _lines(pages: dict[str, str]) -> list[str]:
    return [f"  {title}\n    {page}" for title, page in pages.items()]


def address(command: Command, tracking: TrackingConfig) -> str:
    """Where the MLflow UI is: the tracking server itself, or this machine. No user or password is repeated."""
    if not tracking.uri.startswith("http"):
        return f"http://{HOST}:{ui_config(command.compose()).port}"
    parts = urlsplit(tracking.uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def ui_command(command: Command) -> str:
    """The command that serves the record of this one. A URI with a password is not repeated."""
    given = [text for text in command.request.plain if text.startswith(("tracking.uri", "tracking.exp", "ui."))]
    kept = [text for text in given if without_passwords(text) == text]
    return shlex.join(["python", "-m", "sweep", "mode=ui", *kept])
