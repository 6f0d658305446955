"""Write docs/schedules.png and docs/schedules.md, which show every schedule and warmup. `make docs` runs it."""

import inspect
import re
from pathlib import Path

from sweep.report.figures import curves_picture
from sweep.requests.build import run_config
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import DECAYS, WARMUPS, Custom, Event, warmup

CONF = Path(__file__).parents[1] / "conf"
COMMON = ("train.steps=600", "optimizer.lr=1", "warmup.steps=60")
PLAIN = ("train.steps=600", "optimizer.lr=1", "warmup=none")
VARIANTS = {
    "exponential": [],
    "exponential, staircase": ["schedule.staircase=true"],
    "natural_exponential": ["schedule.decay_rate=1"],
    "inverse_time": ["schedule.decay_rate=2"],
    "multistep": ["schedule.gamma=0.4"],
    "linear": ["schedule.end_factor=0.1"],
    "polynomial": ["schedule.power=3"],
    "polynomial, cycle": ["schedule.decay_steps=150", "schedule.cycle=true"],
    "cosine_restarts": ["schedule.m_mul=0.8"],
    "linear_cosine": ["schedule.num_periods=2.5"],
    "noisy_linear_cosine": ["schedule.v=0.05"],
    "wsd": ["schedule.shape=sqrt"],
    "cyclic": [],
    "cyclic, triangular2": ["schedule.mode=triangular2", "schedule.step_size_up=60"],
    "interpolate, pchip": ["schedule.knots=[[0,1],[150,0.5],[250,0.55],[540,0]]", "schedule.kind=pchip"],
    "power": ["optimizer.lr=0.95", "schedule.power=1.01"],
    "plateau": ["schedule.factor=0.4"],
    "joined": [
        "schedule.boundaries=[200,400]",
        "schedule.pieces={a:{name:constant},b:{name:cosine,decay_steps:200,factor:0.7},c:{name:linear,decay_steps:140,factor:0.3}}",
    ],
}
"""Panels of the families whose default curve does not show what they do. All others have one panel with the default."""
WARMING = {
    "warmup=constant": ["warmup.start_factor=0.3"],
    "warmup=linear": ["warmup.start_factor=0.1"],
    "warmup=polynomial": [],
    "warmup=cosine": [],
    "warmup=exponential": [],
    "warmup=sqrt": [],
    "counting=overlap": ["warmup=linear", "warmup.counting=overlap"],
    "warmup=until_error": [],
}
HAPPENED = {
    "plateau": (Event(240, "plateau"), Event(400, "plateau")),
    "warmup=until_error": (Event(200, "warmup_end"),),
}
"""Events in the panels of schedules that react to the training."""


def draw(path: Path) -> None:
    """Write the picture."""
    requests = {}
    for name, family in DECAYS.items():
        common = PLAIN if family.warms_up else COMMON
        titles = [title for title in VARIANTS if title.partition(",")[0] == name] or [name]
        requests |= {title: [*common, f"schedule={name}", *VARIANTS.get(title, [])] for title in titles}
    for title, overrides in WARMING.items():
        steps = [] if title.endswith("until_error") else ["warmup.steps=200"]
        chosen = [title] if title.startswith("warmup=") else []
        requests[title] = [*COMMON[:2], "schedule=cosine", *chosen, *steps, *overrides]
    curves = {}
    for title, overrides in requests.items():
        schedule = run_config(Composer().compose(overrides)).schedule
        curves[title] = schedule.after(*HAPPENED.get(title, ())).curve(600)
    path.write_bytes(curves_picture(curves))


HEAD = """\
# List of schedules and warmups

`python docs/schedules.py` writes this page from the docstrings in `sweep/schedules` and the files in `conf`.
[Schedules](using-schedules.md) shows how to use them.

s counts updates from 0; update s uses the rate at s. Every factor multiplies `optimizer.lr`. The steps of a schedule
count from the end of warmup, or from step 0 with `warmup.counting=overlap`. `${fraction:0.2}` is a fifth of
`train.steps`, and `${remaining:}` is `train.steps` minus the warmup. Keys with the default `???` must be given.
"""


def describe() -> str:
    """Return the page: the formula, source and keys of every schedule and warmup, with defaults and searched ranges."""
    parts = [HEAD]
    common = _escaped(inspect.cleandoc(warmup.__doc__ or "").partition("\n\n")[2])
    for title, group, families in (
        ("## Schedules\n", "schedule", dict(sorted({**DECAYS, "custom": Custom}.items()))),
        (f"## Warmups\n\n{common}\n", "warmup", WARMUPS),
    ):
        parts.append(title)
        for name, family in families.items():
            parts += [f"### {name}\n", *_section(group, name, family)]
    return "\n".join(parts)


def _section(group: str, name: str, family: type) -> list[str]:
    text, meanings = _docstring(family)
    defaults = _lines(CONF / group / f"{name}.yaml")
    space = _lines(CONF / "space" / f"{name}.yaml") if group == "schedule" else {}
    rows = [
        f"| `{key}` | `{default}` | {_code(space.get(f'{group}.{key}', ''))} | {meanings.get(key, '')} |"
        for key, default in defaults.items()
        if key != "name"
    ]
    head = ["| key | default | searched | |", "|---|---|---|---|"] if rows else []
    return [f"{text}\n", *head, *rows, *([""] if rows else [])]


def _docstring(family: type) -> tuple[str, dict[str, str]]:
    """Return the text of a class's docstring, and what it and those of its bases say about the keys."""
    meanings: dict[str, str] = {}
    for base in reversed(family.__mro__):
        text, _, arguments = inspect.cleandoc(base.__doc__ or "").partition("\nArgs:\n")
        for entry in re.split(r"\n(?= {4}\w)", f"\n{arguments}"):
            keys, _, meaning = " ".join(entry.split()).partition(": ")
            meanings |= dict.fromkeys(keys.split(", "), _escaped(meaning))
    return _escaped(text.strip()), meanings


def _lines(path: Path) -> dict[str, str]:
    """Return the keys of a configuration file and their values, as written, without comments."""
    written = (line.partition(" #")[0].partition(": ") for line in path.read_text().splitlines() if line[:1].isalpha())
    return {key: value.strip() for key, _, value in written if value}


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _escaped(text: str) -> str:
    """Return text in which Markdown sees no emphasis outside of code."""
    return "`".join(
        part if index % 2 else re.sub(r"([*|])", r"\\\1", part) for index, part in enumerate(text.split("`"))
    )


if __name__ == "__main__":
    register_resolvers()
    folder = Path(__file__).parent
    draw(folder / "schedules.png")
    (folder / "schedules.md").write_text(describe())
