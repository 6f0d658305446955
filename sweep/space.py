"""What a search draws from: dimensions, and the branches that choices among groups open."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sweep.config import CONDITIONAL, RunConfig
from sweep.core import Value
from sweep.errors import InvalidValueError


@dataclass(frozen=True)
class Dimension:
    """One searched key.

    Either an interval low..high (both included; integers where `integer`; log-uniform where `log`; multiples of
    `step` from low where there is a step), or `choices`.

    Args:
        key: as in the configuration, with dots.
        expression: what the user wrote, for messages and the identity of the study.
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
                self.key, self.expression, f"the low end {self.low} is above the high end {self.high}"
            )
        if self.log and self.low <= 0:
            raise InvalidValueError(self.key, self.expression, "a logarithmic interval must begin above 0")

    @property
    def labels(self) -> tuple[Value, ...]:
        """The choices as Optuna can store them: a list or the like by its text.

        Optuna cannot distinguish choices that compare equal, such as 1 and true, or a list and its text: the later
        one gets another text.
        """
        labels: dict[Value, None] = {}
        for choice in self.choices:
            label: Value = choice if isinstance(choice, (bool, int, float, str)) else str(choice)
            texts = (str(choice), repr(choice), *(f"{choice} ({number})" for number in range(2, len(labels) + 3)))
            labels[label if label not in labels else next(text for text in texts if text not in labels)] = None
        return tuple(labels)

    def decode(self, drawn: Value) -> Any:
        """The value of the configuration for a value drawn."""
        return self.choices[self.labels.index(drawn)] if self.choices else drawn

    @property
    def ends(self) -> Sequence[Any]:
        """Values that cover what the dimension can give: all choices, or both ends."""
        return self.choices or ((int(self.low), int(self.high)) if self.integer else (self.low, self.high))


@dataclass(frozen=True)
class Branch:
    """One choice among the groups that are searched, with the dimensions it has.

    Args:
        selection: group -> option; empty where no group is searched.
        dimensions: of this branch.
        configure: values by key -> configuration.
        base: the resolved configuration with no dimension drawn, without what does not change results.
    """

    selection: Mapping[str, str]
    dimensions: tuple[Dimension, ...]
    configure: Callable[[Mapping[str, Any]], RunConfig] = field(repr=False)
    base: Mapping[str, Any] = field(repr=False)

    @property
    def label(self) -> str:
        """The options chosen, joined with dots; empty where no group is searched."""
        return ".".join(self.selection.values())

    def parameter(self, dimension: Dimension) -> str:
        """The name of a dimension in Optuna: `exponential.schedule.decay_rate` under a choice, else its key."""
        return f"{self.label}.{dimension.key}" if self.selection else dimension.key

    @property
    def first(self) -> RunConfig:
        """Build the configuration with the first value of every dimension: one that a trial can have.

        No trial need have the defaults of the searched keys, which may be invalid beside the other values.

        Raises:
            InvalidValueError: names the key and the value that is not valid.
        """
        return self._configured({d.key: d.ends[0] for d in self.dimensions})

    def extremes(self) -> Iterator[RunConfig]:
        """Yield the configurations at the ends of the dimensions and at each choice, to check them before a search.

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
                    rule = f"depends on what is searched (elsewhere it is {horizon}); a horizon is not searched"
                    raise InvalidValueError(key, steps, rule)
            yield config

    def _configured(self, values: Mapping[str, Any]) -> RunConfig:
        """Build a configuration; a refusal of a value that was drawn names the expression that it was drawn from."""
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
    """The updates of each optimizer, by the keys that say them."""
    updates = {} if config.critic is None else {"critic.updates": config.critic.updates}
    return {"train.steps": config.train.steps, **updates}


@dataclass(frozen=True)
class Space:
    """All branches of a search, and the groups chosen among.

    Args:
        groups: group -> options, of the groups that are searched.
        branches: one for each combination of options; one without selection where no group is searched.
    """

    groups: Mapping[str, tuple[str, ...]]
    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        if not any(branch.dimensions for branch in self.branches) and not self.groups:
            rule = "there is nothing to search; mode=train trains one configuration"
            raise InvalidValueError("space", "no dimension", rule)

    @property
    def conditional(self) -> bool:
        """Whether a choice decides which parameters there are."""
        return bool(self.groups)

    def check_sampler(self, name: str) -> None:
        """Refuse a sampler that cannot search a choice among groups, if there is one.

        Raises:
            InvalidValueError: names the sampler.
        """
        if self.conditional and name not in CONDITIONAL:
            choice = ", ".join(f"{group}={','.join(options)}" for group, options in self.groups.items())
            rule = f"cannot search a choice among groups ({choice}); {' and '.join(CONDITIONAL)} can"
            raise InvalidValueError("sampler", name, rule)

    def branch(self, selection: Mapping[str, Any]) -> Branch:
        """The branch of a choice for every group."""
        return next(b for b in self.branches if all(selection[g] == o for g, o in b.selection.items()))

    @property
    def keys(self) -> list[str]:
        """All that is searched: groups, then keys, in the order of their first branch."""
        keys = [d.key for branch in self.branches for d in branch.dimensions]
        return list(self.groups) + list(dict.fromkeys(keys))


def selections(groups: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """Every combination of one option for each group."""
    return [dict(zip(groups, options, strict=True)) for options in product(*groups.values())]
