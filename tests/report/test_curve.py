"""The picture of a curve: what stands in its text."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from sweep.report.curve import BOTTOM, LEFT, RIGHT, TOP, curve_svg
from sweep.requests import build
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import KeyFigures, key_figures

register_resolvers()
FIGURES = KeyFigures(peak=1.0, peak_step=0, end=0.0, half_life=None, stalled_at=None, horizon=1)


class Picture:
    """An SVG, taken apart."""

    def __init__(self, curve: np.ndarray, figures: KeyFigures = FIGURES) -> None:
        self.text = curve_svg(curve, figures).decode()
        root = ET.fromstring(self.text)
        self.texts = [(e.text or "", e) for e in root.iter("{http://www.w3.org/2000/svg}text")]
        (line,) = (e for e in root.iter("{http://www.w3.org/2000/svg}path") if e.get("stroke") == "#0072b2")
        self.points = self.corners(line.get("d") or "")

    @staticmethod
    def corners(path: str) -> np.ndarray:
        """[n, 2]: where the line begins and turns."""
        x = y = 0.0
        corners = []
        for command, numbers in re.findall(r"([MHV])([-\d. e]+)", path):
            values = [float(number) for number in numbers.split()]
            x, y = (values[0], values[1]) if command == "M" else (values[0], y) if command == "H" else (x, values[0])
            corners.append((x, y))
        return np.array(corners)

    def labels(self, anchor: str) -> list[str]:
        return [text for text, e in self.texts if e.get("text-anchor") == anchor and re.match(r"[-\d]", text)]


def test_a_rate_holds_until_the_next() -> None:
    picture = Picture(np.array([1.0, 1.0, 0.5, 0.0]))
    step, high = (RIGHT - LEFT) / 3, BOTTOM - (BOTTOM - TOP) / 1.05
    middle = (BOTTOM + high) / 2
    turns = [(0, high), (2, high), (2, middle), (3, middle), (3, BOTTOM), (3, BOTTOM)]
    expected = [(LEFT + steps * step, y) for steps, y in turns]
    np.testing.assert_allclose(picture.points, expected, atol=0.06)


@pytest.mark.parametrize(
    ("curve", "steps", "rates"),
    [
        (np.linspace(0, 0.06, 501), ["0", "100", "200", "300", "400", "500"], ["0", "0.02", "0.04", "0.06"]),
        (np.full(1, 3e-5), ["0", "1"], ["0", "1e-05", "2e-05", "3e-05"]),
        (np.zeros(3), ["0", "1", "2"], ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (np.array([-1.0, 0.0]), ["0", "1"], ["-1", "-0.8", "-0.6", "-0.4", "-0.2", "0"]),
    ],
    ids=["usual", "one step", "zero", "below zero"],
)  # fmt: skip
def test_the_axes_have_round_labels(curve: np.ndarray, steps: list[str], rates: list[str]) -> None:
    picture = Picture(curve)
    assert (picture.labels("middle"), picture.labels("end")) == (steps, rates)
    assert [text for text, e in picture.texts if e.get("text-anchor") == "middle"][-2:] == ["step", "learning rate"]


def test_a_long_curve_is_short_text_with_its_highest_and_lowest_rates() -> None:
    curve = np.full(1_000_000, 0.5)
    curve[123_456], curve[654_321] = 1.0, 0.25
    picture = Picture(curve)
    assert len(picture.text) < 40_000
    high, zero = BOTTOM - (BOTTOM - TOP) / 1.05, BOTTOM
    reached = (zero - picture.points[:, 1]) / (zero - high)
    assert (reached.max(), reached.min()) == (pytest.approx(1.0, abs=1e-3), pytest.approx(0.25, abs=1e-3))
    assert picture.points[reached > 0.9, 0] == pytest.approx(LEFT + 0.123456 * (RIGHT - LEFT), abs=1.1)
    assert (picture.points[0, 0], picture.points[-1, 0]) == (LEFT, RIGHT)


def test_what_is_wasted_is_marked() -> None:
    def stalls(*overrides: str) -> bool:
        config = build.run_config(Composer().compose(list(overrides)))
        curve = config.schedule.curve(config.train.steps)
        return "stalls" in dict(Picture(curve, key_figures(curve)).texts)

    assert stalls("schedule.decay_rate=0.5", "schedule.decay_steps=10")
    assert not stalls("schedule=cosine")
