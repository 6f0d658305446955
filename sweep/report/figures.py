"""Pictures. Drawn without a display, and without matplotlib's global state."""

from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sweep.schedules import KeyFigures


def curve_picture(curve: np.ndarray, figures: KeyFigures) -> bytes:
    """A PNG of the learning rate against the step, with the step at which it stalls.

    Args:
        curve: float64 [T].
    """
    figure = Figure(figsize=(6.4, 3.6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.12, 0.14, 0.85, 0.82))
    axes.plot(np.arange(len(curve)), curve, color="#0072b2", linewidth=1.8, drawstyle="steps-post")
    if figures.stalled_at is not None and figures.wasted:
        axes.axvline(figures.stalled_at, color="#d55e00", linestyle="--", linewidth=1.2)
        axes.annotate("stalls", (figures.stalled_at, figures.peak), color="#d55e00", ha="left", va="top")
    axes.set(xlabel="step", ylabel="learning rate", xlim=(0, max(len(curve) - 1, 1)), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
