"""The modes that train: search, train, compare. Each turns a command line into a plan, and shows its result."""

import sys

from sweep.app.comparison import compare as carry_out_comparison
from sweep.app.search import search as carry_out_search
from sweep.app.training import train as carry_out_training
from sweep.cli.exits import DONE, FAILED, INTERRUPTED
from sweep.cli.show import address, show_comparison, show_study, training_links, ui_command
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
    """Search, then show the table of the best and the report. The exit status is FAILED if all trials have failed."""
    plan, front = make_plan(command), Terminal(console())
    base = address(command, plan.tracking)
    result = carry_out_search(plan, front, current_trainer())
    if result.record is None or result.report is None:
        recorded = plural(result.total, "trial is recorded", "trials are recorded")
        front.say(f"interrupted: {result.told} of {recorded}; the same command goes on")
        return INTERRUPTED
    show_study(front.console, result.record, base, ui_command(command))
    front.say(f"\nreport: {result.report}")
    saved = _saved(plan.first.train.save, result.unsaved, front)
    return FAILED if not saved or (result.failed and not result.told) else DONE


def train(command: Command) -> int:
    """Train one configuration, then show the key figures of its curve, and why it has failed if it has."""
    plan, front = make_training(command), Terminal(console())
    base, run = address(command, plan.tracking), plan.run
    ended = carry_out_training(plan, front, current_trainer())
    if ended.result is None or ended.run_id is None:
        front.say(f"interrupted: the same command resumes at step {ended.kept}")
        return INTERRUPTED
    assert front.display is not None
    for series in run.series:
        if series.name:
            front.say(f"{series.name}lr")
        events = front.display.events.get(ended.trial.number, ())
        half_life = series.schedule.after(*events).constant_half_life
        front.say(figures_text(key_figures(series.curve(events), half_life)))
    front.say(f"\nin MLflow ({ui_command(command)} serves it):")
    front.say("\n".join(training_links(ended.store, [ended.run_id], [series.name for series in run.series], base)))
    failure = ended.result.failure
    if failure is not None:
        print(f"sweep: the training failed: {failure.details or failure.reason}", file=sys.stderr)
    saved = _saved(run.train.save, ended.unsaved, front)
    return DONE if ended.result.status is Status.COMPLETE and saved else FAILED


def _saved(path: str | None, unsaved: str | None, front: Terminal) -> bool:
    """Say whether the file of train.save was written, if there is to be one; return False if it was not."""
    if unsaved is not None:
        print(f"sweep: {unsaved}", file=sys.stderr)
    elif path is not None:
        front.say(f"weights: {path}")
    return unsaved is None


def compare(command: Command) -> int:
    """Compare schedules, then show for each data set the table and the verdict."""
    plan, front = make_comparison(command), Terminal(console())
    base = address(command, plan.first.tracking)
    result = carry_out_comparison(plan, front, current_trainer())
    if result.report is None:
        left = plural(result.left, "training is left", "trainings are left")
        front.say(f"interrupted: {left}; the same command goes on")
        return INTERRUPTED
    show_comparison(front.console, result.record, result.comparisons, base, ui_command(command))
    front.say(f"\nreport: {result.report}")
    return FAILED if result.failed else DONE
