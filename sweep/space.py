"""Defines the space of a search: its dimensions, and a branch for each choice of options of the searched groups."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sweep.config import CONDITIONAL_SAMPLERS, RunConfig
from sweep.core import Value
from sweep.errors import InvalidValueError


@dataclass(frozen=True)
class Dimension:
    """A searched key, with an interval or a list of choices.

    Args:
        key: the key in the configuration, with dots.
        expression: the sweep expression, for messages and the identity of the study.
        low, high: ends of the interval, both included.
        integer: whether the values are integers.
        log: whether the values are log-uniform.
        step: the values are low + i * step; None for all values of the interval.
        choices: the values, instead of an interval.
    """

    key: str
    expression: str
    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.choices:
            return
        if not self.low <= self.high:
            raise InvalidValueError(
                self.key, self.expression, f"must not have a low end {self.low} above the high end {self.high}"
            )
        if self.log and self.low <= 0:
            raise InvalidValueError(
                self.key, self.expression, "must begin above 0, because the interval is logarithmic"
            )

    @property
    def labels(self) -> tuple[Value, ...]:
        """Return the choices as Optuna stores them; a list or mapping is represented by its text.

        Optuna cannot distinguish choices that compare equal, such as 1 and true, or a list and its text. The later one
        gets a different text.
        """
        labels: dict[Value, None] = {}
        for choice in self.choices:
            label: Value = choice if isinstance(choice, (bool, int, float, str)) else str(choice)
            texts = (str(choice), repr(choice), *(f"{choice} ({number})" for number in range(2, len(labels) + 3)))
            labels[label if label not in labels else next(text for text in texts if text not in labels)] = None
        return tuple(labels)

    def decode(self, drawn: Value) -> Any:
        """Return the value of the configuration that a drawn value stands for."""
        return self.choices[self.labels.index(drawn)] if self.choices else drawn

    @property
    def ends(self) -> Sequence[Any]:
        """Return all choices, or both ends of the interval."""
        return self.choices or ((int(self.low), int(self.high)) if self.integer else (self.low, self.high))


@dataclass(frozen=True)
class Branch:
    """One option for each searched group, with the dimensions that these options have.

    Args:
        selection: group -> option; empty if no group is searched.
        dimensions: the dimensions of this branch.
        configure: returns the configuration for a mapping key -> value.
        base: the identity of the configuration before values are drawn.
    """

    selection: Mapping[str, str]
    dimensions: tuple[Dimension, ...]
    configure: Callable[[Mapping[str, Any]], RunConfig] = field(repr=False)
    base: Mapping[str, Any] = field(repr=False)

    @property
    def label(self) -> str:
        """Return the options joined with dots; empty if no group is searched."""
        return ".".join(self.selection.values())

    def parameter(self, dimension: Dimension) -> str:
        """Return the name of a dimension in Optuna: its key, after the label if groups are searched."""
        return f"{self.label}.{dimension.key}" if self.selection else dimension.key

    @property
    def first(self) -> RunConfig:
        """Return the configuration with the first value of every dimension, which a trial can have.

        The defaults of the searched keys may be invalid together with the other values, and are not used.

        Raises:
            InvalidValueError: names the key and the value that is not valid.
        """
        return self._configured({d.key: d.ends[0] for d in self.dimensions})

    def extremes(self) -> Iterator[RunConfig]:
        """Yield the configurations at the ends of all dimensions and with each choice, to check them before a search.

        Raises:
            InvalidValueError: names the key and the value that is not valid.
        """
        low = {d.key: d.ends[0] for d in self.dimensions}
        drawn = [low, {d.key: d.ends[-1] for d in self.dimensions}]
        drawn += [low | {d.key: value} for d in self.dimensions for value in d.choices]
        horizons: dict[str, int] = {}
        for values in drawn:
            config = self._configured(values)
            horizons = horizons or _horizons(config)
            for (key, steps), horizon in zip(_horizons(config).items(), horizons.values(), strict=True):
                if steps != horizon:
                    rule = f"must not depend on searched keys: with other values it is {horizon}"
                    raise InvalidValueError(key, steps, rule)
            yield config

    def _configured(self, values: Mapping[str, Any]) -> RunConfig:
        """Return a configuration. If a drawn value is refused, the error names its sweep expression."""
        try:
            return self.configure(values)
        except InvalidValueError as error:
            drawn_from = {
                d.key: d.expression for d in self.dimensions if not d.choices and values[d.key] == error.value
            }
            if error.key not in drawn_from:
                raise
            rule = f"its end {error.value} {error.rule}"
            raise InvalidValueError(error.key, drawn_from[error.key], rule) from error


def _horizons(config: RunConfig) -> dict[str, int]:
    """Return the keys that determine the number of updates of each optimizer, with their values."""
    updates = {} if config.critic is None else {"critic.updates": config.critic.updates}
    return {"train.steps": config.train.steps, **updates}


@dataclass(frozen=True)
class Space:
    """The space of a search: the searched groups, and a branch for each combination of their options.

    Args:
        groups: searched group -> options.
        branches: one for each combination of options; a single one if no group is searched.
    """

    groups: Mapping[str, tuple[str, ...]]
    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        if not any(branch.dimensions for branch in self.branches) and not self.groups:
            rule = "must have a dimension; mode=train trains one configuration"
            raise InvalidValueError("space", "no dimension", rule)

    @property
    def conditional(self) -> bool:
        """Return whether the parameters depend on the choice of options."""
        return bool(self.groups)

    def check_sampler(self, name: str) -> None:
        """Refuse a sampler that cannot search a choice among groups, if there is one.

        Raises:
            InvalidValueError: names the sampler.
        """
        if self.conditional and name not in CONDITIONAL_SAMPLERS:
            choice = ", ".join(f"{group}={','.join(options)}" for group, options in self.groups.items())
            rule = f"cannot search a choice among groups ({choice}); {' and '.join(CONDITIONAL_SAMPLERS)} can"
            raise InvalidValueError("sampler", name, rule)

    def branch(self, selection: Mapping[str, Any]) -> Branch:
        """Return the branch of a selection of options."""
        return next(b for b in self.branches if all(selection[g] == o for g, o in b.selection.items()))

    @property
    def keys(self) -> list[str]:
        """Return the searched groups, followed by the searched keys in the order of the branches."""
        keys = [d.key for branch in self.branches for d in branch.dimensions]
        return list(self.groups) + list(dict.fromkeys(keys))


def selections(groups: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """Return all combinations of one option for each group."""
    return [dict(zip(groups, options, strict=True)) for options in product(*groups.values())]
