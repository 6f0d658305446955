"""A copy of a study in memory, which samplers and pruners read, and the writes to its database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweep.database import LockRetry
from sweep.errors import UnavailableError
from sweep.proposals.trial_tables import FinishedError, NumberTakenError, Stored, TrialTables


class CachedStudy:
    """A study in a database, with a copy in memory.

    Samplers and pruners read every trial of a study, several times for each proposal. Reading them from a database
    takes longer than proposing. The copy has the same trials, so that the proposals are the same. Nothing is written
    until `keep`, which writes a new trial with all its values in one transaction.

    Only one process may have a cached study. `read_new` reads the trials that other programs have added since. A trial
    that another program ends stays as that program left it, and the user is told.

    Args:
        stored: the study in its database, with its pruner. Its name is kept, because the brackets of hyperband depend
            on it.
        patiently: retries where the database is locked.
        seen_as: returns the trial that samplers and pruners see in place of a stored one.
    """

    def __init__(
        self,
        stored: Study,
        patiently: LockRetry | None = None,
        seen_as: Callable[[FrozenTrial], FrozenTrial] = lambda trial: trial,
    ) -> None:
        self._patiently = patiently or LockRetry("study.storage")
        self._stored, self._seen_as = stored, seen_as
        self._tables = TrialTables(stored)
        self._memory = InMemoryStorage()
        self.study = optuna.create_study(
            storage=self._memory, study_name=stored.study_name, direction=stored.direction, pruner=stored.pruner
        )
        self._memory_id = self._memory.get_study_id_from_name(stored.study_name)
        self._n_trials = 0
        self._unfinished: dict[int, tuple[int, Stored]] = {}
        """Number -> id in the database and stored part of each trial that has not ended."""
        self._ended_elsewhere: set[int] = set()
        self.stored = self._read()
        """The trials that the database had, as they are stored there."""

    def read_new(self) -> list[FrozenTrial]:
        """Read the trials that other programs have added to the database since; return them as they are stored.

        Raises:
            UnavailableError: if the study was deleted.
        """
        return self._read() if self._patiently(self._tables.last_number) >= self._n_trials else []

    def _read(self) -> list[FrozenTrial]:
        """Copy the trials that are not in memory yet, unchecked: another program may have added them."""
        with self._explained():
            new = self._patiently(lambda: self._stored.get_trials(deepcopy=False))[self._n_trials :]
        for trial in new:
            seen = self._seen_as(trial)
            self._memory.create_new_trial(self._memory_id, template_trial=seen)
            if not seen.state.is_finished():
                self._unfinished[trial.number] = trial._trial_id, Stored(trial)
        self._n_trials += len(new)
        return new

    def __getitem__(self, number: int) -> FrozenTrial:
        """Return the trial of that number. The caller must not change it."""
        return self._memory.get_trial(self._trial_id(number))

    def begin(self, number: int) -> None:
        """Set a queued trial running, in memory until the next `keep`."""
        self._memory.set_trial_state_values(self._trial_id(number), TrialState.RUNNING)

    def annotate(self, number: int, key: str, value: Any) -> None:
        """Set a user attribute of a trial, in memory until the next `keep`."""
        self._memory.set_trial_user_attr(self._trial_id(number), key, value)

    def _trial_id(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._memory_id, number)

    def say(self, line: str) -> None:
        """Show a line about the study."""
        self._patiently.say(line)

    def keep(self, number: int) -> None:
        """Write what is new of a trial, in one transaction.

        Raises:
            UnavailableError: if the study was deleted, or another program has added a trial of the same number.
        """
        trial = self[number]
        if number in self._ended_elsewhere:
            return
        trial_id, stored = self._unfinished.get(number, (None, Stored()))
        with self._explained():
            if trial_id is None:
                trial_id = self._insert(trial)
            else:
                try:
                    self._patiently(lambda: self._tables.update(trial_id, stored, trial))
                except FinishedError:
                    self._ended_elsewhere.add(number)
                    self.say(f"trial {number} was ended by another program: its result is not told to Optuna")
                    return
        if trial.state.is_finished():
            self._unfinished.pop(number, None)
        else:
            self._unfinished[number] = trial_id, Stored(trial)

    def _insert(self, trial: FrozenTrial) -> int:
        """Add a new trial to the database once; return its id."""
        tries = count()

        def attempt() -> int:
            # A database may have committed the try before, although it reported that the commit failed.
            found = self._tables.find(trial.number) if next(tries) else None
            return self._tables.insert(trial) if found is None else found

        try:
            trial_id = self._patiently(attempt)
        except NumberTakenError as error:
            raise UnavailableError(f"another program has added trial {trial.number} while it was proposed") from error
        self._n_trials = trial.number + 1
        return trial_id

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise UnavailableError where a study or trial is no longer in its database."""
        try:
            yield
        except KeyError as error:
            name = self.study.study_name
            raise UnavailableError(f"study {name}, or a trial of it, was deleted from study.storage") from error
