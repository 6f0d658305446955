"""The modes that train: search, train, compare. Each turns a command line into a plan, and prints its result."""

import sys

from sweep.app.comparison import compare as carry_out_comparison
from sweep.app.search import search as carry_out_search
from sweep.app.training import train as carry_out_training
from sweep.cli.exits import DONE, FAILED, INTERRUPTED
from sweep.cli.show import MlflowUi, show_comparison, show_pages, show_study, training_pages
from sweep.core import Status
from sweep.plurals import plural
from sweep.report.text import figures_text
from sweep.requests.command import Command
from sweep.requests.current_trainer import current_trainer
from sweep.requests.plan import make_comparison, make_plan, make_training
from sweep.schedules import key_figures
from sweep.terminal.console import console
from sweep.terminal.terminal import Terminal


def search(command: Command) -> int:
    """Search, then print the best trials. The exit status is FAILED if all trials failed."""
    plan, front = make_plan(command), Terminal(console())
    ui = MlflowUi.of(command, plan.tracking, front.console)
    result = carry_out_search(plan, front, current_trainer())
    if result.record is None or result.report is None:
        recorded = plural(result.total, "trial is recorded", "trials are recorded")
        front.say(f"interrupted: {result.told} of {recorded}; run the same command to resume")
        return INTERRUPTED
    show_study(front.console, result.record, ui)
    front.say(f"\nreport: {result.report}")
    saved = _saved(plan.first.train.save, result.unsaved, front)
    return FAILED if not saved or (result.failed and not result.told) else DONE


def train(command: Command) -> int:
    """Train one configuration, then print the key figures of its curve, and the reason if it failed."""
    plan, front = make_training(command), Terminal(console())
    run, ui = plan.run, MlflowUi.of(command, plan.tracking, front.console)
    ended = carry_out_training(plan, front, current_trainer())
    if ended.result is None or ended.run_id is None:
        front.say(f"interrupted: run the same command to resume at step {ended.kept}")
        return INTERRUPTED
    assert front.display is not None
    for series in run.series:
        if series.name:
            front.say(f"{series.name}lr")
        events = front.display.events.get(ended.trial.number, ())
        half_life = series.schedule.after(*events).constant_half_life
        front.say(figures_text(key_figures(series.curve(events), half_life)))
    series_names = [series.name for series in run.series]
    show_pages(front.console, training_pages(ended.store, [ended.run_id], series_names, ui.address), ui)
    failure = ended.result.failure
    if failure is not None:
        print(f"sweep: the training failed: {failure.details or failure.reason}", file=sys.stderr)
    saved = _saved(run.train.save, ended.unsaved, front)
    return DONE if ended.result.status is Status.COMPLETE and saved else FAILED


def _saved(path: str | None, unsaved: str | None, front: Terminal) -> bool:
    """Print whether the file of train.save was written, if it is set; return False if it was not."""
    if unsaved is not None:
        print(f"sweep: {unsaved}", file=sys.stderr)
    elif path is not None:
        front.say(f"weights: {path}")
    return unsaved is None


def compare(command: Command) -> int:
    """Compare schedules, then print the table and the verdict of each data set."""
    plan, front = make_comparison(command), Terminal(console())
    ui = MlflowUi.of(command, plan.first.tracking, front.console)
    result = carry_out_comparison(plan, front, current_trainer())
    if result.report is None:
        left = plural(result.left, "training is left", "trainings are left")
        front.say(f"interrupted: {left}; run the same command to resume")
        return INTERRUPTED
    show_comparison(front.console, result.record, result.comparisons, ui)
    front.say(f"\nreport: {result.report}")
    return FAILED if result.failed else DONE
