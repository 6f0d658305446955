"""Defines OmegaConf resolvers for values that depend on the horizon, the data set or other keys."""

from typing import Any

from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.basecontainer import BaseContainer

from sweep.config import ENERGY_DISTANCE, steps_per_epoch
from sweep.errors import InvalidValueError
from sweep.requests.build import dataset_config
from sweep.requests.current_trainer import current_trainer
from sweep.requests.expressions import whole_updates
from sweep.requests.horizon import critic_updates, horizon, is_critics, remaining, warmup_above
from sweep.validation import check_integer


def register_resolvers() -> None:
    """Register the resolvers that conf uses, which read the configuration that contains them.

    `${fraction:x}`, `${epochs:n}`, `${remaining:}` and `${warmup_steps:default}` are numbers of updates: below critic
    those of the critic, elsewhere those that train.steps counts. The results of fraction and remaining exceed their
    last argument `above`, for lists that must increase. `${objective:}` is the default metric.
    """
    OmegaConf.register_new_resolver("fraction", _fraction, replace=True)
    OmegaConf.register_new_resolver("epochs", _epochs, replace=True)
    OmegaConf.register_new_resolver("remaining", _remaining, replace=True)
    OmegaConf.register_new_resolver("warmup_steps", _warmup_steps, replace=True)
    OmegaConf.register_new_resolver("unless_half_life", _unless_half_life, replace=True)
    OmegaConf.register_new_resolver("objective", _objective, replace=True)


def _fraction(part: float, above: int | None = None, *, _root_: DictConfig, _node_: Node) -> int:
    """Return round(part * T)."""
    key = _key(_node_)
    return _exceeding(above, whole_updates(key, part, horizon(_root_, key), part_of_horizon=True))


def _epochs(count: float, *, _root_: DictConfig, _node_: Node) -> int:
    """Return the rounded number of updates of `count` epochs. Load the data set."""
    key = _key(_node_)
    return whole_updates(key, count, epoch_length(_root_, key), part_of_horizon=False)


def _remaining(
    taken: int = 0, part: float = 1.0, above: int | None = None, *, _root_: DictConfig, _parent_: BaseContainer
) -> int:
    return _exceeding(above, remaining(horizon(_root_, _key(_parent_)), warmup_above(_parent_), taken, part))


def _exceeding(above: int | None, updates: int) -> int:
    return updates if above is None else max(updates, above + 1)


def _warmup_steps(default: int, *, _parent_: BaseContainer) -> int:
    """Return W, or the default without a warmup."""
    return int(warmup_above(_parent_).get("steps", 0)) or default


def _unless_half_life(value: Any, *, _root_: DictConfig, _parent_: BaseContainer) -> Any:
    """Return the value, or null if half_life is given, which determines the same curve."""
    return value if OmegaConf.select(_parent_, "half_life") is None else None


def _objective(*, _root_: DictConfig) -> str:
    """Return the default of study.metric."""
    return "val_loss" if critic_updates(_root_) is None else ENERGY_DISTANCE


def _key(node: Node) -> str:
    """Return the full key of a node, with dots and brackets: `schedule.boundaries[0]`."""
    return str(node._get_full_key(None))


def _n_train(config: DictConfig) -> int:
    """Return the number of training examples. Load the data set, or use loop.examples with a user's loop."""
    if OmegaConf.select(config, "loop._target_") is None:
        return current_trainer().facts(dataset_config(config)).n_train
    examples = config.loop.get("examples")
    if examples is None:
        rule = "must be given for lengths in epochs: the number of training examples of the loop"
        raise InvalidValueError("loop.examples", None, rule)
    check_integer("loop.examples", examples, at_least=1)
    return int(examples)


def epoch_length(config: DictConfig, key: str) -> float:
    """Return the updates of one epoch of the data set, in the updates that a key counts. Load the data set.

    In a GAN, each update of the critic uses one batch, and the generator has fewer updates.
    """
    check_integer("train.batch_size", config.train.batch_size, at_least=1)
    dataset = dataset_config(config)
    drop_last = config.train.get("drop_last", False) or dataset.block is not None
    n_train = _n_train(config)
    batches = steps_per_epoch(n_train, config.train.batch_size, drop_last)
    return batches if is_critics(key) else batches / (critic_updates(config) or 1)
