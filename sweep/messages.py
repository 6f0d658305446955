"""The values that a coordinator and a trainer exchange, beside trials and what is reached of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweep.config import RunConfig
from sweep.loops import LoopConfig

SHARE = 8
"""With a sampler that learns, at most one in so many of the remaining trials is trained at once.

As many again are proposed ahead.
"""


@dataclass(frozen=True)
class Facts:
    """Describes a data set to a process that has not loaded it.

    Args:
        n_train, n_test: number of examples in these splits.
        n_outputs: number of classes, or width of the target of a regression; 0 if it is not known.
        classification: whether targets are labels.
        input_shape: of one example; of several inputs a mapping or a tuple of shapes.
        digest: of the arrays before they are split.
        example: the structure of a batch, with arrays of no example.
        label_like: whether the target is numbers that look like labels: 0.0, 1.0, ..., C-1.0, with C <= 20.
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
        metric, minimize: of the study.
        best: value and number of the best trial that is complete; None without one.
        prunes: whether trials are pruned: a trial that the trainer has trained to its end may have been.
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
    """Return what is known of the data of a loop, which loads them itself. It may have a test split."""
    return Facts(loop.examples or 0, n_test=1, n_outputs=0, classification=False, input_shape=(), digest="loop")


@dataclass(frozen=True)
class Work:
    """The trials that an engine is chosen for.

    Args:
        like: configurations at the ends of all that is searched.
        trials: still to be trained.
        learns: whether the sampler uses results to propose further trials.
        metric: of the validation split, by which they are judged.
        folder: path of the folder where the loop of a trial may keep files, below the trial's number; "" without one.
        ranking: what says which trials the engine gives the weights of; None for none.
    """

    like: Sequence[RunConfig]
    trials: int
    learns: bool
    metric: str = "val_loss"
    folder: str = ""
    ranking: Ranking | None = None

    @property
    def updates(self) -> int:
        """Return the updates of all trials together."""
        return self.trials * self.like[0].train.steps

    @property
    def fair_slots(self) -> int:
        """Return the most slots with which a sampler that learns still has results to learn from."""
        return max(self.trials // SHARE if self.learns else self.trials, 1)

    def filled(self, slots: int) -> float:
        """Return the share of slots in use when trials of equal length are trained in rounds, the last one not full."""
        return self.trials / (slots * -(-self.trials // slots))


@dataclass(frozen=True)
class Measured:
    """The speeds that were measured to choose an engine. Later choices for the same model and data set reuse them.

    Args:
        alone: updates per second of the serial engine.
        together: updates per second of the fused engine; 0 if it cannot train these trials.
        slots, threads, compiled: of the fused engine that was fastest.
        why: the reason for the choice, for the user.
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
    """The choice of an engine, and the work that it did until its last trial was started.

    Args:
        name: serial, fused or data_parallel.
        slots: trials at once.
        workers: processes that share each batch.
        compiled: whether updates are compiled.
        compiles: whether another process is to compile the update, after which compiled updates take over.
        uncompiled: why compiled updates that had taken over were given up.
        threads: that compute an update.
        why: of the choice.
        prepared: seconds of building, trying and compiling.
        updates: recorded ones.
        seconds: from the first update to when everything was recorded.
        busy: share of the slots' updates that were made for a trial, while there were trials to start.
        waited: seconds in which the device had nothing to do, or a part of its slots had, times that part, before the
            last trial was started.
        measured: what was measured to choose the engine.
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
        """Return what is recorded of it."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in ("compiles", "uncompiled", "threads", "measured")
        }
