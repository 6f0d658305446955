"""Trials in Optuna's tables: the rows are those that Optuna's own storage writes."""

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import text

from sweep.proposals.store import _storage
from sweep.proposals.trial_tables import FinishedError, NumberTakenError, Stored, TrialTables

TABLES = {
    "trials": "number, study_id, state, datetime_start, datetime_complete",
    "trial_params": "trial_id, param_name, param_value, distribution_json",
    "trial_values": "trial_id, objective, value, value_type",
    "trial_intermediate_values": "trial_id, step, intermediate_value, intermediate_value_type",
    "trial_user_attributes": "trial_id, key, value_json",
    "trial_system_attributes": "trial_id, key, value_json",
}
DISTRIBUTIONS = {
    "optimizer.lr": FloatDistribution(1e-4, 1.0, log=True),
    "warmup.steps": IntDistribution(1, 64, log=True),
    "schedule": CategoricalDistribution(("cosine", "wsd")),
}
BEGUN = create_trial(
    state=TrialState.RUNNING,
    params={"optimizer.lr": 0.1, "warmup.steps": 7, "schedule": "wsd"},
    distributions=DISTRIBUTIONS,
    system_attrs={"fixed_params": {"optimizer.lr": 0.1}},
)


def ended(state: TrialState, value: float | None) -> FrozenTrial:
    """BEGUN as it ends: with values that a database has no number for."""
    reached = {10: 0.5, 20: math.nan, 30: math.inf, 40: -math.inf}
    return create_trial(
        state=state,
        value=value,
        params=BEGUN.params,
        distributions=DISTRIBUTIONS,
        intermediate_values=reached,
        user_attrs={"sweep.attempts": 1, "mlflow_run_id": "a"},
        system_attrs={**BEGUN.system_attrs, "constraints": [0.0]},
    )


def study(folder: Path, name: str = "mine") -> Study:
    return optuna.create_study(storage=_storage(f"sqlite:///{folder}/optuna.db"), study_name=name, load_if_exists=True)


def numbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    trial.number = number
    return trial


def rows(of: Study) -> dict[str, Any]:
    with of._storage._backend.engine.connect() as connection:  # type: ignore[attr-defined]
        return {
            table: sorted(map(repr, connection.execute(text(f"SELECT {columns} FROM {table}"))))
            for table, columns in TABLES.items()
        }


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (TrialState.COMPLETE, 0.5),
        (TrialState.COMPLETE, math.inf),
        (TrialState.COMPLETE, -math.inf),
        (TrialState.PRUNED, 0.25),
        (TrialState.PRUNED, None),
        (TrialState.FAIL, None),
    ],
)
def test_the_rows_of_a_trial_are_those_of_optunas_storage(
    tmp_path: Path, state: TrialState, value: float | None
) -> None:
    """At once, and in two steps as a trial is asked and told."""
    whole = ended(state, value)
    (tmp_path / "optuna").mkdir()
    theirs, ours = study(tmp_path / "optuna"), study(tmp_path)
    for _ in range(2):
        theirs._storage.create_new_trial(theirs._study_id, template_trial=whole)
    tables = TrialTables(ours)
    assert tables.last_number() == -1
    tables.insert(numbered(whole, 0))
    begun = numbered(create_trial(state=TrialState.RUNNING, params=BEGUN.params, distributions=DISTRIBUTIONS), 1)
    begun.system_attrs, begun.datetime_start = dict(BEGUN.system_attrs), whole.datetime_start
    trial_id = tables.insert(begun)
    assert (tables.last_number(), tables.find(1), tables.find(2)) == (1, trial_id, None)
    tables.update(trial_id, Stored(begun), numbered(whole, 1))
    assert rows(ours) == rows(theirs)
    assert [trial.params for trial in ours.get_trials()] == [BEGUN.params] * 2


def test_a_queued_trial_that_is_begun_gets_its_start_and_changed_attributes(tmp_path: Path) -> None:
    ours = study(tmp_path)
    ours.enqueue_trial({"optimizer.lr": 0.5}, user_attrs={"sweep.attempts": 3, "note": "kept"})
    queued = ours.get_trials()[0]
    begun = ours.get_trials()[0]
    begun.state, begun.datetime_start = TrialState.RUNNING, datetime(2026, 7, 1, 12, 30)
    begun.user_attrs = {"sweep.attempts": 0, "note": "kept"}
    TrialTables(ours).update(queued._trial_id, Stored(queued), begun)
    (read,) = study(tmp_path).get_trials()
    assert (read.state, read.datetime_start, read.user_attrs) == (begun.state, begun.datetime_start, begun.user_attrs)


def test_a_number_is_given_once_in_a_study(tmp_path: Path) -> None:
    ours, other = study(tmp_path), study(tmp_path, "other")
    for of in (ours, other):
        TrialTables(of).insert(numbered(ended(TrialState.COMPLETE, 0.5), 0))
    ours.enqueue_trial({})
    for number in (0, 1, 3):
        with pytest.raises(NumberTakenError):
            TrialTables(ours).insert(numbered(ended(TrialState.COMPLETE, 0.5), number))
    TrialTables(ours).insert(numbered(ended(TrialState.COMPLETE, 0.5), 2))
    assert [trial.number for trial in ours.get_trials()] == [0, 1, 2]
    assert len(other.get_trials()) == 1


def test_a_trial_that_has_ended_or_is_deleted_is_not_written_to(tmp_path: Path) -> None:
    ours = study(tmp_path)
    tables, begun = TrialTables(ours), numbered(ended(TrialState.RUNNING, None), 0)
    trial_id = tables.insert(begun)
    ours.tell(0, state=TrialState.FAIL)
    before = rows(ours)
    with pytest.raises(FinishedError):
        tables.update(trial_id, Stored(begun), numbered(ended(TrialState.COMPLETE, 0.5), 0))
    assert rows(ours) == before
    optuna.delete_study(study_name="mine", storage=ours._storage)
    with pytest.raises(KeyError):
        tables.update(trial_id, Stored(begun), numbered(ended(TrialState.COMPLETE, 0.5), 0))
    with pytest.raises(KeyError):
        tables.insert(numbered(ended(TrialState.COMPLETE, 0.5), 1))


def test_optunas_storage_continues_what_is_written_here(tmp_path: Path) -> None:
    ours = study(tmp_path)
    TrialTables(ours).insert(numbered(ended(TrialState.RUNNING, None), 0))
    theirs = optuna.load_study(study_name="mine", storage=RDBStorage(f"sqlite:///{tmp_path}/optuna.db"))
    theirs.tell(0, 0.5)
    theirs.optimize(lambda trial: trial.suggest_float("optimizer.lr", 1e-4, 1.0, log=True), n_trials=2)
    assert [(trial.number, trial.state.name) for trial in ours.get_trials()] == [(n, "COMPLETE") for n in range(3)]
