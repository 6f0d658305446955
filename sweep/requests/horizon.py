"""Computes lengths in updates from a composed configuration: the horizon, and its part after warmup."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

from sweep.validation import check_integer


def horizon(config: DictConfig, key: str) -> int:
    """Return the horizon in the updates that a key counts: T, or T * critic.updates for keys below critic.

    Raises:
        InvalidValueError: names train.steps or critic.updates.
    """
    steps, updates = config.train.steps, critic_updates(config)
    check_integer("train.steps", steps, at_least=1)
    if not is_critics(key) or updates is None:
        return int(steps)
    check_integer("critic.updates", updates, at_least=1)
    return int(steps) * updates


def remaining(horizon: int, warmup: Mapping[Any, Any], taken: int = 0, part: float = 1.0) -> int:
    """Return round(part * n) - taken, where n are the updates of a decay: T - W, or T if it counts from step 0.

    If n < 1, the result is a length that any decay accepts, so that the warmup is refused and not the decay.

    Args:
        warmup: its keys, of which `steps` and `counting` are used.
    """
    before = 0 if warmup.get("counting") == "overlap" else int(warmup.get("steps", 0))
    left = horizon - before
    if left < 1:
        return 0 if taken else 1
    return round(part * left) - taken


def warmup_above(node: BaseContainer) -> DictConfig:
    """Return the warmup that precedes a schedule: of its group of parameters, of the critic, or of the model.

    It is the `warmup` of the innermost mapping that contains the schedule and has a warmup.
    """
    above = node._get_parent()
    while above is not None:
        warmup = above.get("warmup") if isinstance(above, DictConfig) else None
        if isinstance(warmup, DictConfig):
            return warmup
        above = above._get_parent()
    return OmegaConf.create({})


def is_critics(key: str) -> bool:
    """Return whether a key belongs to the critic of a GAN."""
    return key.partition(".")[0] == "critic"


def critic_updates(config: DictConfig) -> int | None:
    """Return the updates of the critic for each update of the generator; None without a critic."""
    critic = config.get("critic")
    return critic.updates if OmegaConf.is_dict(critic) and "updates" in critic else None
