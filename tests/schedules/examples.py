"""Defines a schedule of every family and warmup within 100 steps, with the keys of conf where these are informative."""

from dataclasses import fields
from typing import Any

from sweep.requests.build import run_config
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from sweep.schedules import DECAYS, KeyFigures, Piece, Schedule, key_figures

FAMILIES: dict[str, dict[str, Any]] = {
    "constant": {},
    "exponential": {"decay_rate": 0.7, "decay_steps": 13},
    "natural_exponential": {"decay_rate": 0.4, "decay_steps": 13},
    "inverse_time": {"decay_rate": 0.4, "decay_steps": 13, "staircase": True},
    "piecewise": {"boundaries": (20, 60), "values": (1.0, 0.3, 0.7)},
    "multistep": {"milestones": (20, 60, 60), "gamma": 0.3},
    "polynomial": {"decay_steps": 31, "power": 1.7, "end_factor": 0.05, "cycle": True},
    "linear": {"decay_steps": 60, "end_factor": 0.1},
    "cosine": {"decay_steps": 60},
    "cosine_restarts": {"first_decay_steps": 9, "t_mul": 1.5, "m_mul": 0.8, "end_factor": 0.05},
    "linear_cosine": {"decay_steps": 60, "num_periods": 1.5, "alpha": 0.1},
    "noisy_linear_cosine": {"decay_steps": 60, "noise_seed": 3},
    "inverse_sqrt": {"timescale": 12},
    "noam": {"noam_steps": 20},
    "wsd": {"stable_steps": 40, "decay_steps": 30, "shape": "sqrt", "end_factor": 0.1},
    "one_cycle": {"total_steps": 90},
    "cyclic": {"base_factor": 0.1, "step_size_up": 11, "step_size_down": 7, "mode": "triangular2"},
    "rex": {"decay_steps": 80},
    "power_sqrt": {"decay_steps": 80, "alpha": 1.5},
    "tanh": {"decay_steps": 80, "end_factor": 0.1},
    "interpolate": {"knots": ((0, 1.0), (30, 0.4), (50, 0.5), (80, 0.0)), "kind": "pchip"},
    "power": {"power": 1.01},
    "sine": {},
    "plateau": {"patience": 2},
    "joined": {
        "boundaries": (30, 60),
        "pieces": (
            Piece(DECAYS["linear"](decay_steps=30, end_factor=0.5)),
            Piece(DECAYS["cosine"](decay_steps=30), 0.5),
            Piece(DECAYS["constant"](), 0.01),
        ),
    },
}


def from_conf(name: str) -> dict[str, Any]:
    """Return the keys that a family has in conf at a horizon of 100 updates."""
    register_resolvers()
    decay = run_config(Composer().compose([f"schedule={name}", "train.steps=100"])).decay
    return {field.name: getattr(decay, field.name) for field in fields(decay)}


FAMILIES |= {name: from_conf(name) for name in DECAYS if name not in FAMILIES}
WARMING = {
    "none": {},
    "constant": {"steps": 11, "start_factor": 0.1},
    "linear": {"steps": 11, "counting": "overlap"},
    "polynomial": {"steps": 11, "power": 3},
    "cosine": {"steps": 11, "counting": "overlap"},
    "exponential": {"steps": 11, "start_factor": 0.2},
    "sqrt": {"steps": 11},
    "until_error": {},
}


def figures_of(schedule: Schedule, steps: int) -> KeyFigures:
    """Return the key figures of the first `steps` updates of a schedule."""
    return key_figures(schedule.curve(steps), schedule.constant_half_life)
