"""Which engine suits a model, a machine, and the work that is left."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sweep.config import EngineConfig, RunConfig
from sweep.core import Trial
from sweep.data import Dataset, Split
from sweep.training.device import ALL_THREADS
from sweep.training.fused import FusedEngine, NotStackableError
from sweep.training.serial import SerialEngine

FEWEST = 4
"""Slots below which it is not worth while to fuse."""
SHORT = 5.0
"""Seconds of work of the serial engine that are over before another would have been tried."""
LONG = 30.0
"""Seconds of work that repay compiling: it takes 5 to 20 s, and makes up for it by a factor of 2 or so."""
STEP = 0.008
"""Seconds of a step that is worth sharing among threads."""
SHARE = 8
"""A sampler that learns from results sees all but an n-th of them at most when it proposes."""
ON_CPU, ON_GPU = (8, 16, 32), (32, 128, 512)
"""Slots to try."""


@dataclass(frozen=True)
class Work:
    """What is to be trained.

    Args:
        like: configurations at the ends of all that is searched.
        trials: still to be trained.
        learns: whether proposals depend on results.
    """

    like: Sequence[RunConfig]
    trials: int
    learns: bool

    @property
    def updates(self) -> int:
        return self.trials * self.like[0].train.steps

    @property
    def fair_slots(self) -> int:
        """The most slots that leave a sampler that learns something to learn from."""
        return max(self.trials // SHARE if self.learns else self.trials, 1)


@dataclass(frozen=True)
class Chosen:
    """An engine, and why it is that one.

    Args:
        compiled: whether its updates are compiled.
        why: for a person, one line.
    """

    engine: SerialEngine | FusedEngine
    compiled: bool
    why: str

    @property
    def name(self) -> str:
        return "fused" if isinstance(self.engine, FusedEngine) else "serial"

    @property
    def slots(self) -> int:
        return self.engine.slots


def choose(config: EngineConfig, data: Dataset, device: torch.device, work: Work) -> Chosen:
    """The engine that was asked for; of engine=auto the one that is faster for this work.

    Raises:
        NotStackableError: if engine=fused is asked for what cannot be stacked.
    """
    chooser = _Chooser(config, data, device, work)
    if config.name == "serial":
        return chooser.serial("as asked for")
    return chooser.fused("as asked for") if config.name == "fused" else chooser.auto()


class _Chooser:
    def __init__(self, config: EngineConfig, data: Dataset, device: torch.device, work: Work) -> None:
        self.config, self.data, self.device, self.work = config, data, device, work
        self.plain = work.like[0]
        self.precision = self.plain.train.precision

    def serial(self, why: str) -> Chosen:
        return Chosen(SerialEngine(self.data, self.device, self.precision), False, why)

    def auto(self) -> Chosen:
        work, wanted = self.work, self.config.slots
        if wanted is None and work.fair_slots < FEWEST:
            return self.serial(f"{work.trials} trials are too few to train several at once" + self._learning())
        serial = SerialEngine(self.data, self.device, self.precision)
        alone = serial.rate(self.plain, 10)
        if wanted is None and work.updates / alone < SHORT:
            return self.serial(f"{work.updates:,} updates are done sooner than another engine could be tried")
        try:
            refuse_unstackable(self.data, self.device, work.like)
            chosen = self.fused("")
        except NotStackableError as error:
            return self.serial(str(error))
        alone = max(alone, serial.rate(self.plain, max(10, int(alone * 0.2))))
        together = self._rate(chosen.engine)
        said = f"{together:,.0f} updates a second, {alone:,.0f} one trial at a time"
        if together < 1.1 * alone:
            torch.set_num_threads(ALL_THREADS)
            return self.serial(f"{chosen.slots} trials at once are not faster: {said}")
        return replace(chosen, why="; ".join([said, *filter(None, [chosen.why])]))

    def fused(self, why: str) -> Chosen:
        """The fused engine with the slots that are fastest, compiled where that is repaid."""
        engine, rate = self._fastest()
        left = self.work.updates / rate
        asked = self.plain.train.compile
        if asked is False or (asked == "auto" and left < LONG):
            return Chosen(engine, False, why)
        try:
            compiled = FusedEngine(self.data, self.device, self.precision, engine.slots, self.work.like, compiled=True)
            faster = self._rate(compiled)
        except Exception as error:  # whatever a compiler finds
            said = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
            return Chosen(engine, False, "; ".join([*filter(None, [why]), f"could not be compiled ({said})"]))
        if asked is not True and faster < rate:
            return Chosen(engine, False, why)
        return Chosen(compiled, True, why)

    def _fastest(self) -> tuple[FusedEngine, float]:
        """The engine with the number of slots, and of threads, that makes most updates a second; and how many."""
        best: tuple[FusedEngine, float] | None = None
        for slots in self._candidates():
            try:
                engine = FusedEngine(self.data, self.device, self.precision, slots, self.work.like)
                rate = self._rate_with_threads(engine)
            except torch.OutOfMemoryError:
                break
            if best is not None and rate < 1.1 * best[1]:
                break
            best = engine, rate
        if best is None:
            raise NotStackableError(f"the memory of {self.device} does not hold {self._candidates()[0]} trials at once")
        return best

    def _rate(self, engine: FusedEngine | SerialEngine) -> float:
        return engine.rate(self.plain, 6)

    def _rate_with_threads(self, engine: FusedEngine) -> float:
        """The rate, and as many threads set as give it.

        One where a step is short: others would have to be waited for at every operation, on a machine that also
        records.
        """
        if self.device.type != "cpu":
            return self._rate(engine)
        torch.set_num_threads(1)
        rate = self._rate(engine)
        if engine.slots / rate > STEP:
            torch.set_num_threads(ALL_THREADS)
            rate, alone = self._rate(engine), rate
            if rate < 1.1 * alone:
                torch.set_num_threads(1)
        return rate

    def _candidates(self) -> Sequence[int]:
        if self.config.slots is not None:
            return [self.config.slots]
        usual = ON_GPU if self.device.type == "cuda" else ON_CPU
        most = self.work.fair_slots if self.config.name == "auto" else self.work.trials
        return [slots for slots in usual if slots <= most] or [most]

    def _learning(self) -> str:
        return ": its sampler learns from each" if self.work.learns else ""


def refuse_unstackable(data: Dataset, device: torch.device, like: Sequence[RunConfig]) -> None:
    """Try whether trials of these configurations can be trained in one step, and give what they give alone.

    A few updates of two seeds in float64, over part of the data, with an epoch's smaller last batch among them.

    Raises:
        NotStackableError: says why not.
    """
    batch = like[0].train.batch_size
    exact = "float32" if device.type == "mps" else "float64"
    n = min(len(data.train), 2 * batch + len(data.train) % batch)
    part = Split(data.train.inputs[:n], data.train.targets[:n])
    small = replace(data, train=part, val=Split(data.val.inputs[:8], data.val.targets[:8]))
    fused = FusedEngine(small, device, exact, 2, like)
    trials = [Trial(number, _short(like[0]), number) for number in (0, 1)]
    try:
        for trial in trials:
            fused.start(trial)
        together = {progress.trial: progress.rows[0].loss for progress in fused.advance()}
    except NotStackableError:
        raise
    except Exception as error:  # whatever a model does that cannot be done for many at once
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotStackableError(f"{like[0].model.target} cannot be stacked: {reason[:160]}") from error
    serial = SerialEngine(small, device, exact)
    for trial in trials:
        serial.start(trial)
        (alone,) = serial.advance()
        if not np.allclose(together[trial.number], alone.rows[0].loss, rtol=1e-7 if exact == "float64" else 1e-3):
            rule = "gives other losses stacked than alone: it may draw numbers, or look at a batch, in a way of its own"
            raise NotStackableError(f"{like[0].model.target} {rule}")


def _short(config: RunConfig) -> RunConfig:
    """Four updates of a training, from its first on."""
    return replace(config, train=replace(config.train, eval_every=4))
