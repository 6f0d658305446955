"""Writes trials into Optuna's tables: a new trial in one transaction, and everything that is new of a trial in one.

Optuna's RDBStorage loads an ORM object for every value and begins a transaction for every attribute. That takes 6 ms
of CPU time for a new trial of four parameters and 4 ms for its end; these statements write the same rows in under 1 ms.
Optuna's own clients read them: `tests/proposals/test_trial_tables.py` compares the two.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages._rdb.models import (
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, bindparam, delete, insert, or_, select, update

from sweep.proposals.store import rdb

STUDIES, TRIALS, VALUES = StudyModel.__table__, TrialModel.__table__, TrialValueModel.__table__
PARAMS, STEPS = TrialParamModel.__table__, TrialIntermediateValueModel.__table__
USER_ATTRIBUTES, SYSTEM_ATTRIBUTES = TrialUserAttributeModel.__table__, TrialSystemAttributeModel.__table__

# Each statement is built once, because SQLAlchemy needs longer to build one than SQLite to execute it.
LOCK_STUDY = select(STUDIES.c.study_id).where(STUDIES.c.study_id == bindparam("study")).with_for_update()
NUMBERS = select(TRIALS.c.number).where(TRIALS.c.study_id == bindparam("study"))
LAST_NUMBER = NUMBERS.order_by(TRIALS.c.trial_id.desc()).limit(1)
LAST_NUMBER_BEFORE = NUMBERS.where(TRIALS.c.trial_id < bindparam("trial")).order_by(TRIALS.c.trial_id.desc()).limit(1)
TRIAL_ID = select(TRIALS.c.trial_id).where(
    TRIALS.c.study_id == bindparam("study"), TRIALS.c.number == bindparam("which")
)
OF_TRIAL = TRIALS.c.trial_id == bindparam("trial")
STATE = select(TRIALS.c.state).where(OF_TRIAL)
IS_UNFINISHED = or_(TRIALS.c.state == TrialState.RUNNING, TRIALS.c.state == TrialState.WAITING)
SET_STATE = (
    update(TRIALS).where(OF_TRIAL, IS_UNFINISHED).values(state=bindparam("new"), datetime_complete=bindparam("end"))
)
SET_START = update(TRIALS).where(OF_TRIAL).values(datetime_start=bindparam("start"))
INSERT_TRIAL, INSERT_PARAMS, INSERT_VALUES, INSERT_STEPS = map(insert, (TRIALS, PARAMS, VALUES, STEPS))


def _attributes(table: Table) -> tuple[Any, Any]:
    """Return the statements that delete and insert attributes."""
    return (
        delete(table).where(table.c.trial_id == bindparam("trial"), table.c.key == bindparam("name")),
        insert(table),
    )


SET_USER, SET_SYSTEM = _attributes(USER_ATTRIBUTES), _attributes(SYSTEM_ATTRIBUTES)


class NumberTakenError(Exception):
    """Another program has added a trial of that number."""


class FinishedError(Exception):
    """Another program has ended the trial."""


class Stored:
    """The part of a trial that is in the database. It holds copies, because a live trial changes its mappings."""

    def __init__(self, trial: FrozenTrial | None = None) -> None:
        self.state = None if trial is None else trial.state
        self.params: set[str] = set() if trial is None else set(trial.params)
        self.steps: set[int] = set() if trial is None else set(trial.intermediate_values)
        self.system_attrs: dict[str, Any] = {} if trial is None else dict(trial.system_attrs)
        self.user_attrs: dict[str, Any] = {} if trial is None else dict(trial.user_attrs)


class TrialTables:
    """The trials of one study in its database.

    Args:
        study: opened from that database.
    """

    def __init__(self, study: Study) -> None:
        self._engine, self._study_id = rdb(study).engine, study._study_id

    def last_number(self) -> int:
        """Return the number of the newest trial; -1 without one."""
        with self._engine.connect() as connection:
            number = connection.execute(LAST_NUMBER, {"study": self._study_id}).scalar()
        return -1 if number is None else int(number)

    def find(self, number: int) -> int | None:
        """Return the id of the trial of that number; None without one."""
        with self._engine.connect() as connection:
            return connection.execute(TRIAL_ID, {"study": self._study_id, "which": number}).scalar()

    def insert(self, trial: FrozenTrial) -> int:
        """Add a trial under its number; return its id.

        Raises:
            KeyError: if the study was deleted.
            NumberTakenError: if its number is not the one that follows the newest trial's; nothing is written then.
        """
        with self._engine.begin() as connection:
            of_study = {"study": self._study_id}
            if connection.execute(LOCK_STUDY, of_study).scalar() is None:
                raise KeyError(self._study_id)
            row = {
                "study_id": self._study_id,
                "number": trial.number,
                "state": trial.state,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            }
            inserted = connection.execute(INSERT_TRIAL, row).inserted_primary_key
            assert inserted is not None
            trial_id = int(inserted[0])
            # SQLite locks the file with the insert: what is read after it stays true until the commit.
            before = connection.execute(LAST_NUMBER_BEFORE, {**of_study, "trial": trial_id}).scalar()
            if trial.number != (0 if before is None else before + 1):
                raise NumberTakenError(trial.number)
            _write(connection, trial_id, Stored(), trial)
        return trial_id

    def update(self, trial_id: int, stored: Stored, trial: FrozenTrial) -> None:
        """Write what is new of a trial.

        Raises:
            KeyError: if the trial was deleted.
            FinishedError: if it has ended in the database.
        """
        with self._engine.begin() as connection:
            state = {"trial": trial_id, "new": trial.state, "end": _utc(trial.datetime_complete)}
            if connection.execute(SET_STATE, state).rowcount != 1:
                if connection.execute(STATE, {"trial": trial_id}).scalar() is None:
                    raise KeyError(trial_id)
                raise FinishedError(trial_id)
            if stored.state is TrialState.WAITING and trial.state is not TrialState.WAITING:
                connection.execute(SET_START, {"trial": trial_id, "start": _utc(trial.datetime_start)})
            _write(connection, trial_id, stored, trial)


def _write(connection: Connection, trial_id: int, stored: Stored, trial: FrozenTrial) -> None:
    """Write the content of a trial that is not stored."""
    params = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distribution.to_internal_repr(trial.params[name]),
            "distribution_json": distribution_to_json(distribution),
        }
        for name, distribution in trial.distributions.items()
        if name not in stored.params
    ]
    if params:
        connection.execute(INSERT_PARAMS, params)
    for statements, before, after in (
        (SET_USER, stored.user_attrs, trial.user_attrs),
        (SET_SYSTEM, stored.system_attrs, trial.system_attrs),
    ):
        _write_attributes(connection, trial_id, statements, before, after)
    steps = [
        _value(TrialIntermediateValueModel.intermediate_value_to_stored_repr(value), "intermediate_value")
        | {"trial_id": trial_id, "step": step}
        for step, value in sorted(trial.intermediate_values.items())
        if step not in stored.steps
    ]
    if steps:
        connection.execute(INSERT_STEPS, steps)
    if trial.values is not None:
        values = [
            _value(TrialValueModel.value_to_stored_repr(value), "value")
            | {"trial_id": trial_id, "objective": objective}
            for objective, value in enumerate(trial.values)
        ]
        connection.execute(INSERT_VALUES, values)


def _value(stored: tuple[float | None, Any], column: str) -> dict[str, Any]:
    """Return the columns of a value: a database may have no infinity and no NaN, which are kinds in a second column."""
    value, kind = stored
    return {column: value, f"{column}_type": kind}


def _write_attributes(
    connection: Connection,
    trial_id: int,
    statements: tuple[Any, Any],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> None:
    """Write the attributes that are new or have changed."""
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    if not changed:
        return
    drop, add = statements
    replaced = [{"trial": trial_id, "name": key} for key in changed if key in before]
    if replaced:
        connection.execute(drop, replaced)
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in changed.items()]
    connection.execute(add, rows)


def _utc(local: datetime | None) -> datetime | None:
    """Convert a naive local time, as a trial has it, to the naive UTC time of Optuna's tables."""
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)
