"""Determines the identity of a configuration: the part that changes results, from which default names are derived."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweep.augmentations import AUGMENT_KEY

LOADING_KEYS = ("num_workers",)
"""Keys of dataset that affect how examples are loaded, but not which ones."""

EXECUTION_KEYS = ("device", "compile", "checkpoint_dir", "checkpoint_seconds", "save", "test")
"""Keys of train that affect where a training runs and is stored, but not its results."""

DEFAULTS_OF_LATER_KEYS: Mapping[str, Any] = {
    "train.drop_last": False,
    "train.eval_batch_size": None,
    "schedule.end_factor": None,  # for decays in exponential.py; a number in other families
    "schedule.threshold_mode": "rel",
    "schedule.direction": None,  # for plateau
    "dataset.block": None,
    "dataset.windows": "divided",
    "dataset.collate": None,
    AUGMENT_KEY: {"name": "none"},
    "task": {"name": "auto", "loss": None, "metrics": None},
    "task.ignore_index": None,  # for classification
    "loop": {"name": "none"},
}
"""Maps keys that earlier versions did not have to their defaults.

A key with its default is not part of the identity, so that studies and trainings of earlier versions keep their names.
"""


def identity(resolved: Mapping[str, Any], theirs: Sequence[str] = ()) -> dict[str, Any]:
    """Return the part of a resolved configuration that changes results.

    It has no EXECUTION_KEYS, LOADING_KEYS, or keys of DEFAULTS_OF_LATER_KEYS with their defaults. The order of
    parameter groups is part of it, because a parameter belongs to the first group that matches.

    Args:
        theirs: keys from `shadowing`, to distinguish the user's code from that of this project with the same path.
    """
    known = _without_later_defaults(resolved)
    left_out = {"train": EXECUTION_KEYS, "dataset": LOADING_KEYS}
    kept = {
        group: {key: value for key, value in known[group].items() if key not in keys}
        for group, keys in left_out.items()
        if group in known
    }
    optimizer = known["optimizer"]
    groups = optimizer.get("groups") or None
    groups = list(groups.items()) if isinstance(groups, Mapping) else groups
    trusted = {"trusted": list(theirs)} if theirs else {}
    return {**known, **kept, "optimizer": {**optimizer, "groups": groups}, **trusted}


def _without_later_defaults(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return the values without the DEFAULTS_OF_LATER_KEYS; a critic has the defaults of the generator."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{path}{name}".removeprefix("critic.")
        is_theirs = key.startswith("schedule.") and "_target_" in values  # its own keys may have these names
        default = DEFAULTS_OF_LATER_KEYS.get(key, ...)
        if not is_theirs and value == default and type(value) is type(default):  # 0 == False
            continue
        kept[name] = _without_later_defaults(value, f"{path}{name}.") if isinstance(value, Mapping) else value
    return kept
