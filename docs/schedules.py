"""Draws docs/schedules.png: every schedule and warmup of conf, each in a panel of its own. `make docs` runs it."""

from pathlib import Path

from sweep.report.figures import curves_picture
from sweep.requests.build import run_config
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import DECAYS, WARMUPS, Event

COMMON = ("train.steps=600", "optimizer.lr=1", "warmup.steps=60")
PLAIN = ("train.steps=600", "optimizer.lr=1", "warmup=none")
DECAYING = {
    "constant": [],
    "exponential": [],
    "exponential, staircase": ["schedule.staircase=true"],
    "natural_exponential": ["schedule.decay_rate=1"],
    "inverse_time": ["schedule.decay_rate=2"],
    "piecewise": [],
    "multistep": ["schedule.gamma=0.4"],
    "linear": ["schedule.end_factor=0.1"],
    "polynomial": ["schedule.power=3"],
    "polynomial, cycle": ["schedule.decay_steps=150", "schedule.cycle=true"],
    "cosine": [],
    "cosine_restarts": ["schedule.m_mul=0.8"],
    "linear_cosine": ["schedule.num_periods=2.5"],
    "noisy_linear_cosine": ["schedule.v=0.05"],
    "inverse_sqrt": [],
    "noam": [],
    "wsd": ["schedule.shape=sqrt"],
    "one_cycle": [],
    "cyclic": [],
    "cyclic, triangular2": ["schedule.mode=triangular2", "schedule.step_size_up=60"],
    "rex": [],
    "power_sqrt": [],
    "tanh": [],
    "interpolate, pchip": ["schedule.knots=[[0,1],[150,0.5],[250,0.55],[540,0]]", "schedule.kind=pchip"],
    "power": ["optimizer.lr=0.95", "schedule.power=1.01"],
    "sine": [],
    "plateau": ["schedule.factor=0.4"],
    "joined": [
        "schedule.boundaries=[200,400]",
        "schedule.pieces={a:{name:constant},b:{name:cosine,decay_steps:200,factor:0.7},c:{name:linear,decay_steps:140,factor:0.3}}",
    ],
}
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
"""Events that the panels of reacting schedules show."""


def draw(path: Path) -> None:
    """Write the picture."""
    requests = {}
    for title, overrides in DECAYING.items():
        name = title.partition(",")[0]
        common = PLAIN if name in ("noam", "one_cycle", "cyclic") else COMMON
        requests[title] = [*common, f"schedule={name}", *overrides]
    for title, overrides in WARMING.items():
        steps = [] if title.endswith("until_error") else ["warmup.steps=200"]
        chosen = [title] if title.startswith("warmup=") else []
        requests[title] = [*COMMON[:2], "schedule=cosine", *chosen, *steps, *overrides]
    assert {title.partition(",")[0] for title in DECAYING} == DECAYS.keys()
    assert {title.removeprefix("warmup=") for title in WARMING} >= WARMUPS.keys() - {"none"}
    curves = {}
    for title, overrides in requests.items():
        schedule = run_config(Composer().compose(overrides)).schedule
        curves[title] = schedule.after(*HAPPENED.get(title, ())).curve(600)
    path.write_bytes(curves_picture(curves))


if __name__ == "__main__":
    register_resolvers()
    draw(Path(__file__).parent / "schedules.png")
