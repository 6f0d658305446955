"""Optuna's samplers and pruners, built from the options of a configuration."""

import inspect
from typing import Any, TypeVar

from sweep.config import NamedOptions
from sweep.errors import InvalidValueError

T = TypeVar("T")


def build(kind: str, config: NamedOptions, cls: type[T], **fixed: Any) -> T:
    """An object of `cls` with the configured options and the `fixed` ones.

    Args:
        kind: "sampler" or "pruner", for messages.

    Raises:
        InvalidValueError: names an option that there is not, or says why the class refused its options.
    """
    known = inspect.signature(cls).parameters
    for name, value in config.options.items():
        if name not in known or name in fixed:
            raise InvalidValueError(f"{kind}.{name}", value, f"is not a key of {config.name}")
    try:
        return cls(**config.options, **fixed)
    except (TypeError, ValueError) as error:
        rule = f"refused its options {dict(config.options)}: {error}"
        raise InvalidValueError(kind, config.name, rule) from error
