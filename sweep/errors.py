"""Defines the errors with which a command, or a call of the library, ends."""

from sweep.passwords import without_passwords
from sweep.targets import is_given, with_names


class InvalidValueError(ValueError):
    """A request that cannot be carried out. Its text names the key, the value and the rule.

    For an object that was given in Python, the text has its name: `model=Net`, not `model._target_=python.Net_...`.
    """

    def __init__(self, key: str, value: object, rule: str) -> None:
        if is_given(value):
            key = key.removesuffix("._target_")
        super().__init__(without_passwords(with_names(f"{key}={_shown(value)}: {rule}")))
        self.key, self.value, self.rule = key, value, rule

    def __reduce__(self) -> tuple[type["InvalidValueError"], tuple[str, str, str]]:
        """Pickle the error with the value as text, because the value may not be picklable."""
        return type(self), (self.key, _shown(self.value), self.rule)

    def under(self, prefix: str) -> "InvalidValueError":
        """Return the error with a prefix of the key: `decay_rate` becomes `schedule.decay_rate`."""
        return InvalidValueError(f"{prefix}.{self.key}", self.value, self.rule)


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


class UnavailableError(RuntimeError):
    """A database is locked or its connection broke, or a tracking server does not answer.

    It is not an SQLAlchemyError, because Optuna would retry after one: it would ignore signals meanwhile, and repeat a
    transaction that may have been committed before the connection broke.
    """


class GivenUpError(UnavailableError):
    """A database was locked for longer than an interrupted command may wait."""


class StorageFullError(OSError):
    """The disk or the database is full."""


class LeaseLostError(RuntimeError):
    """Another process, which the text names, has taken over the study: this process must not write any more."""


class RemovedError(RuntimeError):
    """A run or experiment no longer exists, because `mlflow gc` removed it after it was deleted in MLflow."""

    def __init__(self, name: str, kind: str = "run") -> None:
        super().__init__(f"{kind} {name} was removed from MLflow permanently while this command was writing to it")
        self.name = name


class SpoolInUseError(RuntimeError):
    """Another command is delivering the contents of a spool. The text names it, and what the user can do."""


class HopelessError(RuntimeError):
    """Many trials have failed in succession, so that the next one would probably fail too."""


class EngineError(RuntimeError):
    """A training failed, or its process ended."""


class EngineLostError(EngineError):
    """An engine cannot train any more, but a new one may be able to.

    Args:
        kind: "ended" if its process ended, "memory" if memory ran out, "worker" if a data-parallel worker was lost,
            "shared" if an update of several trials raised an error, "unusable" if a trial has failed and the next one
            needs a new process.
    """

    def __init__(self, text: str, kind: str = "ended") -> None:
        super().__init__(text)
        self.kind = kind


class TrainingFailedError(RuntimeError):
    """The code of a model, optimizer or data set raised an error. The text has the stack frames of that code."""
