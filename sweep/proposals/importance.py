"""Which of the searched keys mattered."""

from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweep.database import file_of

FEWEST = 8
"""Complete trials below which importances say nothing."""
CHOICE = "choice"
"""Label of the importances of the groups that are chosen among."""


def importances(storage: str, name: str, numbers: Collection[int]) -> dict[str, dict[str, float]]:
    """Label of a branch -> key -> importance between 0 and 1, by PED-ANOVA (Watanabe et al. 2023); they sum to 1.

    The label is empty where no group is searched. Where one is, each choice has importances of its own keys, and the
    groups have theirs under CHOICE. A branch with fewer than FEWEST complete trials, or with equal values alone, has
    none. A study that is not there has none either: the record may be read without it.

    Args:
        numbers: of the trials that count.
    """
    file = file_of(storage)
    if file is not None and not file.exists():  # Optuna would create it
        return {}
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except Exception:  # whatever a storage that is not there raises
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
    """Of the keys of a branch; of the groups where the label is None."""
    if len(trials) < FEWEST or len({trial.value for trial in trials}) == 1:
        return {}
    study = optuna.create_study(direction=direction)
    for trial in trials:
        with suppress(ValueError):  # another program has queued it with values that Optuna itself does not accept
            study.add_trial(trial)
    wanted = [name for name in trials[0].params if _is_group(name) == (label is None)]
    found = optuna.importance.get_param_importances(study, params=wanted) if wanted else {}
    return {name.removeprefix(f"{label}."): importance for name, importance in found.items()}
