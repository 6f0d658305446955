"""mode=preview: compute curves without training, and print their key figures."""

from sweep.app.preview import preview as compute
from sweep.cli.exits import DONE
from sweep.report.text import figures_table, figures_text, scaling, warnings
from sweep.requests.command import Command
from sweep.requests.preview import make_preview
from sweep.terminal.console import console, say


def preview(command: Command) -> int:
    """Write the curves as csv and picture, and print their key figures."""
    plan = make_preview(command)
    result = compute(plan)
    out = console()
    if len(result.figures) == 1:
        say(out, figures_text(*result.figures.values()))
    else:
        out.print(figures_table(result.figures))
    for label, run in plan.runs.items():
        of = f"{label}: " if label else ""
        for scaled in scaling(run):
            say(out, f"{of}{scaled}")
        for warning in warnings(run):
            say(out, f"warning: {of}{warning}")
        for reaction in run.schedule.reactions:
            say(out, f"{of}drawn without events: {reaction.name} depends on {reaction.watches} at the evaluations")
    say(out, f"written to {plan.path} and {result.picture}")
    return DONE
