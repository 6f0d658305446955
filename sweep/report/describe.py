"""Describe a trial for the record: its name, parameters, key figures, and a picture of its curve."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from sweep.core import Description, Trial, is_record_name
from sweep.report.curve import curve_svg
from sweep.report.text import heading, number
from sweep.schedules import Event, key_figures

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The dumper of libyaml if PyYAML was built with it: it writes the same text in a quarter of the time."""


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: {"a": {"b": 1}} -> {"a.b": 1}. Lists are not flattened.

    A mapping is not flattened if one of its entries could not be a param of MLflow (its keys may be patterns, such as
    "*.bias"), or if two of its entries would get the same key.
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        inner = flatten(value, f"{name}.") if isinstance(value, Mapping) and _is_flattened(value) else None
        if inner is None or not all(map(is_record_name, inner)):
            flat[name] = value
        else:
            flat |= inner
    return flat


def _is_flattened(nested: Mapping[str, Any]) -> bool:
    """Return whether the keys of a mapping are plain names that stay different after they are joined with dots."""
    if not all(re.fullmatch(r"[\w./ -]+", str(key)) for key in nested):
        return False
    parents = tuple(f"{key}." for key, value in nested.items() if isinstance(value, Mapping))
    return not parents or not any(str(key).startswith(parents) for key in nested)


def as_params(nested: Mapping[str, Any]) -> dict[str, str]:
    """Return a configuration as MLflow params: flattened, texts unchanged, other values as JSON."""
    flat = flatten(nested)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}


def describe(trial: Trial, events: Sequence[Event] = ()) -> Description:
    """Return the description of a trial, with its curve after the events of its schedule.

    Its name contains the drawn values; `config.yaml` is the resolved configuration, which
    `--config-dir <its folder> --config-name config` trains again. `sweep.curve` is the digest of the float32 curve,
    `sweep.training` that of everything that the training depends on, `sweep.values` contains the drawn values as JSON.
    For a GAN these tags describe the curve of the generator, and `sweep.D_curve` and so on that of the critic; there
    are two pictures, `G_curve.svg` and `D_curve.svg`.
    """
    config, tags = trial.config, {"sweep.training": training_digest(trial)}
    if trial.values:
        tags["sweep.values"] = json.dumps(dict(trial.values))
    pictures = {}
    for series in config.series:
        curve = series.curve(events)
        figures = key_figures(curve, series.schedule.after(*events).constant_half_life)
        of = "sweep.D_" if series.name == "D_" else "sweep."
        tags[f"{of}curve"] = _digest(curve.astype(np.float32).tobytes())
        if figures.half_life is not None:
            tags[f"{of}half_life"] = repr(figures.half_life)
        if figures.stalled_at is not None:
            tags[f"{of}stalled_at"] = str(figures.stalled_at)
        pictures[f"{series.name}curve.svg"] = curve_svg(curve, figures)
    changed = {
        "model": {**config.resolved["model"], "_target_": config.model.own_target},
        "train": {**config.resolved["train"], "more_steps": None},
    }
    options = {"options": dict(config.options)} if config.options else {}
    runnable = {"defaults": ["base", "_self_"], "mode": "train", **config.resolved, **changed, **options}
    resolved = yaml.dump(runnable, Dumper=DUMPER, sort_keys=False).encode()
    params = {**as_params(config.resolved), **config.options}
    return Description(_name(trial), params, tags, {"config.yaml": resolved, **pictures})


def training_digest(trial: Trial) -> str:
    """Return a digest of the float32 curves, seed and the rest of the configuration.

    Trials of a study with the same digest are the same training: exponential with r = 0.25, D = 20 and with r = 0.5,
    D = 10 have the same curve. The curve replaces schedule and warmup, unless the schedule has reactions. It also
    replaces optimizer.lr, unless the optimizer or the loop is the user's, which may use lr in other ways; the
    optimizers of OWN_PACKAGES use only the rate that is set before every update.

    Within a group, the order of the entries of a mapping and the types of its keys count, because a user's model may
    depend on them.
    """
    config = trial.config
    curves = [curve.astype(np.float32).tobytes() for curve in config.series[0].curves().values()]
    left_out = ["train.seed"] if config.schedule.reactions else ["train.seed", "schedule", "warmup"]
    if not config.schedule.reactions and config.loop is None and not config.optimizer.component.is_trusted:
        left_out.append("optimizer.lr")
    identity = config.identity
    kept = {key: value for key, value in flatten(identity).items() if not _below(key, left_out)}
    mappings = [repr(entry) for entry in _mappings(identity) if not _below(entry[0], left_out)]
    return _digest(b"".join(curves) + json.dumps([trial.seed, kept, *mappings], sort_keys=True).encode())


def _below(key: str, groups: Sequence[str]) -> bool:
    """Return whether a key is among `groups` (keys or groups), or belongs to a group among them."""
    return key in groups or key.partition(".")[0] in groups


def _mappings(groups: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys and values that contain a mapping; groups within critic are treated as groups."""
    for group, values in groups.items():
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if group == "critic" and key in ("optimizer", "schedule", "warmup"):
                yield from _mappings({key: value}, "critic.")
            elif _has_mapping(value):
                yield f"{prefix}{group}.{key}", value


def _has_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(_has_mapping, value)))


def training_name(trial: Trial, data_digest: str) -> str:
    """Return dataset-model-optimizer-schedule-digest, with a digest of everything that the training depends on."""
    identity = json.dumps([flatten(trial.config.identity), trial.seed, data_digest], sort_keys=True)
    return f"{_groups(trial)}-{_digest(identity.encode())}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _name(trial: Trial) -> str:
    if trial.final and not trial.keeps_state:  # a final run of a comparison
        return f"{trial.config.label(trial.config.naming_groups[0])} {trial.config.label('schedule')} seed {trial.seed}"
    if not trial.values:
        return _groups(trial)
    drawn = " ".join(short(key, value) for key, value in trial.values.items())
    return f"{trial.number:03d} {drawn}"


def _groups(trial: Trial) -> str:
    return "-".join(trial.config.label(group) for group in trial.config.naming_groups)


def short(key: str, value: Any) -> str:
    """Format a drawn value for a legend: `decay_rate=0.93`, `warmup=40`; the choice of a group as its option alone."""
    if "." not in key:
        return str(value)
    return f"{heading(key)}={number(value)}"
