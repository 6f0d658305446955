"""Pruners, asked only where the comparison is fair: within a branch, at equal steps, after warmup."""

import inspect
from collections.abc import Callable, Container, Mapping
from typing import Any

from optuna import Study
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import FrozenTrial, TrialState

from sweep.config import Choice
from sweep.validation import InvalidValueError


def pruner(config: Choice, horizon: int, conditional: bool) -> BasePruner:
    """The pruner of a configuration; resources are updates, up to the horizon.

    Raises:
        InvalidValueError: if there is no such pruner or option, or it cannot keep to one branch.
    """
    classes: Mapping[str, Callable[..., BasePruner]] = {
        "none": NopPruner,
        "median": MedianPruner,
        "percentile": PercentilePruner,
        "asha": SuccessiveHalvingPruner,
        "hyperband": HyperbandPruner,
    }
    if config.name not in classes:
        raise InvalidValueError("pruner.name", config.name, f"must be one of {', '.join(classes)}")
    if config.name == "hyperband" and conditional:
        rule = "compares trials of different groups with each other; median, percentile and asha keep to one"
        raise InvalidValueError("pruner", config.name, rule)
    make = classes[config.name]
    for name, value in config.options.items():
        if name not in inspect.signature(make).parameters:
            raise InvalidValueError(f"pruner.{name}", value, f"is not a key of {config.name}")
    bounds = {"max_resource": horizon} if config.name == "hyperband" else {}
    try:
        return make(**config.options, **bounds)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            "pruner", config.name, f"refused its options {dict(config.options)}: {error}"
        ) from error


class BranchStudy:
    """A study as a pruner may see it: with the trials of one branch only."""

    def __init__(self, study: Study, selection: Mapping[str, Any]) -> None:
        self._study, self._selection = study, selection

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=states)
        return [t for t in trials if self._selection.items() <= t.params.items()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)
