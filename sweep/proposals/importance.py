"""Computes how much each searched key mattered."""

from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweep.database import file_of

FEWEST = 8
"""The fewest complete trials for which importances are computed."""
CHOICE = "choice"
"""Label of the importances of the searched groups."""


def importances(storage: str, name: str, numbers: Collection[int]) -> dict[str, dict[str, float]]:
    """Return branch label -> key -> importance, by PED-ANOVA (Watanabe et al. 2023).

    Importances are between 0 and 1; those of one label sum to 1. Without a searched group the only label is empty. With
    one, each branch has importances of its own keys, and the groups have theirs under CHOICE. A branch with fewer than
    FEWEST complete trials, or whose values are all equal, is left out. Without the study the result is empty, because a
    record may be read without it.

    Args:
        numbers: the numbers of the trials that count.
    """
    file = file_of(storage)
    if file is not None and not file.exists():  # Optuna would create it
        return {}
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except Exception:  # each kind of storage raises its own error where there is none
        return {}
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    complete = [trial for trial in ended if trial.number in numbers]
    branches: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in complete:
        branches[".".join(str(option) for key, option in trial.params.items() if _is_group(key))].append(trial)
    found = {label: _importances(study.direction, trials, label) for label, trials in branches.items()}
    if "" not in branches:
        found[CHOICE] = _importances(study.direction, complete, None)
    return {label: of for label, of in found.items() if of}


def _is_group(parameter: str) -> bool:
    return "." not in parameter


def _importances(direction: StudyDirection, trials: list[FrozenTrial], label: str | None) -> dict[str, float]:
    """Return the importances of the keys of a branch; those of the groups if the label is None."""
    if len(trials) < FEWEST or len({trial.value for trial in trials}) == 1:
        return {}
    study = optuna.create_study(direction=direction)
    for trial in trials:
        with suppress(ValueError):  # another program has queued it with values that Optuna itself does not accept
            study.add_trial(trial)
    wanted = [name for name in trials[0].params if _is_group(name) == (label is None)]
    found = optuna.importance.get_param_importances(study, params=wanted) if wanted else {}
    return {name.removeprefix(f"{label}."): importance for name, importance in found.items()}
