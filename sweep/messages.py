"""The values that a coordinator and a trainer exchange, except trials and their progress."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweep.config import RunConfig
from sweep.loops import LoopConfig

TRIALS_PER_SLOT = 8
"""Smallest number of remaining trials per slot if the sampler learns from results.

The same number of trials as there are slots is proposed ahead.
"""


@dataclass(frozen=True)
class Facts:
    """Describes a data set to a process that has not loaded it.

    Args:
        n_train, n_test: numbers of examples in these splits.
        n_outputs: number of classes, or width of the target of a regression; 0 if it is not known.
        classification: whether targets are labels.
        input_shape: shape of the input of one example; a mapping or a tuple of shapes if it has several inputs.
        digest: digest of the arrays before they are split.
        example: a batch with 0 examples, as arrays.
        label_like: whether the targets are floats that look like labels: 0.0, 1.0, ..., C-1.0, with C <= 20.
    """

    n_train: int
    n_test: int
    n_outputs: int
    classification: bool
    input_shape: Any
    digest: str
    example: Any = None
    label_like: bool = False


@dataclass(frozen=True)
class Ranking:
    """The metric that ranks trials, and the best trial so far. On a tie, the trial with the smaller number is better.

    Args:
        metric, minimize: metric and direction of the study.
        best: value and number of the best complete trial; None if there is none.
        prunes: whether the study prunes trials. A trial that a trainer has completed may have been pruned meanwhile.
    """

    metric: str
    minimize: bool
    best: tuple[float, int] | None = None
    prunes: bool = False

    def beaten_by(self, value: float, trial: int) -> bool:
        """Return whether a trial with this value of the metric is better than the best so far."""
        if self.best is None:
            return True
        best, number = self.best
        return (value, trial) < (best, number) if self.minimize else (-value, trial) < (-best, number)


def facts_of_loop(loop: LoopConfig) -> Facts:
    """Return the facts about the data of a loop, which loads them itself. A test split is assumed to exist."""
    return Facts(loop.examples or 0, n_test=1, n_outputs=0, classification=False, input_shape=(), digest="loop")


@dataclass(frozen=True)
class Work:
    """Describes the trials for which an engine is chosen.

    Args:
        like: configurations at the bounds of the search space.
        trials: number of trials that remain to be trained.
        learns: whether the sampler uses results to propose further trials.
        metric: the metric of the study, on the validation split.
        folder: path of a folder in which each loop gets a subfolder, named after the number of its trial, for its
            files; "" if there is none.
        ranking: decides which trials return their weights; None if no trial does.
    """

    like: Sequence[RunConfig]
    trials: int
    learns: bool
    metric: str = "val_loss"
    folder: str = ""
    ranking: Ranking | None = None

    @property
    def updates(self) -> int:
        """Return the total number of updates of all trials."""
        return self.trials * self.like[0].train.steps

    @property
    def fair_slots(self) -> int:
        """Return the largest number of slots that leaves a learning sampler enough results before each proposal."""
        return max(self.trials // TRIALS_PER_SLOT if self.learns else self.trials, 1)

    def filled(self, slots: int) -> float:
        """Return the mean share of slots in use if trials of equal length are trained in rounds."""
        return self.trials / (slots * -(-self.trials // slots))


@dataclass(frozen=True)
class Measured:
    """The speeds that were measured to choose an engine. Later choices for the same model and data set reuse them.

    Args:
        alone: updates per second of the serial engine.
        together: updates per second of the fused engine over all slots; 0 if it cannot train these trials.
        slots, threads, compiled: settings of the fastest fused engine.
        why: reason for the choice, for the user.
        worth: smallest ratio of the fused engine's speed to the serial engine's for which trials are fused.
    """

    alone: float
    together: float = 0.0
    slots: int = 1
    threads: int = 1
    compiled: bool = False
    why: str = ""
    worth: float = 1.1


@dataclass
class EngineStats:
    """Describes an engine, and measures its work.

    Args:
        name: serial, fused or data_parallel.
        slots: number of trials that are trained at once.
        workers: number of processes that share each batch.
        compiled: whether updates are compiled.
        compiles: whether another process has to compile the update, which then replaces the uncompiled one.
        uncompiled: why compiled updates were abandoned; "" if they were not.
        threads: number of threads that compute an update.
        why: reason for the choice of the engine.
        prepared: seconds to build, measure and compile.
        updates: number of recorded updates.
        seconds: time from the first update until everything was recorded.
        busy: share of the slots' updates that were made for a trial, until the last trial was started.
        waited: seconds for which slots were idle, divided by the number of slots, until the last trial was started.
        measured: the measurements with which the engine was chosen; None if there were none.
    """

    name: str = ""
    slots: int = 0
    workers: int = 1
    compiled: bool = False
    compiles: bool = False
    uncompiled: str = ""
    threads: int = 1
    why: str = ""
    prepared: float = 0.0
    updates: int = 0
    seconds: float = 0.0
    busy: float = 1.0
    waited: float = 0.0
    measured: Measured | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the values that are recorded."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in ("compiles", "uncompiled", "threads", "measured")
        }
