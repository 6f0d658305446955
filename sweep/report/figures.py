"""Draw pictures with matplotlib, without a display and without its global state."""

import math
from collections.abc import Collection, Mapping
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from sweep.schedules import KeyFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION = "#0072b2", "#d55e00"
COLOURS = (BLUE, "#e69f00", "#009e73", VERMILION, "#cc79a7", "#56b4e9", "#000000", "#8c6d1f")
"""Colours that colour-blind readers can distinguish (Okabe and Ito)."""
TOGETHER = len(COLOURS)
"""The most curves that can be distinguished in one pair of axes; more curves get one each."""


def curve_picture(curve: np.ndarray, figures: KeyFigures) -> bytes:
    """Return a PNG of the learning rate against the step, with the step at which it stalls.

    Args:
        curve: float64 [T].
    """
    figure = _figure(6.4, 3.6)
    axes = figure.add_axes((0.12, 0.14, 0.85, 0.82))
    _draw(axes, curve, BLUE)
    if figures.stalled_at is not None and figures.wasted:
        axes.axvline(figures.stalled_at, color=VERMILION, linestyle="--", linewidth=1.2)
        axes.annotate("stalls", (figures.stalled_at, figures.peak), color=VERMILION, ha="left", va="top")
    axes.set(xlabel="step", ylabel="learning rate")
    return _png(figure)


def curves_picture(curves: Mapping[str, np.ndarray]) -> bytes:
    """Return a PNG of several learning rates against the step, in one pair of axes, or in one each if they are many.

    Args:
        curves: label -> float64 [T]; that of a critic is longer than that of its generator.
    """
    return _png(_together(curves) if len(curves) <= TOGETHER else _in_panels(curves))


SIDE = 32
"""The smallest side of a sample in a picture, in pixels."""


def samples_picture(samples: np.ndarray) -> bytes | None:
    """Return a PNG of samples side by side, eight in a row; None if they are not pictures.

    Args:
        samples: [n, h, w], [n, 1, h, w] in grey or [n, 3, h, w] in colours; [n, h * h] are square
            pictures. 0 is black and 1 is white; if values are outside, the lowest is black and the highest is white.
    """
    n, *shape = samples.shape
    side = math.isqrt(int(np.prod(shape)))
    if len(shape) == 1 and side * side == shape[0]:
        shape = [side, side]
    channels, height, width = (1, *shape) if len(shape) == 2 else shape if len(shape) == 3 else (0, 0, 0)
    if channels not in (1, 3) or not np.isfinite(samples).all():
        return None
    low, high = min(float(samples.min()), 0.0), max(float(samples.max()), 1.0)
    times = -(-SIDE // max(height, width))
    across = min(n, 8)
    down = -(-n // across)
    sheet = np.zeros((down * across, channels, height, width))
    sheet[:n] = (samples.reshape(n, channels, height, width) - low) / (high - low)
    sheet = sheet.repeat(times, axis=2).repeat(times, axis=3)
    sheet = np.pad(sheet, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.5)  # a line between them
    height, width = sheet.shape[2:]
    rows = sheet.reshape(down, across, channels, height, width).transpose(0, 3, 1, 4, 2)
    pixels = rows.reshape(down * height, across * width, channels).repeat(4 - channels if channels == 1 else 1, axis=2)
    return _png_of_pixels(pixels)


def _png_of_pixels(pixels: np.ndarray) -> bytes:
    """Return a PNG of pixels [height, width, 3] from 0 to 1."""
    from matplotlib.image import imsave

    picture = BytesIO()
    imsave(picture, (255 * pixels).round().astype(np.uint8), format="png")
    return picture.getvalue()


def _together(curves: Mapping[str, np.ndarray]) -> "Figure":
    figure = _figure(8.0, 4.5)
    axes = figure.add_subplot()
    for (label, curve), colour in zip(curves.items(), COLOURS, strict=False):
        _draw(axes, curve, colour, label)
    axes.set(xlabel="step", ylabel="learning rate")
    _limits(axes, curves.values())
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.set_layout_engine("constrained")
    return figure


def _in_panels(curves: Mapping[str, np.ndarray]) -> "Figure":
    """Return a figure with one panel for each curve, in rows of five or six, all with the same axes."""
    across = 5 if len(curves) <= 25 else 6
    down = -(-len(curves) // across)
    figure = _figure(2.3 * across, 1.75 * down)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, (label, curve) in zip(panels, curves.items(), strict=False):
        _draw(panel, curve, BLUE)
        panel.set_title(label, fontsize=9)
        panel.tick_params(labelsize=8)
    _limits(panels[0], curves.values())
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    for panel in panels[max(len(curves) - across, 0) : len(curves)]:
        panel.tick_params(labelbottom=True)
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("learning rate", fontsize=10)
    figure.set_layout_engine("constrained")
    return figure


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow, and most commands draw nothing
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    return figure


def _draw(axes: "Axes", curve: np.ndarray, colour: str, label: str | None = None) -> None:
    axes.plot(np.arange(len(curve)), curve, color=colour, linewidth=1.8, drawstyle="steps-post", label=label)
    _limits(axes, [curve])
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(axes: "Axes", curves: Collection[np.ndarray]) -> None:
    """Set the limits of the axes: the rates from 0, or from the lowest rate if it is negative."""
    length = max(len(curve) for curve in curves)
    low, high = min(float(curve.min()) for curve in curves), max(float(curve.max()) for curve in curves)
    axes.set(xlim=(0, max(length - 1, 1)), ylim=(1.05 * min(low, 0.0), 1.05 * high))


def _png(figure: "Figure") -> bytes:
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
