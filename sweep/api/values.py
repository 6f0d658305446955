"""Converts Python values of overrides to text, and defines the values of searched keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sweep.api.short_tracebacks import short_tracebacks
from sweep.errors import InvalidValueError
from sweep.report.text import as_override, is_group
from sweep.requests.expressions import SEARCHABLE_GROUPS, parse_override
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
    """The values of a searched key."""

    def text(self, key: str) -> str:
        """Return the sweep expression of the command line for these values."""
        raise NotImplementedError


@dataclass(frozen=True)
class Interval(Searched):
    """The numbers low <= x <= high, uniform in x, or in log x."""

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
        return ",".join(texts) if len(texts) > 1 else f"choice({texts[0]})"  # choice(...) does not accept null


@short_tracebacks
def interval(low: float, high: float, *, unit: Unit = "updates", integer: bool = False) -> Searched:
    """Return the values low <= x <= high of a searched key, uniform in x.

    Args:
        unit: the unit of `low` and `high` if the key counts updates, such as `warmup.steps`: "updates", "fraction" of
            the horizon `train.steps`, or "epochs". The values are rounded to whole updates. Other keys have no unit.
        integer: whether to draw integers. Keys that count updates or examples always have integers.

    Raises:
        InvalidValueError: names the end or the unit that cannot be right.
    """
    return Interval(_plain(low), _plain(high), False, unit, integer)


@short_tracebacks
def loguniform(low: float, high: float, *, unit: Unit = "updates", integer: bool = False) -> Searched:
    """Return the values 0 < low <= x <= high of a searched key, uniform in log x.

    Args:
        unit, integer: as for `interval`.

    Raises:
        InvalidValueError: names the end or the unit that cannot be right.
    """
    return Interval(_plain(low), _plain(high), True, unit, integer)


@short_tracebacks
def choice(*options: Any) -> Searched:
    """Return a choice of values of a searched key, or of options of a group: `{"schedule": choice("cosine", "wsd")}`.

    Raises:
        InvalidValueError: if there are no options.
    """
    if not options:
        raise InvalidValueError("choice", "()", "must have at least one option")
    return Options(options)


def as_texts(overrides: Overrides) -> list[str]:
    """Return overrides as texts `key=value`.

    Raises:
        InvalidValueError: names an invalid override.
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


GROUPS_WITH_OPTIONS = (
    *SEARCHABLE_GROUPS,
    *CRITIC_GROUPS,
    "dataset",
    "task",
    "loop",
    "space",
    "sampler",
    "pruner",
    "engine",
)
"""Groups for which `name` in a mapping chooses an option."""


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the mappings of groups by dotted keys.

    `{"optimizer": {"name": "adam", "lr": 0.1}}` chooses an option: `{"optimizer": "adam", "optimizer.lr": 0.1}`.
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and is_group(key):
            within = {f"{key}.{inner}": of_inner for inner, of_inner in value.items()}
            if key in GROUPS_WITH_OPTIONS and "name" in value:
                within = {key: within.pop(f"{key}.name"), **within}
            flat |= _flat(within)
        else:
            flat[key] = value
    return flat


def _text(key: str, value: Any) -> str:
    if isinstance(value, Searched):
        return value.text(key)
    if callable(value):
        rule = "must be the import path of code in a trusted package: 'mylab.losses.focal', trusted=['mylab']"
        raise InvalidValueError(key, getattr(value, "__qualname__", repr(value)), rule)
    if not isinstance(value, str):
        return value_text(value)
    try:
        parse_override(f"{key}={value}")
    except InvalidValueError:
        return as_override(value)  # such as a path with blanks, which needs quotes on the command line
    return value


def value_text(value: Any, option: bool = False) -> str:
    """Return the text of a value in an override.

    Args:
        option: whether the value is an option of a group, which is not quoted.

    Raises:
        InvalidValueError: if the value has no such text.
    """
    return as_override(_plain(value), option)


def _plain(value: Any) -> Any:
    """Convert NumPy values, paths, tuples and arrays to types that an override can have."""
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
