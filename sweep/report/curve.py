"""Draws the learning rate of one trial as SVG text. Nothing is rendered, so that it is cheap enough for every trial."""

import math

import numpy as np

from sweep.report.figures import BLUE, VERMILION
from sweep.schedules import KeyFigures

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 78, 622, 16, 312
"""Pixels: the size of the picture, and the ends of its axes."""
COLUMNS = RIGHT - LEFT
TICKS = 6
"""Approximate number of ticks on each axis."""

FRAME = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" \
font-family="system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif" font-size="13" fill="#333">
<title>learning rate against the step</title>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
{{grid}}
<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#888"/>
{{labels}}
<text x="{(LEFT + RIGHT) / 2:g}" y="{HEIGHT - 10}" text-anchor="middle">step</text>
<text transform="translate(18 {(TOP + BOTTOM) / 2:g}) rotate(-90)" text-anchor="middle">learning rate</text>
<path d="{{line}}" fill="none" stroke="{BLUE}" stroke-width="1.8" stroke-linejoin="round"/>
{{mark}}</svg>
"""


def curve_svg(curve: np.ndarray, figures: KeyFigures) -> bytes:
    """Return an SVG of the learning rate against the step, with a mark where it stalls.

    Args:
        curve: float64 [T].
    """
    low, high = min(float(curve.min()), 0.0), max(float(curve.max()), 0.0)
    if low == high:
        high = 1.0
    across = _Axis(0.0, float(max(len(curve) - 1, 1)), LEFT, RIGHT)
    up = _Axis(1.05 * low, 1.05 * high, BOTTOM, TOP)
    steps, rates = across.ticks(whole=True), up.ticks()
    grid = "".join(f"M{x} {TOP}V{BOTTOM}" for x, _ in steps) + "".join(f"M{LEFT} {y}H{RIGHT}" for y, _ in rates)
    labels = [f'<text x="{x}" y="{BOTTOM + 20}" text-anchor="middle">{text}</text>' for x, text in steps]
    labels += [f'<text x="{LEFT - 8}" y="{y + 4.5:g}" text-anchor="end">{text}</text>' for y, text in rates]
    text = FRAME.format(
        grid=f'<path d="{grid}" fill="none" stroke="#ddd"/>',
        labels="\n".join(labels),
        line=_line(curve, across, up),
        mark=_stall(figures, across, up),
    )
    return text.encode()


class _Axis:
    """Maps values to pixels.

    Args:
        low, high: the values at the ends of the axis.
        begin, end: the pixels at its ends.
    """

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        self.low, self.high, self.begin = low, high, begin
        self.scale = (end - begin) / (high - low)

    def at(self, values: np.ndarray) -> np.ndarray:
        """Return pixels, rounded to a tenth."""
        return (self.begin + (values - self.low) * self.scale).round(1)

    def ticks(self, whole: bool = False) -> list[tuple[float, str]]:
        """Return pixel and label of about TICKS multiples of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / TICKS
        power = math.floor(math.log10(raw))
        factor = next(f for f in (1, 2, 5, 10) if f * 10.0**power >= raw * (1 - 1e-9))
        if whole and power < 0:
            factor, power = 1, 0
        apart = factor * 10.0**power
        numbers = range(math.ceil(self.low / apart - 1e-9), math.floor(self.high / apart + 1e-9) + 1)
        values = [float(f"{n * factor}e{power}") for n in numbers]
        pixels = self.at(np.array(values)).tolist()
        return list(zip(pixels, map(_label, values), strict=True))


def _label(value: float) -> str:
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e7 else f"{value:.6g}"


def _line(curve: np.ndarray, across: _Axis, up: _Axis) -> str:
    """Return the path of a line that keeps each rate until the next step: M x y, then H x V y for each.

    A column of pixels with more than two steps has its first, highest, lowest and last rate.
    """
    steps, last = np.arange(len(curve)), max(len(curve) - 1, 1)
    if len(curve) > 2 * COLUMNS:
        starts = np.linspace(0, len(curve), COLUMNS, endpoint=False).astype(np.int64)
        first, end = curve[starts], curve[np.append(starts[1:], len(curve)) - 1]
        reached = (first, np.maximum.reduceat(curve, starts), np.minimum.reduceat(curve, starts), end)
        steps, curve = np.repeat(starts, 4), np.column_stack(reached).ravel()
    turns = np.flatnonzero(np.diff(curve, prepend=np.nan) != 0)  # equal rates are one line
    x, y = across.at(steps[turns]).tolist(), up.at(curve[turns]).tolist()
    drawn = "".join(f"H{a:g}V{b:g}" if a != x0 else f"V{b:g}" for x0, a, b in zip(x, x[1:], y[1:], strict=False))
    return f"M{x[0]:g} {y[0]:g}{drawn}H{across.at(np.array([last])).item():g}"


def _stall(figures: KeyFigures, across: _Axis, up: _Axis) -> str:
    """Return a vertical line and the word "stalls" at the step from which the horizon is wasted; empty if it is not."""
    if figures.stalled_at is None or not figures.wasted:
        return ""
    x = across.at(np.array([figures.stalled_at])).item()
    room = x < RIGHT - 60
    place = f'x="{x + 6 if room else x - 6:g}" y="{up.at(np.array([figures.peak])).item() + 12:g}"'
    return (
        f'<path d="M{x:g} {TOP}V{BOTTOM}" stroke="{VERMILION}" stroke-width="1.2" stroke-dasharray="5 3"/>\n'
        f'<text {place} fill="{VERMILION}" text-anchor="{"start" if room else "end"}">stalls</text>\n'
    )
