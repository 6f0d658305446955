"""The identity of a configuration: the part of it that changes results, which names of studies and trainings cover."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweep.augmentations import KEY as AUGMENT

LOADING = ("num_workers",)
"""Keys of dataset that say how examples are loaded, not which."""

CHANGES_NO_RESULT = ("device", "compile", "checkpoint_dir", "checkpoint_seconds", "save", "test")
"""Keys of train that say where a training runs and is kept, not what it gives."""


ADDED_LATER: Mapping[str, Any] = {
    "train.drop_last": False,
    "train.eval_batch_size": None,
    "schedule.end_factor": None,  # of exponential, natural_exponential and inverse_time; elsewhere it is a number
    "schedule.threshold_mode": "rel",
    "schedule.direction": None,  # of plateau
    "dataset.block": None,
    "dataset.windows": "divided",
    "dataset.collate": None,
    AUGMENT: {"name": "none"},
    "task": {"name": "auto", "loss": None, "metrics": None},
    "task.ignore_index": None,  # of classification
    "loop": {"name": "none"},
}
"""Dotted keys that configurations did not have before -> their defaults.

With its default, such a key is no part of the identity: studies and trainings of earlier versions keep their names.
"""


def identity(resolved: Mapping[str, Any], theirs: Sequence[str] = ()) -> dict[str, Any]:
    """Return the part of a resolved configuration that changes results.

    Keys that only say where a training runs are left out, and so is a key of ADDED_LATER that has its default. The
    order of parameter groups counts.

    Args:
        theirs: keys of the groups that `shadowing` gives: code of a user's is told from ours with the same import path.
    """
    known = _without_added(resolved)
    left_out = {"train": CHANGES_NO_RESULT, "dataset": LOADING}
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


def _without_added(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Leave out the keys of ADDED_LATER that have their default; a critic's keys count like the generator's."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{path}{name}".removeprefix("critic.")
        is_theirs = key.startswith("schedule.") and "_target_" in values  # it may have keys of these names
        if not is_theirs and key in ADDED_LATER and value == ADDED_LATER[key] and type(value) is type(ADDED_LATER[key]):
            continue
        kept[name] = _without_added(value, f"{path}{name}.") if isinstance(value, Mapping) else value
    return kept
