"""Write report.html, a single file that opens without a network."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, isnan

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sweep.comparison import Comparison, Standing, best_parameters, profile
from sweep.comparison.protocol import counted
from sweep.comparison.statistics import MOST_SEEDS
from sweep.core import ComparisonRecord, FinalRecord, Rows, Status, StudyRecord, TrialRecord
from sweep.report import charts
from sweep.report.charts import Chart, Curve, Look, looks
from sweep.report.describe import short
from sweep.report.text import column, counts, heading, number, param_text, percent, shown_metrics, train_command

DRAWN = 10
"""How many of the best trials of a search are drawn."""
BINS = 100
"""The most points of a curve of losses, each the mean over as many updates."""
RATES = 2000
"""The most points of a curve of rates; for longer curves only every n-th update is drawn."""
CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage", "resetScale2d"]]}
OF = {"": "", "G_": " of the generator", "D_": " of the critic"}
"""Series -> the network that it belongs to, for titles."""
OVER_SEEDS = "Line: mean over the seeds that ended as complete; band: lowest to highest."
TESTS = {"t": "paired t-tests", "wilcoxon": "Wilcoxon signed-rank tests"}

Importances = Mapping[str, Mapping[str, float]]
"""Label of a branch (empty if no group is searched) -> key -> importance; the importances of a branch sum to 1."""


@dataclass(frozen=True)
class Section:
    """The section of one data set: the ranking is above the table, the other charts are below it."""

    comparison: Comparison
    ranking: Chart | None
    charts: Sequence[Chart]


def comparison_page(
    record: ComparisonRecord,
    comparisons: Sequence[Comparison],
    rows: Mapping[str, Sequence[Rows]],
    importances: Mapping[tuple[str, str], Importances],
) -> str:
    """Return the page of a comparison; the same record gives the same text.

    Args:
        comparisons: one for each data set.
        rows: final run of a winner -> the rows of its optimizers.
        importances: data set, schedule -> importances in its study.
    """
    look = looks([family.schedule for family in record.families])
    sections = []
    for place, comparison in enumerate(comparisons):
        shares = {
            s.schedule: _one_level(importances.get((comparison.dataset, s.schedule), {})) for s in comparison.standings
        }
        drawn = _charts(str(place), record, comparison, rows, shares, look)
        sections.append(Section(comparison, _ranking(str(place), comparison, look), drawn))
    return _render(
        title=record.name,
        asked=_asked(record),
        record=record,
        sections=sections,
        profile=_profile(record, comparisons, look),
    )


def study_page(study: StudyRecord, rows: Mapping[str, Sequence[Rows]], importances: Importances) -> str:
    """Return the page of a search; the same record gives the same text.

    Args:
        rows: run of one of the best trials -> the rows of its optimizers.
    """
    best = study.ranked[:DRAWN]
    runs = {f"trial {trial.number}": rows[trial.run_id] for trial in best if trial.run_id in rows}
    rates, losses = {name: (of, "") for name, of in runs.items()}, {name: [of] for name, of in runs.items()}
    look = looks(list(runs))
    asked = {
        "metric": _direction(study.metric, study.minimize),
        "updates": _horizons([study]),
        "searched": ", ".join(study.searched) or "nothing",
    }
    drawn = [
        _history(study),
        *_optimizers("", rates, losses, look, f"The best {DRAWN} trials at most."),
        _importances("importance", importances, looks(list(importances))),
        *_landscapes_by_schedule(study),
    ]
    return _render(
        title=study.name,
        asked=asked,
        study=study,
        best=best,
        metrics=shown_metrics(study.metric, study.trials),
        charts=[chart for chart in drawn if chart],
    )


def _charts(
    place: str,
    record: ComparisonRecord,
    comparison: Comparison,
    rows: Mapping[str, Sequence[Rows]],
    shares: Importances,
    look: Mapping[str, Look],
) -> list[Chart]:
    """Return the charts of one data set below its table, without empty ones."""
    ended = {s.schedule: [f for f in s.finals if f.run.status is Status.COMPLETE] for s in comparison.standings}
    losses = {name: [rows[f.run.run_id] for f in finals if f.run.run_id in rows] for name, finals in ended.items()}
    # A schedule that reacts to its training has another curve on every seed.
    first = {s.schedule: s.finals[0] for s in comparison.standings if s.finals and s.finals[0].run.run_id in rows}
    rates = {name: (rows[final.run.run_id], f"seed {final.seed}") for name, final in first.items()}
    of_rates = "The rate of each update in the winners' final runs, on the first seed."
    drawn = [
        *_optimizers(f"-{place}", rates, losses, look, of_rates, OVER_SEEDS),
        _validation(f"validation-{place}", record.metric, ended, look),
        _best_of_k(f"best-of-k-{place}", record.metric, comparison.standings, look),
        _importances(f"importance-{place}", shares, look),
    ]
    for i, standing in enumerate(comparison.standings):
        study, trials = standing.family.study, counted(standing.family.study, record.trials)
        drawn.append(_landscape(f"landscape-{place}-{i}", study, trials, standing.schedule))
    return [chart for chart in drawn if chart]


def _ranking(place: str, comparison: Comparison, look: Mapping[str, Look]) -> Chart | None:
    if all(standing.ranked.estimate is None for standing in comparison.standings):
        return None
    caption = (
        f"Mean {comparison.metric} over the seeds of each winner's final runs with its "
        f"{percent(comparison.confidence)} bootstrap interval; {_better(comparison.minimize)} is better, and the best "
        "is on top."
    )
    figure = charts.ranking(comparison, look)
    return Chart(f"ranking-{place}", f"Ranking by {comparison.metric}", caption, figure)


def _of_curves(
    name: str,
    title: str,
    caption: str,
    drawn: Sequence[Curve],
    look: Mapping[str, Look],
    x_title: str,
    y_title: str,
    **scales: bool,
) -> Chart | None:
    if not drawn:
        return None
    figure = charts.curves(drawn, look, x_title, y_title, **scales)
    return Chart(name, title, caption, figure, {curve.name: look[curve.name] for curve in drawn})


def _optimizers(
    place: str,
    rates: Mapping[str, tuple[Sequence[Rows], str]],
    losses: Mapping[str, Sequence[Sequence[Rows]]],
    look: Mapping[str, Look],
    of_rates: str,
    of_losses: str = "",
) -> list[Chart | None]:
    """Return charts of learning rates and losses; for a GAN those of each network.

    Args:
        rates: name -> the rows of the optimizers of a run, and a note that is shown with the value.
        losses: name -> for each of its runs the rows of its optimizers.
        of_rates, of_losses: captions.
    """
    drawn: list[Chart | None] = []
    for series in dict.fromkeys(rows.series for run, _ in rates.values() for rows in run):
        of = {name: (rows, note) for name, (run, note) in rates.items() for rows in run if rows.series == series}
        lost = {name: [rows for run in of for rows in run if rows.series == series] for name, of in losses.items()}
        drawn.append(_rates(f"{series}lr{place}", f"Learning rate{OF[series]}", of, look, of_rates))
        drawn.append(_losses(f"{series}loss{place}", f"Training loss{OF[series]}", lost, look, of_losses))
    return drawn


def _rates(
    name: str, title: str, runs: Mapping[str, tuple[Rows, str]], look: Mapping[str, Look], caption: str
) -> Chart | None:
    """Return a chart of the learning rates of runs.

    Args:
        runs: label -> rows, and a note that is shown with the value.
    """
    drawn = []
    for label, (rows, note) in runs.items():
        if len(rows.lr):
            every = slice(None, None, -(-len(rows.lr) // RATES))
            drawn.append(Curve(label, rows.steps[every], rows.lr[every], note=note))
    # Most curves end near zero: only peaks that are far apart ask for a logarithmic axis.
    log = charts.wide(np.array([curve.y.max() for curve in drawn]))
    return _of_curves(name, title, caption, drawn, look, "step", "learning rate", log=log, stairs=True)


def _losses(
    name: str, title: str, runs: Mapping[str, Sequence[Rows]], look: Mapping[str, Look], caption: str
) -> Chart | None:
    """Return a chart of the losses of the batches, for each name over its runs."""
    recorded = {label: of for label, of in runs.items() if of and all(len(rows.loss) for rows in of)}
    drawn = [_over_seeds(label, *_binned(of)) for label, of in recorded.items()]
    size = max((_bin(of) for of in recorded.values()), default=1)
    binned = f" Each point is the mean over {size} updates." if size > 1 else ""
    caption = f"Loss of each batch before its update.{binned} {caption}"
    log = all(rows.loss.min() > 0 for of in recorded.values() for rows in of)
    return _of_curves(name, title, caption, drawn, look, "step", "training loss", log=log)


def _bin(runs: Sequence[Rows]) -> int:
    """Return the number of updates in a bin, so that there are at most BINS bins."""
    return -(-min(len(rows.loss) for rows in runs) // BINS)


def _binned(runs: Sequence[Rows]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps [n] and losses [runs, n], as means over bins of equally many updates (fewer in the last)."""
    updates = min(len(rows.loss) for rows in runs)
    starts = np.arange(0, updates, _bin(runs))
    sizes = np.diff(starts, append=updates)
    losses = np.array([rows.loss[:updates] for rows in runs])
    steps = np.add.reduceat(runs[0].steps[:updates], starts) / sizes
    return steps, np.add.reduceat(losses, starts, axis=1) / sizes


def _over_seeds(name: str, x: np.ndarray, values: np.ndarray) -> Curve:
    """Return a curve with the mean and the range of values [seeds, n]; without a range if there is one seed."""
    return Curve(name, x, values.mean(0), (values.min(0), values.max(0)) if len(values) > 1 else None)


def _validation(
    name: str, metric: str, runs: Mapping[str, Sequence[FinalRecord]], look: Mapping[str, Look]
) -> Chart | None:
    """Return a chart of the metric at the evaluations that all final runs of a family have."""
    drawn = []
    for label, finals in runs.items():
        values = [{m.step: m.metrics[metric] for m in final.evaluations if metric in m.metrics} for final in finals]
        steps = sorted(set.intersection(*map(set, values))) if values else []
        if steps:
            drawn.append(_over_seeds(label, np.array(steps), np.array([[of[step] for step in steps] for of in values])))
    caption = f"At each evaluation. {OVER_SEEDS}"
    return _of_curves(name, "Validation metric", caption, drawn, look, "step", metric)


def _best_of_k(name: str, metric: str, standings: Sequence[Standing], look: Mapping[str, Look]) -> Chart | None:
    drawn = [Curve(s.schedule, np.arange(1, len(s.best_of_k) + 1), s.best_of_k) for s in standings if len(s.best_of_k)]
    caption = (
        "Expected best of k trials drawn from those of the search: the result of each schedule with less tuning. If "
        "a curve still changes at its end, more trials would improve the result."
    )
    return _of_curves(name, "Expected best after k trials", caption, drawn, look, "trials", f"best {metric}")


def _importances(name: str, shares: Importances, look: Mapping[str, Look]) -> Chart | None:
    shares = {label: of for label, of in shares.items() if of}
    if not shares:
        return None
    caption = "How much each parameter explains of the difference between good and bad trials; the sum is 100%."
    figure = charts.importances(shares, look)
    return Chart(name, "Importance of parameters", caption, figure, {label: look[label] for label in shares})


def _one_level(importances: Importances) -> dict[str, float]:
    """Return the importances of all branches by key, with the branch if there are several."""
    named = {(key, label): share for label, of in importances.items() for key, share in of.items()}
    return {f"{key} ({label})" if label else key: share for (key, label), share in named.items()}


def _landscape(name: str, study: StudyRecord, trials: Sequence[TrialRecord], schedule: str) -> Chart | None:
    """Return the landscape of a schedule; None if it does not search both keys, or no trial ended as complete."""
    placed = [trial for trial in trials if all(trial.param(key) not in (None, "null") for key in charts.LANDSCAPE)]
    ranked = replace(study, trials=placed).ranked
    if not ranked or not set(charts.LANDSCAPE) <= set(study.searched):
        return None
    caption = f"A point is a trial, coloured by {study.metric}: brighter is better. × diverged, ○ pruned; ring: best."
    family = placed[0].param("schedule.name") or schedule
    if family in charts.HALF_LIVES:
        caption += " All points of a dashed line have the same half-life."
    figure = charts.landscape(study, placed, family, ranked[0])
    return Chart(name, f"{schedule}: decay_rate and decay_steps", caption, figure)


def _landscapes_by_schedule(study: StudyRecord) -> list[Chart | None]:
    """Return the landscape of each schedule that was searched."""
    by_schedule: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in study.trials:
        by_schedule[trial.param("schedule") or ""].append(trial)
    return [
        _landscape(f"landscape-{i}", study, by_schedule[schedule], schedule)
        for i, schedule in enumerate(sorted(by_schedule))
    ]


def _history(study: StudyRecord) -> Chart | None:
    if not study.ranked:
        return None
    caption = (
        f"{study.metric} of each trial, {_better(study.minimize)} is better; the line is the best so far. Trials "
        "without a result are at the worse edge: × diverged, ○ pruned, ▲ failed."
    )
    return Chart("history", "Trials", caption, charts.history(study))


def _profile(record: ComparisonRecord, comparisons: Sequence[Comparison], look: Mapping[str, Look]) -> Chart | None:
    """Return a chart of how often each schedule is among the fastest to the target, over several data sets."""
    found = profile(record, comparisons)
    if found is None or not len(found.tau):
        return None
    tau, share = np.append(found.tau, 1.05 * found.tau[-1]), np.column_stack([found.share, found.share[:, -1]])
    drawn = [Curve(name, tau, of) for name, of in zip(found.schedules, share, strict=True)]
    caption = (
        "Performance profile; a problem is one data set with one seed. At τ = 1 a line shows the share of problems in "
        "which the schedule needs the fewest updates to the target, further right the share in which it needs at most "
        "τ times the fewest. Higher is better; the distance to 100% at the right end is the share never solved."
    )
    scales = {"log": False, "stairs": True, "log_x": charts.wide(tau)}
    chart = _of_curves("profile", "Updates to the target", caption, drawn, look, "τ", "share solved", **scales)
    if chart:
        chart.figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    return chart


def _asked(record: ComparisonRecord) -> dict[str, str]:
    """Return the settings of a comparison, as terms and texts."""
    return {
        "schedules": ", ".join(dict.fromkeys(family.schedule for family in record.families)),
        "data sets": ", ".join(dict.fromkeys(family.dataset for family in record.families)),
        "trials of each": str(record.trials),
        "seeds": f"{len(record.seeds)} ({', '.join(map(str, record.seeds))})",
        "updates": _horizons([family.study for family in record.families]),
        "metric": _direction(record.metric, record.minimize),
        "confidence": percent(record.confidence),
        "test": f"{TESTS[record.test]} between all schedules, corrected by Holm",
    }


def _horizons(studies: Iterable[StudyRecord]) -> str:
    steps = (trial.param("train.steps") for study in studies for trial in study.trials)
    return ", ".join(dict.fromkeys(text for text in steps if text is not None)) or "–"


def _with_cells(trials: Sequence[TrialRecord], metrics: Sequence[str]) -> list[tuple[TrialRecord, list[str]]]:
    """Return each trial with its cells in the columns of the metrics."""
    columns = [column([trial.metrics.get(metric) for trial in trials], _figure) for metric in metrics]
    return [(trial, [cells[place] for cells in columns]) for place, trial in enumerate(trials)]


def _direction(metric: str, minimize: bool) -> str:
    return f"{metric}, {_better(minimize)} is better"


def _better(minimize: bool) -> str:
    return "lower" if minimize else "higher"


def _figure(value: float | None, digits: int = 4) -> str:
    """Format a number of a table; a dash stands for None and NaN, "never" for infinity."""
    if value is None or isnan(value):
        return "–"
    return number(value, digits) if isfinite(value) else "never"


def _parameters(standing: Standing) -> str:
    return ", ".join(short(key, value) for key, value in best_parameters(standing).items())


def _drawn(chart: Chart) -> Markup:
    """Return the figure as HTML that needs plotly.js in the page. Plotly escapes its texts."""
    return Markup(chart.figure.to_html(full_html=False, include_plotlyjs=False, div_id=chart.name, config=CONFIG))


def _render(**context: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sweep", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": percent,
        "drawn": _drawn,
        "figure": _figure,
        "heading": heading,
        "counts": counts,
        "parameters": _parameters,
    }
    environment.globals |= {
        "train_command": train_command,
        "param": param_text,
        "with_cells": _with_cells,
        "most_seeds": MOST_SEEDS,
    }
    return environment.get_template("page.html.j2").render(context, plotly_js=Markup(get_plotlyjs()))
