"""What is recorded of a trial before it begins: names, parameters, key figures, its curve as a picture."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from sweep.core import Description, Trial
from sweep.report.figures import curve_picture
from sweep.report.text import heading, number
from sweep.schedules import key_figures


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def as_params(nested: Mapping[str, Any]) -> dict[str, str]:
    """A configuration as MLflow params: flattened, text as it is, the rest as JSON; null as "null"."""
    flat = flatten(nested)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}


def describe(trial: Trial) -> Description:
    """The description of a trial.

    Its name holds what was drawn; `config.yaml` is the resolved configuration, which
    `--config-dir <its folder> --config-name config` trains again; `sweep.curve` is the digest of the float32 curve.
    """
    config = trial.config
    curve = config.schedule.curve(config.train.steps)
    figures = key_figures(config.schedule, config.train.steps)
    tags = {"sweep.curve": hashlib.sha256(curve.astype(np.float32).tobytes()).hexdigest()[:16]}
    if figures.half_life is not None:
        tags["sweep.half_life"] = repr(figures.half_life)
    if figures.stalled_at is not None:
        tags["sweep.stalled_at"] = str(figures.stalled_at)
    runnable = {"defaults": ["base", "_self_"], "mode": "train"} | dict(config.resolved)
    resolved = yaml.safe_dump(runnable, sort_keys=False).encode()
    artifacts = {"config.yaml": resolved, "curve.png": curve_picture(curve, figures)}
    return Description(_name(trial), as_params(config.resolved), tags, artifacts)


def _name(trial: Trial) -> str:
    if not trial.values:
        resolved = trial.config.resolved
        return "-".join(str(resolved[group]["name"]) for group in ("dataset", "model", "optimizer", "schedule"))
    drawn = " ".join(short(key, value) for key, value in trial.values.items())
    return f"{trial.number:03d} {drawn}"


def short(key: str, value: Any) -> str:
    """A value drawn, for a legend: `decay_rate=0.93`, `warmup=40`; a group's choice by its option alone."""
    if "." not in key:
        return str(value)
    return f"{heading(key)}={number(value)}"
