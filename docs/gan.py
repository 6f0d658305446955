"""Draw docs/gan.png: digits of the data set, and digits that two GANs generate. `make docs` runs this script."""

import subprocess
import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import load
from sweep.report.figures import samples_picture

TRAININGS = {
    "model=wgan": [
        "model=wgan", "schedule=constant", "warmup=none", "critic.schedule=constant", "critic.warmup=none",
        "train.steps=5000",
    ],
    "model=wgan_gp": [
        "model=wgan_gp", "schedule=cosine", "warmup=none", "critic.schedule=cosine", "critic.warmup=none",
        "train.steps=3000",
    ],
}  # fmt: skip
"""Title -> overrides of a training that takes one to two minutes."""


def real() -> np.ndarray:
    """Return 64 digits of the validation split, as a picture."""
    split = load(DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}))).val
    picture = samples_picture(split.inputs[:64].numpy())
    assert picture is not None
    return imread(BytesIO(picture))


def generated(overrides: list[str]) -> np.ndarray:
    """Train a GAN, and return the samples of its last evaluation."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sweep", "mode=train", "train.device=cpu", "train.eval_every=1000", *overrides]
        subprocess.run(command, cwd=folder, check=True)
        return imread(sorted(Path(folder).glob("mlruns/*/*/artifacts/samples/*.png"))[-1])


def draw(sheets: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw sheets of samples side by side, each below its title."""
    figure = Figure(figsize=(3.6 * len(sheets), 3.9), dpi=100)
    FigureCanvasAgg(figure)
    for place, (title, sheet) in enumerate(sheets.items()):
        axes = figure.add_axes(((place + 0.02) / len(sheets), 0.01, 0.96 / len(sheets), 0.9))
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(title)
        axes.axis("off")
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    sheets = {title: generated(overrides) for title, overrides in TRAININGS.items()}
    draw({"digits of the data set": real(), **sheets}, Path(__file__).parent / "gan.png")
