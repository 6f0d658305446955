"""Tests the defaults of the classes, and those of conf that do not depend on the horizon."""

from dataclasses import MISSING

from omegaconf import OmegaConf

from sweep.schedules import DECAYS, WARMUPS
from tests.conftest import ROOT

DEFAULTS = {  # families that users rely on; a new one need not be here
    **{name: {} for name in ("constant", "inverse_sqrt", "noam", "sine", "joined")},
    "exponential": {"staircase": False, "end_factor": None},
    "natural_exponential": {"staircase": False, "end_factor": None},
    "inverse_time": {"staircase": False, "end_factor": None},
    "piecewise": {"side": "right"},
    "multistep": {"gamma": 0.1},
    "polynomial": {"power": 1.0, "end_factor": 0.0, "cycle": False},
    "linear": {"end_factor": 0.0},
    "cosine": {"end_factor": 0.0},
    "cosine_restarts": {"t_mul": 2.0, "m_mul": 1.0, "end_factor": 0.0},
    "linear_cosine": {"num_periods": 0.5, "alpha": 0.0, "beta": 0.001},
    "noisy_linear_cosine": {"num_periods": 0.5, "alpha": 0.0, "beta": 0.001, "v": 1.0, "d": 0.55, "noise_seed": 0},
    "wsd": {"shape": "linear", "end_factor": 0.0, "k": 10.0, "count_from": 0},
    "one_cycle": {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4, "anneal": "cosine"},
    "cyclic": {"mode": "triangular", "gamma": 1.0},
    "rex": {"beta": 0.5},
    "power_sqrt": {"alpha": 1.0},
    "tanh": {"lb": -7.0, "ub": 3.0, "end_factor": 0.0},
    "interpolate": {"kind": "linear"},
    "power": {"power": 1.0001},
    "plateau": {"factor": 0.1, "patience": 10, "threshold": 1e-4, "cooldown": 0, "min_lr": 0.0, "cut": "torch",
                "metric": "val_loss", "eps": 1e-8, "threshold_mode": "rel", "direction": None},
}  # fmt: skip
WARMUP = {"start_factor": 0.0, "counting": "prefix", "inclusive": False}
WARMING = {
    **dict.fromkeys(("constant", "linear", "cosine", "sqrt"), WARMUP),
    "polynomial": WARMUP | {"power": 2.0},
    "exponential": WARMUP | {"k": 5.0},
    "until_error": {"start_factor": 0.1, "counting": "overlap", "inclusive": False, "until_error": 0.8},
}
UNLESS_GIVEN = {"exponential": {"decay_rate": None, "decay_steps": None, "half_life": None}}
"""Keys that exclude each other."""
CONF = {"plateau": {"patience": 2}}
"""Defaults that differ in conf/schedule, because the default horizon has six evaluations."""
CONF_WARMING = {"constant": {"start_factor": 0.1}}


def defaults(cls):
    """Return the fields of a class that have a default."""
    return {key: field.default for key, field in cls.__dataclass_fields__.items() if field.default is not MISSING}


def conf(group, name):
    return OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / group / f"{name}.yaml"), resolve=False)


def test_the_defaults_of_the_classes():
    for name, expected in DEFAULTS.items():
        assert defaults(DECAYS[name]) == expected | UNLESS_GIVEN.get(name, {}), name
    for name, expected in WARMING.items():
        assert expected.items() <= defaults(WARMUPS[name]).items(), name


def test_conf_has_the_defaults_of_the_classes():
    for name, cls in DECAYS.items():
        assert set(cls.__dataclass_fields__) <= set(conf("schedule", name)), name
        expected = {key: value for key, value in defaults(cls).items() if key not in UNLESS_GIVEN.get(name, {})}
        assert (expected | CONF.get(name, {})).items() <= conf("schedule", name).items(), name
    for name, keys in WARMING.items():
        found = conf("warmup", name)
        expected = {key: value for key, value in (keys | CONF_WARMING.get(name, {})).items() if key in found}
        assert expected.items() <= found.items(), name
