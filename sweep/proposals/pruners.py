"""Builds pruners, and lets them compare trials of the same branch only."""

from collections.abc import Container, Mapping
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

from sweep.config import NamedOptions
from sweep.errors import InvalidValueError
from sweep.proposals.options import build
from sweep.validation import check_one_of

CLASSES: Mapping[str, type[BasePruner]] = {
    "none": NopPruner,
    "median": MedianPruner,
    "percentile": PercentilePruner,
    "asha": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
}


def pruner(config: NamedOptions, horizon: int, conditional: bool) -> BasePruner:
    """Build the pruner of a configuration. Its resources are updates, up to the horizon.

    Raises:
        InvalidValueError: if the pruner or an option is unknown, or the pruner cannot be restricted to one branch.
    """
    check_one_of("pruner.name", config.name, CLASSES)
    if config.name == "hyperband" and conditional:
        rule = "compares trials of different groups with each other; median, percentile and asha keep to one"
        raise InvalidValueError("pruner", config.name, rule)
    bounds = {"max_resource": horizon} if config.name == "hyperband" else {}
    return build("pruner", config, CLASSES[config.name], **bounds)


class BranchStudy:
    """A view of a study that has the trials of one branch only."""

    def __init__(self, study: Study, selection: Mapping[str, Any]) -> None:
        self._study, self._selection = study, selection

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=states)
        return [t for t in trials if self._selection.items() <= t.params.items()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)
