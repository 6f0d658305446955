"""Optuna's samplers and pruners, built from the options of a configuration."""

import inspect
from functools import cache
from typing import Any, TypeVar

from sweep.config import NamedOptions
from sweep.errors import InvalidValueError

T = TypeVar("T")


def build(kind: str, config: NamedOptions, cls: type[T], **fixed: Any) -> T:
    """Build an object of `cls` with the configured options and the `fixed` ones.

    Args:
        kind: "sampler" or "pruner", for messages.

    Raises:
        InvalidValueError: if the class has no such option, or refuses its options.
    """
    known = _parameters(cls)  # type: ignore[arg-type]  # every class is hashable
    for name, value in config.options.items():
        if name not in known or name in fixed:
            raise InvalidValueError(f"{kind}.{name}", value, f"is not a key of {config.name}")
    try:
        return cls(**config.options, **fixed)
    except (TypeError, ValueError) as error:
        rule = f"refused its options {dict(config.options)}: {error}"
        raise InvalidValueError(kind, config.name, rule) from error


@cache
def _parameters(cls: type) -> frozenset[str]:
    """Return the names of a class's arguments; reading a signature takes as long as building a random sampler."""
    return frozenset(inspect.signature(cls).parameters)
