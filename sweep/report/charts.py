"""Interactive charts. Backgrounds are transparent, and text takes its colour from the page that they stand in."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sweep.comparison import Comparison
from sweep.core import Status, StudyRecord, TrialRecord
from sweep.report.figures import COLOURS, VERMILION
from sweep.report.text import percent

GREY = "#7f7f7f"
"""Seen on a light page and on a dark one."""
PALETTE = tuple(GREY if colour == "#000000" else colour for colour in COLOURS)
DASHES = ("solid", "7px,4px", "2px,3px", "8px,3px,2px,3px")
GRID = "rgba(127,127,127,0.22)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
DECADES = 2
"""Powers of ten within which a logarithmic axis has labels between them."""
ROUND = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))
"""Round numbers of updates."""
APART = 0.12
"""Of the height of the picture, between the labels of half-lives."""
SPREAD = 5
"""Times the smallest value from which on an axis is logarithmic."""
HALF_LIVES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "exponential": lambda steps, half_life: 0.5 ** (steps / half_life),
    "natural_exponential": lambda steps, half_life: steps * math.log(2) / half_life,
}
"""Schedule -> the decay_rate that has a half-life, of decay_steps and the half-life (both in updates)."""
LANDSCAPE = ("schedule.decay_steps", "schedule.decay_rate")
"""The keys over which a landscape is drawn."""


@dataclass(frozen=True)
class Chart:
    """A figure with what stands beside it.

    Args:
        name: its id in the page.
        title: above it.
        caption: below it: what it shows.
        keys: the families drawn; each can be hidden.
    """

    name: str
    title: str
    caption: str
    figure: go.Figure
    keys: Mapping[str, "Look"] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """A line, and the band around it where there is one.

    Args:
        x, y: float64 [n].
        band: its ends below and above, float64 [n] each.
        note: after the value, where one points at the line.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None
    note: str = ""


@dataclass(frozen=True)
class Look:
    """How a family is drawn, the same in every chart of a page."""

    colour: str
    dash: str

    @property
    def pale(self) -> str:
        """The colour of its band."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.16)"


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name: the colours in turn, then the same colours with other dashes."""
    turns = {name: divmod(i, len(PALETTE)) for i, name in enumerate(dict.fromkeys(names))}
    return {name: Look(PALETTE[colour], DASHES[turn % len(DASHES)]) for name, (turn, colour) in turns.items()}


def curves(
    drawn: Sequence[Curve],
    look: Mapping[str, Look],
    x_title: str,
    y_title: str,
    log: bool | None = None,
    stairs: bool = False,
    log_x: bool = False,
) -> go.Figure:
    """Lines over a common x; where one points, all are read off at that x.

    Args:
        log: whether y is logarithmic; None to decide by the values.
        stairs: whether a value holds until the next.
    """
    figure = _figure(x_title, y_title)
    shape = "hv" if stairs else "linear"
    for curve in drawn:
        if curve.band is not None:
            figure.add_trace(_band(curve.name, curve.x, *curve.band, look[curve.name]))
    for curve in drawn:
        line = {"color": look[curve.name].colour, "dash": look[curve.name].dash, "width": 2, "shape": shape}
        name, note = _text(curve.name), _text(curve.note)
        trace = go.Scatter(x=curve.x, y=curve.y, name=name, legendgroup=curve.name, line=line)
        trace.mode = "lines" if len(curve.x) > 1 else "markers"
        trace.hovertemplate = f"%{{y:.4g}}{note and f' ({note})'}<extra>{name}</extra>"
        figure.add_trace(trace)
    x, y = (np.concatenate([getattr(curve, axis) for curve in drawn]) for axis in ("x", "y"))
    figure.update_layout(hovermode="x unified")
    figure.update_xaxes(hoverformat=".6~g", unifiedhovertitle_text=f"{x_title} %{{x}}", **_scale(x, log_x))
    figure.update_yaxes(**_scale(y, wide(y) if log is None else log))
    return figure


def _band(name: str, x: np.ndarray, low: np.ndarray, high: np.ndarray, look: Look) -> go.Scatter:
    """Return the filled area between low and high, as one outline."""
    outline = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([high, low[::-1]])}
    filled = {"fill": "toself", "fillcolor": look.pale, "line_width": 0, "mode": "lines"}
    return go.Scatter(**outline, **filled, legendgroup=name, hoverinfo="skip")


def ranking(comparison: Comparison, look: Mapping[str, Look]) -> go.Figure:
    """A dot with its interval for each family that has numbers, the best on top."""
    figure = _figure(comparison.metric, "")
    estimates = {s.schedule: s.ranked.estimate for s in comparison.standings if s.ranked.estimate is not None}
    values = [number for e in estimates.values() for number in (e.mean, e.low, e.high) if number is not None]
    for name, estimate in estimates.items():
        low = estimate.mean if estimate.low is None else estimate.low
        high = estimate.mean if estimate.high is None else estimate.high
        interval = f"<br>{percent(comparison.confidence)} interval {low:.4g} to {high:.4g}" if low < high else ""
        ends = {"array": [high - estimate.mean], "arrayminus": [estimate.mean - low], "thickness": 2, "width": 6}
        dot = go.Scatter(x=[estimate.mean], y=[_text(name)], error_x=ends, mode="markers")
        dot.marker = {"color": look[name].colour, "size": 11}
        dot.hovertemplate = f"{_text(name)}<br>mean {estimate.mean:.4g}{interval}<extra></extra>"
        figure.add_trace(dot)
    figure.update_layout(height=110 + 38 * len(estimates))
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(**_scale(np.array(values), wide(np.array(values))))
    return figure


def importances(shares: Mapping[str, Mapping[str, float]], look: Mapping[str, Look]) -> go.Figure:
    """Bars, for each key one of every family that searched it.

    Args:
        shares: family -> key -> importance between 0 and 1.
    """
    figure = _figure("importance", "")
    for name, of in shares.items():
        keys = [_text(key) for key in of]
        bar = go.Bar(x=list(of.values()), y=keys, name=_text(name), legendgroup=name, orientation="h")
        bar.marker.color = look[name].colour
        bar.hovertemplate = f"%{{y}}: %{{x:.0%}}<extra>{_text(name)}</extra>"
        figure.add_trace(bar)
    keys = list(dict.fromkeys(key for of in shares.values() for key in of))
    bars = len(keys) + sum(len(of) for of in shares.values())
    figure.update_layout(height=max(180, 80 + 13 * bars), bargap=0.25)
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def history(study: StudyRecord) -> go.Figure:
    """Draw the metric of every trial by its number, and the best so far. Trials without a value are at the edge."""
    figure = _figure("trial", study.metric)
    complete = sorted(study.ranked, key=lambda trial: trial.number or 0)
    values = np.array([trial.metrics[study.metric] for trial in complete])
    best = (np.minimum if study.minimize else np.maximum).accumulate(values)
    edge = max(values, default=0.0) if study.minimize else min(values, default=0.0)
    line = {"color": VERMILION, "width": 2, "shape": "hv"}
    numbers = _numbers(complete)
    figure.add_trace(go.Scatter(x=numbers, y=best, name="best so far", line=line, mode="lines", hoverinfo="skip"))
    _points(figure, study.metric, complete, numbers, values, "complete", color=PALETTE[0], size=7)
    for status, symbol in ((Status.PRUNED, "circle-open"), (Status.DIVERGED, "x"), (Status.FAILED, "triangle-up")):
        without = [trial for trial in study.trials if trial.status is status]
        edges = np.full(len(without), edge)
        marker = {"color": GREY, "size": 8, "symbol": symbol}
        _points(figure, study.metric, without, _numbers(without), edges, status.value, **marker)
    figure.update_yaxes(**_scale(values, wide(values)))
    return figure


def _numbers(trials: Sequence[TrialRecord]) -> np.ndarray:
    return np.array([trial.number for trial in trials])


def landscape(study: StudyRecord, trials: Sequence[TrialRecord], family: str, best: TrialRecord) -> go.Figure:
    """Trials over decay_steps and decay_rate, which all of them have, with lines of equal half-life.

    Args:
        family: of their schedule.
        best: the trial to be ringed.
    """
    figure = _figure("decay_steps", "decay_rate")
    steps, rates = (np.array([float(trial.param(key) or "") for trial in trials]) for key in LANDSCAPE)
    x_range, y_range = _margins(np.log10(steps)), _margins(rates)
    if family in HALF_LIVES:
        _draw_half_lives(figure, HALF_LIVES[family], x_range, y_range)
    values = [trial.metrics[study.metric] for trial in trials if trial.status is Status.COMPLETE]
    for status, marker in (
        (Status.PRUNED, {"symbol": "circle-open", "size": 8, "color": GREY}),
        (Status.DIVERGED, {"symbol": "x", "size": 8, "color": GREY}),
        (Status.COMPLETE, _coloured(study, values)),
    ):
        chosen = [i for i, trial in enumerate(trials) if trial.status is status]
        _points(figure, study.metric, [trials[i] for i in chosen], steps[chosen], rates[chosen], status.value, **marker)
    ring = {"symbol": "circle-open", "size": 18, "color": VERMILION, "line": {"width": 3}}
    at = trials.index(best)
    figure.add_trace(go.Scatter(x=[steps[at]], y=[rates[at]], mode="markers", marker=ring, hoverinfo="skip"))
    figure.update_xaxes(type="log", range=list(x_range), tickvals=ROUND, exponentformat="none")
    figure.update_yaxes(range=list(y_range))
    return figure


def _coloured(study: StudyRecord, values: Sequence[float]) -> dict[str, object]:
    """Markers coloured by the metric, bright where it is good.

    The worst tenth shares one colour, so that a few far-off trials do not take the colours of all others.
    """
    worst = float(np.quantile(values, 0.9 if study.minimize else 0.1))
    ends = (min(values), worst) if study.minimize else (worst, max(values))
    return {
        "color": list(values),
        "colorscale": "Viridis",
        "reversescale": study.minimize,
        "cmin": ends[0],
        "cmax": ends[1],
        "size": 10,
        "line": {"width": 1, "color": GREY},
        "colorbar": {"thickness": 10, "outlinewidth": 0, "title": {"text": study.metric, "side": "right"}},
    }


def _draw_half_lives(
    figure: go.Figure,
    rate: Callable[[np.ndarray, float], np.ndarray],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> None:
    """Lines of round half-lives that cross the picture, as many as there is room for labels.

    Args:
        x_range: of log10(decay_steps).
    """
    steps = np.logspace(*x_range, 200)
    heights: list[float] = []
    for half_life in ROUND:
        rates = rate(steps, half_life)
        height = (rates - y_range[0]) / (y_range[1] - y_range[0])
        inside = np.flatnonzero((height >= 0) & (height <= 1))
        if len(inside) < len(steps) // 6:
            continue
        middle = len(inside) // 2
        at = float(height[inside[middle]])
        if 0.05 < at < 0.95 and all(abs(at - other) > APART for other in heights):
            heights.append(at)
            labels = ["" if i != middle else f"half-life {half_life}" for i in range(len(inside))]
            line = {"color": GREY, "width": 1, "dash": "dash"}
            drawn = go.Scatter(x=steps[inside], y=rates[inside], text=labels, line=line, mode="lines+text")
            figure.add_trace(drawn.update(textposition="top center", textfont_size=11, hoverinfo="skip"))


def _points(
    figure: go.Figure,
    metric: str,
    trials: Sequence[TrialRecord],
    x: np.ndarray,
    y: np.ndarray,
    name: str,
    **marker: object,
) -> None:
    """A point for each trial, which says its name, how it ended and its metric; nothing without trials."""
    if not trials:
        return
    said = [f"{metric} {trial.metrics[metric]:.4g}" if metric in trial.metrics else "" for trial in trials]
    text = [f"{_text(trial.name)}<br>{name}<br>{value}" for trial, value in zip(trials, said, strict=True)]
    template = "%{text}<extra></extra>"
    figure.add_trace(go.Scatter(x=x, y=y, name=name, text=text, mode="markers", marker=marker, hovertemplate=template))


def _figure(x_title: str, y_title: str) -> go.Figure:
    """Empty axes in the page's manner."""
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "title_standoff": 8, "exponentformat": "power"}
    return go.Figure(
        layout={
            "template": None,
            "height": 360,
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 12},
            "xaxis": axis | {"title_text": _text(x_title)},
            "yaxis": axis | {"title_text": _text(y_title)},
            "showlegend": False,  # the page's own takes less room on a phone
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": GREY},
            "hoverlabel": {"namelength": -1, "align": "left", "font": {"family": FONT, "size": 12}},
        }
    )


def _scale(values: np.ndarray, log: bool) -> dict[str, Any]:
    """An axis for the values. Plotly would label a logarithmic one between its powers of ten by single digits."""
    if not log:
        return {"type": "linear"}
    seen = values[np.isfinite(values) & (values > 0)]  # a rate may begin or end at 0
    low, high = (math.log10(end) for end in (seen.min(), seen.max()))
    digits = (1, 2, 5) if high - low < DECADES else (1,)
    ticks = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in digits]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def wide(values: np.ndarray) -> bool:
    """Return whether a logarithmic axis separates the values better."""
    finite = values[np.isfinite(values)]
    return bool(len(finite)) and bool(finite.min() > 0) and bool(finite.max() > SPREAD * finite.min())


def _margins(values: np.ndarray) -> tuple[float, float]:
    """Return the range of the values with a margin on either side."""
    low, high = float(values.min()), float(values.max())
    more = 0.06 * (high - low) or 0.5
    return low - more, high + more


def _text(text: str) -> str:
    """Plotly reads some HTML: names are shown as they are."""
    return html.escape(text, quote=False)
