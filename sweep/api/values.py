"""The values of overrides in Python: what is searched, and plain values as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sweep.api.raising import plainly
from sweep.errors import InvalidValueError
from sweep.report.text import as_override, is_group
from sweep.requests.expressions import GROUPS, read
from sweep.requests.scan import CRITIC_GROUPS
from sweep.validation import check_number, check_one_of

Overrides = Sequence[str] | Mapping[str, Any] | None
"""Overrides of the configuration: strings `key=value` as on the command line, or a mapping from keys to values.

In a mapping, a string is the text after `=` on the command line. Other values are numbers, True, False, None,
lists, mappings, paths, and what `interval`, `loguniform` and `choice` return. `{"train": {"steps": 100}}` means
`{"train.steps": 100}`.
"""

Unit = Literal["updates", "fraction", "epochs"]


@dataclass(frozen=True)
class Searched:
    """The values of a key that a search draws from."""

    def text(self, key: str) -> str:
        """Return the expression that means them on the command line."""
        raise NotImplementedError


@dataclass(frozen=True)
class Interval(Searched):
    """Numbers low <= x <= high, drawn uniformly, or uniformly in log x."""

    low: float
    high: float
    log: bool
    unit: str
    integer: bool

    def __post_init__(self) -> None:
        check_one_of("unit", self.unit, ("updates", "fraction", "epochs"))
        for name, value in (("low", self.low), ("high", self.high)):
            check_number(name, value)
        if not self.low < self.high:
            raise InvalidValueError("high", self.high, f"must be > low={self.low}")
        if self.log:
            check_number("low", self.low, above=0)

    def text(self, key: str) -> str:
        tags = [*(["log"] if self.log else []), *([self.unit] if self.unit != "updates" else [])]
        expression = f"interval({as_override(self.low)},{as_override(self.high)})"
        if self.integer:
            expression = f"int({expression})"
        return f"tag({','.join(tags)},{expression})" if tags else expression


@dataclass(frozen=True)
class Options(Searched):
    """A list of values."""

    options: tuple[Any, ...]

    def text(self, key: str) -> str:
        texts = [value_text(option, is_group(key)) for option in self.options]
        return ",".join(texts) if len(texts) > 1 else f"choice({texts[0]})"  # choice(...) takes no null


@plainly
def interval(low: float, high: float, *, unit: Unit = "updates", integer: bool = False) -> Searched:
    """Search low <= x <= high, uniformly.

    Args:
        unit: the unit of `low` and `high` if the key counts updates, such as `warmup.steps`: "updates", "fraction" of
            the horizon `train.steps`, or "epochs". The trial gets whole updates. Other keys have no unit.
        integer: whether to draw whole numbers. Keys that count updates or examples get whole numbers anyway.

    Raises:
        InvalidValueError: names the end or the unit that cannot be right.
    """
    return Interval(_plain(low), _plain(high), False, unit, integer)


@plainly
def loguniform(low: float, high: float, *, unit: Unit = "updates", integer: bool = False) -> Searched:
    """Search 0 < low <= x <= high, uniformly in log x.

    Args:
        unit, integer: as for `interval`.

    Raises:
        InvalidValueError: names the end or the unit that cannot be right.
    """
    return Interval(_plain(low), _plain(high), True, unit, integer)


@plainly
def choice(*options: Any) -> Searched:
    """Search among these values, or among these options of a group: `{"schedule": choice("cosine", "wsd")}`.

    Raises:
        InvalidValueError: if there is none.
    """
    if not options:
        raise InvalidValueError("choice", "()", "must have at least one option")
    return Options(options)


def as_texts(overrides: Overrides) -> list[str]:
    """Return overrides as texts `key=value`.

    Raises:
        InvalidValueError: names what is no override.
    """
    if overrides is None:
        return []
    if isinstance(overrides, str):
        raise InvalidValueError("overrides", overrides, "must be a list of texts or a mapping, not one text")
    if not isinstance(overrides, Mapping):
        for text in overrides:
            if not isinstance(text, str):
                raise InvalidValueError("overrides", text, "must be a text key=value; a mapping takes other values")
        return list(overrides)
    return [f"{key}={_text(key, value)}" for key, value in _flat(overrides).items()]


OPTIONS = (*GROUPS, *CRITIC_GROUPS, "dataset", "task", "loop", "space", "sampler", "pruner", "engine")
"""Groups that have options."""


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the keys of mappings of groups in place of the groups.

    `{"optimizer": {"name": "adam", "lr": 0.1}}` chooses an option: `{"optimizer": "adam", "optimizer.lr": 0.1}`.
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and is_group(key):
            within = {f"{key}.{inner}": of_inner for inner, of_inner in value.items()}
            if key in OPTIONS and "name" in value:
                within = {key: within.pop(f"{key}.name"), **within}
            flat |= _flat(within)
        else:
            flat[key] = value
    return flat


def _text(key: str, value: Any) -> str:
    if isinstance(value, Searched):
        return value.text(key)
    if callable(value):
        rule = "code is named by its import path, in a package that is trusted: 'mylab.losses.focal', trusted=['mylab']"
        raise InvalidValueError(key, getattr(value, "__qualname__", repr(value)), rule)
    if not isinstance(value, str):
        return value_text(value)
    try:
        read(f"{key}={value}")
    except InvalidValueError:
        return as_override(value)  # a path with blanks, say, which the command line would want quoted
    return value


def value_text(value: Any, option: bool = False) -> str:
    """Return a value as an override has it; of a group, the `option` as it is.

    Raises:
        InvalidValueError: if there is no such text.
    """
    plain = _plain(value)
    return as_override(plain, option)


def _plain(value: Any) -> Any:
    """Return a value as one that an override can have."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    rule = "must be a text, number, True, False, None, list or mapping, or what interval, loguniform or choice return"
    raise InvalidValueError("overrides", repr(value), rule)
