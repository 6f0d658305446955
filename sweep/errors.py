"""The errors that a command or a call of the library ends with."""

from sweep.passwords import without_passwords
from sweep.targets import is_given, with_names


class InvalidValueError(ValueError):
    """A request that cannot be carried out. Its text names the key, what was given and the rule.

    An object that was given in Python is named as the user names it: `model=Net`, not `model._target_=python.Net_...`.
    """

    def __init__(self, key: str, value: object, rule: str) -> None:
        if is_given(value):
            key = key.removesuffix("._target_")
        super().__init__(without_passwords(with_names(f"{key}={_shown(value)}: {rule}")))
        self.key, self.value, self.rule = key, value, rule

    def __reduce__(self) -> tuple[type["InvalidValueError"], tuple[str, str, str]]:
        """Let another process raise the same error; the value may be something that cannot be pickled."""
        return type(self), (self.key, _shown(self.value), self.rule)

    def under(self, prefix: str) -> "InvalidValueError":
        """Return the same refusal, with the key as the user wrote it: `decay_rate` -> `schedule.decay_rate`."""
        return InvalidValueError(f"{prefix}.{self.key}", self.value, self.rule)


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


class UnavailableError(RuntimeError):
    """A database is locked or its connection broke, or a tracking server does not answer.

    This is no SQLAlchemyError, because Optuna retries by itself after one: it ignores signals meanwhile, and repeats a
    transaction that may have been committed before the connection broke.
    """


class GivenUpError(UnavailableError):
    """A database was locked for longer than a command that is interrupted may wait."""


class StorageFullError(OSError):
    """The disk or the database is full."""


class LeaseLostError(RuntimeError):
    """Another process has taken over the study, so that this one may write no more. The text says which."""


class RemovedError(RuntimeError):
    """A run, or the experiment, does not exist any more: it was deleted in MLflow and then removed by `mlflow gc`."""

    def __init__(self, name: str, kind: str = "run") -> None:
        super().__init__(f"{kind} {name} was removed from MLflow for good while it is written to")
        self.name = name


class RecordInUseError(RuntimeError):
    """Another process uses a local record. The text, one line, names it and says what can be done."""


class HopelessError(RuntimeError):
    """Many trials have failed one after another, so that the next one would probably fail too."""


class EngineError(RuntimeError):
    """The training failed, or its process ended."""


class EngineLostError(EngineError):
    """An engine cannot train any more, and another one may.

    Args:
        kind: "ended" where its process has, "memory" where that was too small, "worker" where a data-parallel worker
            is lost, "shared" where an update of several trials raised an error, "spent" where a trial has failed and
            the next one needs a new process.
    """

    def __init__(self, text: str, kind: str = "ended") -> None:
        super().__init__(text)
        self.kind = kind


class TrainingFailedError(RuntimeError):
    """The code of a model, optimizer or data set raised an error in training. The text has the frames of that code."""
