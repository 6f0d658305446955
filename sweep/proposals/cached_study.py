"""A study in memory, and the same study in its database."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.storages._rdb.models import TrialIntermediateValueModel
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import bindparam, delete, insert, text

from sweep.database import LockRetry
from sweep.errors import UnavailableError
from sweep.proposals.store import rdb

INTERMEDIATE = TrialIntermediateValueModel.__table__
INSERT_VALUES = insert(INTERMEDIATE)
DELETE_VALUES = delete(INTERMEDIATE).where(
    INTERMEDIATE.c.trial_id == bindparam("of"), INTERMEDIATE.c.step == bindparam("at")
)


class CachedStudy:
    """A study that is read and asked in memory, and whose trials are written to its database.

    Samplers and pruners look at every trial of a study, several times for each proposal: in a database that takes
    longer than to propose. In memory they see the same trials, so they answer the same. Nothing is written until
    `keep`, which writes a new trial with all its values in one transaction: what is in the database was drawn whole.

    Only one process may have a cached study. Trials that other programs add meanwhile are seen by `read_new`. A
    trial that another program ends stays as that program left it, which is said.

    Args:
        stored: in its database. It has its pruner, and its name, which hyperband's brackets depend on.
        patiently: waits for the database where it is locked.
        seen_as: the trial that samplers and pruners see in the place of a stored one.
    """

    def __init__(
        self,
        stored: Study,
        patiently: LockRetry | None = None,
        seen_as: Callable[[FrozenTrial], FrozenTrial] = lambda trial: trial,
    ) -> None:
        self._patiently = patiently or LockRetry("study.storage")
        self._stored, self._seen_as = stored, seen_as
        self._memory = InMemoryStorage()
        self.study = optuna.create_study(
            storage=self._memory, study_name=stored.study_name, direction=stored.direction, pruner=stored.pruner
        )
        self._memory_id = self._memory.get_study_id_from_name(stored.study_name)
        self._storage, self._study_id = stored._storage, stored._study_id  # Optuna has no other way to its storage
        self._n_trials = 0
        self._written: dict[int, _Written] = {}
        self._ended_elsewhere: set[int] = set()
        self.stored = self._read()
        """The trials that the database had, as they are stored there."""

    def read_new(self) -> list[FrozenTrial]:
        """Take the trials that other programs have added to the database since; return them as they are stored.

        Raises:
            UnavailableError: if the study was deleted.
        """
        query, engine = text("SELECT COUNT(*) FROM trials WHERE study_id = :study_id"), rdb(self._stored).engine

        def n_stored() -> int:
            with engine.connect() as connection:
                return int(connection.execute(query, {"study_id": self._study_id}).scalar_one())

        return self._read() if self._patiently(n_stored) > self._n_trials else []

    def _read(self) -> list[FrozenTrial]:
        """Take the trials that are not in memory yet. What is in them is not checked again: it may be anything."""
        with self._known():
            new = self._patiently(lambda: self._stored.get_trials(deepcopy=False))[self._n_trials :]
        for trial in new:
            seen = self._seen_as(trial)
            self._memory.create_new_trial(self._memory_id, template_trial=seen)
            if not seen.state.is_finished():
                self._written[trial.number] = _Written(trial._trial_id, trial)
        self._n_trials += len(new)
        return new

    def __getitem__(self, number: int) -> FrozenTrial:
        """The trial of that number as it is now; not to be changed."""
        return self._memory.get_trial(self._trial_id(number))

    def begin(self, number: int) -> None:
        """Set a queued trial running. It is in the database when it is kept."""
        self._memory.set_trial_state_values(self._trial_id(number), TrialState.RUNNING)

    def annotate(self, number: int, key: str, value: Any) -> None:
        """Set a user attribute of a trial. It is in the database when it is kept."""
        self._memory.set_trial_user_attr(self._trial_id(number), key, value)

    def _trial_id(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._memory_id, number)

    def say(self, line: str) -> None:
        """Show a line about the study."""
        self._patiently.say(line)

    def keep(self, number: int) -> None:
        """Write what is new of a trial. That it ended is written last.

        Raises:
            UnavailableError: if the study was deleted, or another program has added a trial of the same number.
        """
        trial = self[number]
        if number in self._ended_elsewhere:
            return
        if number in self._written:
            written = self._written[number]
            trial_id = written.trial_id
            try:
                with self._known():
                    self._patiently(lambda: self._update(written, trial))
            except UpdateFinishedTrialError:
                self._ended_elsewhere.add(number)
                self._patiently.say(f"trial {number} was ended by another program: its result is not told to Optuna")
                return
        else:
            with self._known():
                trial_id = self._create(trial)
        if trial.state.is_finished():
            del self._written[number]
        else:
            self._written[number] = _Written(trial_id, trial)

    @contextmanager
    def _known(self) -> Iterator[None]:
        """Explain what Optuna raises of a study or trial that is not in its database any more."""
        try:
            yield
        except KeyError as error:
            name = self.study.study_name
            raise UnavailableError(f"study {name}, or a trial of it, was deleted from study.storage") from error

    def _create(self, trial: FrozenTrial) -> int:
        """Write a new trial once; its id. That a try which failed wrote nothing is looked at, not believed."""
        tries, storage, study_id = count(), self._storage, self._study_id

        def attempt() -> int:
            if next(tries):
                with suppress(KeyError):  # there is none of that number
                    return storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            return storage.create_new_trial(study_id, template_trial=trial)

        trial_id = self._patiently(attempt)
        number = self._patiently(lambda: storage.get_trial_number_from_id(trial_id))
        if number != trial.number:  # the next command trains it under the number that it has
            raise UnavailableError(f"another program has added trial {trial.number} while it was proposed")
        self._n_trials = number + 1
        return trial_id

    def _update(self, written: "_Written", trial: FrozenTrial) -> None:
        """Write what is new of a trial; may be done again from the start as long as the last step was not."""
        storage, trial_id = self._storage, written.trial_id
        for name in trial.params:
            if name not in written.params:  # of a trial that was queued, or begun by halves
                distribution = trial.distributions[name]
                internal = distribution.to_internal_repr(trial.params[name])
                storage.set_trial_param(trial_id, name, internal, distribution)
        for key, value in _new(written.user_attrs, trial.user_attrs):
            storage.set_trial_user_attr(trial_id, key, value)
        for key, value in _new(written.system_attrs, trial.system_attrs):  # a pruner's notes, after what it decided
            storage.set_trial_system_attr(trial_id, key, value)
        self._write_values(trial_id, trial, sorted(trial.intermediate_values.keys() - written.steps))
        if trial.state is not written.state:
            storage.set_trial_state_values(trial_id, trial.state, trial.values)

    def _write_values(self, trial_id: int, trial: FrozenTrial, steps: Sequence[int]) -> None:
        """Write the intermediate values of these steps in one transaction, which may be repeated.

        Optuna writes each in a transaction of its own with four queries: a third of the time that this process takes
        for a trial with ten evaluations, while the training process needs the core.
        """
        if not steps:
            return
        rows = []
        for step in steps:
            given = trial.intermediate_values[step]
            value, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(given)
            row = {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
            rows.append(row)
        with rdb(self._stored).engine.begin() as connection:
            connection.execute(DELETE_VALUES, [{"of": trial_id, "at": step} for step in steps])
            connection.execute(INSERT_VALUES, rows)


class _Written:
    """What the database has of a trial that has not ended; copies, since a live trial changes what it was made from."""

    def __init__(self, trial_id: int, trial: FrozenTrial) -> None:
        self.trial_id, self.state = trial_id, trial.state
        self.params, self.steps = set(trial.params), set(trial.intermediate_values)
        self.system_attrs, self.user_attrs = dict(trial.system_attrs), dict(trial.user_attrs)


def _new(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The entries that were not there, or were others."""
    return [(key, value) for key, value in after.items() if key not in before or before[key] != value]
