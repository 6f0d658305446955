"""Lengths in updates that follow from a composed configuration: the horizon, and what warmup leaves of it."""

from omegaconf import DictConfig, OmegaConf

from sweep.validation import whole


def horizon(config: DictConfig, key: str) -> int:
    """Return the updates that a key counts in: T, below critic those that it makes meanwhile.

    Raises:
        InvalidValueError: names train.steps or critic.updates.
    """
    steps, updates = config.train.steps, critic_updates(config)
    whole("train.steps", steps, at_least=1)
    if not is_critics(key) or updates is None:
        return int(steps)
    whole("critic.updates", updates, at_least=1)
    return int(steps) * updates


def remaining(config: DictConfig, key: str, taken: int = 0, part: float = 1.0) -> int:
    """Return a part of the steps that a decay has within the horizon, less those taken: T - W; T if it counts from 0.

    If the warmup leaves no step, the result is a length that any decay accepts: the warmup is what is to be refused.
    """
    warmup = optimizes(config, key).warmup
    before = 0 if warmup.get("counting") == "overlap" else int(warmup.get("steps", 0))
    left = horizon(config, key) - before
    if left < 1:
        return 0 if taken else 1
    return round(part * left) - taken


def optimizes(config: DictConfig, key: str) -> DictConfig:
    """Return where the optimizer, schedule and warmup are that a key belongs to."""
    return config.critic if is_critics(key) else config


def is_critics(key: str) -> bool:
    """Return whether a key belongs to the critic of a GAN."""
    return key.partition(".")[0] == "critic"


def critic_updates(config: DictConfig) -> int | None:
    """Return the updates of the critic for each of the generator; None where there is none."""
    critic = config.get("critic")
    return critic.updates if OmegaConf.is_dict(critic) and "updates" in critic else None
