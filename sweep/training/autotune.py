"""Which engine suits a model, a machine, and the work that is left."""

import gc
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from sweep.config import EngineConfig, RunConfig
from sweep.core import Progress, Trial
from sweep.data import Dataset
from sweep.messages import Measured, Work
from sweep.targets import with_names
from sweep.tracebacks import place
from sweep.training.adversarial import AdversarialEngine
from sweep.training.base_engine import BaseEngine
from sweep.training.contents import Contents, Key, changes, named
from sweep.training.data_parallel import DataParallelEngine, backend
from sweep.training.device import ALL_THREADS, CPU, MIN_THREADS_SPEEDUP, out_of_memory
from sweep.training.fused import FusedEngine, NotStackableError
from sweep.training.generators import RandomState, generators_kept
from sweep.training.loop import LoopEngine
from sweep.training.model import silenced
from sweep.training.serial import SerialEngine
from sweep.training.state_io import read
from sweep.training.weights import refuse_unsavable

FEWEST = 4
"""Slots below which it is not worth while to fuse."""
SHORT = 5.0
"""Seconds of work of the serial engine that are over before another would have been tried."""
LONG = 30.0
"""Seconds of work that repay compiling a model of up to 16 weights and biases, and in proportion one of more.

It takes 5 to 20 s, and makes up for it by a factor of 2 or so.
"""
STEP = 0.008
"""Seconds of a step that is worth sharing among threads."""
WORTH, WORTH_WITH_THREADS = 1.1, 1.5
"""Smallest ratio of the fused engine's speed to the serial engine's for which trials are fused.

The second number is used if the serial engine computes with several threads. Its speed then depends on what else the
cores do: two measurements of a small GPT with two threads gave ratios of 0.8 and 1.2 on one machine.
"""
PROBE_ROUNDS = 3
"""How often a rate is measured. The best round counts: other processes can only make a round slower."""
MOST_PROBED = 2000
"""Updates of one trial that are tried at most."""
ON_CPU, ON_GPU = (8, 16), (32, 128, 512)
"""Slots to try. More than 16 are faster on a CPU, but its other cores do not record them as fast."""


@dataclass(frozen=True)
class Chosen:
    """An engine, and why it is that one.

    Args:
        compiled: whether its updates are compiled.
        compiles: whether they are to be compiled while they are made.
        why: for a person, one line.
        measured: what was measured to choose it; None if nothing had to be.
    """

    engine: SerialEngine | FusedEngine | LoopEngine
    compiled: bool
    why: str
    measured: Measured | None = None
    compiles: bool = False

    @property
    def name(self) -> str:
        names = {FusedEngine: "fused", DataParallelEngine: "data_parallel"}
        return names.get(type(self.engine), "serial")

    @property
    def workers(self) -> int:
        return 1 if isinstance(self.engine, FusedEngine) else self.engine.workers

    @property
    def slots(self) -> int:
        return self.engine.slots


@silenced()
def choose(
    config: EngineConfig,
    data: Dataset,
    device: torch.device,
    work: Work,
    others: Sequence[Connection] = (),
    known: Measured | None = None,
) -> Chosen:
    """Return the engine that was asked for; of engine=auto the one that is faster for this work.

    Args:
        others: to further workers, which the data-parallel engine trains with; no other has any.
        known: what was measured for other work with the same model, data set and machine.

    Raises:
        NotStackableError: if engine=fused is asked for what cannot be stacked.
    """
    if others:
        shared = DataParallelEngine(data, device, work.like[0].train.precision, others)
        return Chosen(shared, False, backend(device))
    chooser = _Chooser(config, data, device, work, known)
    if config.name == "serial":
        return chooser.serial(ALONE if work.trials == 1 else "as asked for")
    return chooser.fused() if config.name == "fused" else chooser.auto()


class _Chooser:
    def __init__(
        self, config: EngineConfig, data: Dataset, device: torch.device, work: Work, known: Measured | None
    ) -> None:
        self.config, self.device, self.work, self.known = config, device, work, known
        self.precision = work.like[0].train.precision
        self.data = BaseEngine(data, device, self.precision).data  # placed once, for all that are tried
        self.asked = work.like[0].train.compile
        train = work.like[0].train
        self.probe = replace(work.like[0], train=replace(train, steps=max(train.steps, MOST_PROBED + 2)))
        self.threads = torch.get_num_threads()
        self.alone = one_by_one(work.like[0])(self.data, device, self.precision)

    def serial(self, why: str) -> Chosen:
        torch.set_num_threads(ALL_THREADS)
        return Chosen(self.alone, False, why)

    def auto(self) -> Chosen:
        work, wanted = self.work, self.config.slots
        if work.like[0].critic is not None:
            return self.serial(TWO_OPTIMIZERS)
        if wanted is None and work.fair_slots < FEWEST:
            if work.trials == 1:
                return self.serial(ALONE)
            learning = ": its sampler learns from each" if work.learns else ""
            return self.serial(f"{work.trials} trials are too few to train several at once{learning}")
        if self.known is not None:
            return self._as_measured(self.known)
        alone = self.alone.rate(self.probe, 10, PROBE_ROUNDS)
        worth = WORTH_WITH_THREADS if self.device.type == "cpu" and torch.get_num_threads() > 1 else WORTH
        if wanted is None and work.updates / alone < SHORT:
            return self._too_short()
        try:
            refuse_unstackable(self.data, self.device, work.like)
            chosen, together = self._fastest_fused()
            if chosen.compiles and together * work.filled(chosen.slots) < worth * alone:
                chosen, together = self._compiled(chosen, together)  # which decides whether to fuse at all
        except NotStackableError as error:
            return replace(self.serial(str(error)), measured=Measured(alone, why=str(error)))
        except Exception as error:  # whatever a device or a model finds to refuse
            return self.serial(f"many at once could not be tried: {_first_line(error)}")
        updates = min(MOST_PROBED // PROBE_ROUNDS, max(10, int(alone * 0.1)))  # 0.1 s, and at least ten
        alone = max(alone, self.alone.rate(self.probe, updates, PROBE_ROUNDS))
        said = f"{_pace(together)} updates a second, {_pace(alone)} one trial at a time"
        measured = Measured(alone, together, chosen.slots, self.threads, chosen.compiled, said, worth)
        if together * work.filled(chosen.slots) < worth * alone:
            return replace(self.serial(f"{chosen.slots} trials at once are not faster: {said}"), measured=measured)
        torch.set_num_threads(self.threads)
        return replace(chosen, why="; ".join([said, *filter(None, [chosen.why])]), measured=measured)

    def _as_measured(self, known: Measured) -> Chosen:
        """Choose by what was measured before."""
        work = self.work
        if self.config.slots is None and work.updates / known.alone < SHORT:
            return self._too_short()
        if not known.together:
            return self.serial(known.why)
        slots = self.config.slots or min(known.slots, work.fair_slots)
        together = known.together * min(slots / known.slots, 1.0)
        if together * work.filled(slots) < known.worth * known.alone:
            return self.serial(f"{slots} trials at once are not faster: {known.why}")
        try:
            return self._stacked(known, slots)
        except (NotStackableError, RuntimeError) as error:  # of other configurations than those that were measured
            return self.serial(f"many at once could not be tried: {_first_line(error)}")

    def _stacked(self, known: Measured, slots: int) -> Chosen:
        engine = FusedEngine(self.data, self.device, self.precision, slots, self.work.like, compiled=known.compiled)
        torch.set_num_threads(known.threads)
        why = known.why if self.config.slots is not None else f"as measured before: {known.why}"
        return Chosen(engine, known.compiled, why, known, self._repays(engine, known.together))

    def _too_short(self) -> Chosen:
        return self.serial(f"{self.work.updates:,} updates are done sooner than another engine could be tried")

    def fused(self) -> Chosen:
        if self.known is not None:
            return self._stacked(self.known, self.config.slots or min(self.known.slots, self.work.trials))
        chosen, rate = self._fastest_fused()
        why = "as asked for" if self.config.slots is not None else f"{_pace(rate)} updates a second"
        measured = Measured(0.0, rate, chosen.slots, self.threads, chosen.compiled, why)
        return replace(chosen, why="; ".join([why, *filter(None, [chosen.why])]), measured=measured)

    def _fastest_fused(self) -> tuple[Chosen, float]:
        """Return the fused engine with the slots that are fastest, and its updates a second.

        With train.compile=true it is compiled, and where it is repaid on a GPU. On a CPU it is compiled while it trains
        then, and the updates a second are those before.
        """
        engine, rate = self._fastest_slots()
        repays = self._repays(engine, rate)
        chosen = Chosen(engine, False, "", compiles=repays and self.device.type == "cpu")
        if self.asked is True or (repays and not chosen.compiles):
            return self._compiled(chosen, rate)
        return chosen, rate

    def _repays(self, engine: FusedEngine, rate: float) -> bool:
        """Return whether train.compile=auto compiles the updates of an engine that makes so many a second."""
        long = LONG * max(1.0, len(engine.weights) / 16)
        return self.asked == "auto" and self.work.updates / rate >= long

    def _compiled(self, chosen: Chosen, rate: float) -> tuple[Chosen, float]:
        """Return the engine with compiled updates, if it can be compiled and is faster; its updates a second."""
        engine = chosen.engine
        assert isinstance(engine, FusedEngine)
        try:
            compiled = FusedEngine(self.data, self.device, self.precision, engine.slots, self.work.like, compiled=True)
            faster = self._rate(compiled)
        except Exception as error:  # whatever a compiler finds
            return Chosen(engine, False, f"could not be compiled ({_first_line(error)})"), rate
        if self.asked is not True and faster < rate:
            return Chosen(engine, False, ""), rate
        return Chosen(compiled, True, ""), faster

    def _fastest_slots(self) -> tuple[FusedEngine, float]:
        """The engine with the number of slots, and of threads, that makes most updates a second; and how many."""
        best: tuple[FusedEngine, float] | None = None
        for slots in self._candidates():
            try:
                engine = FusedEngine(self.data, self.device, self.precision, slots, self.work.like)
                rate, threads = self._rate_with_threads(engine)
            except NotStackableError:
                raise
            except RuntimeError as error:  # more than the memory holds; torch has several names for it
                if best is None and self.config.slots is not None and out_of_memory(error):
                    raise  # fewer may do
                if best is None:
                    raise NotStackableError(f"{slots} trials at once: {_first_line(error)}") from error
                break
            if best is not None and rate * self.work.filled(slots) < 1.1 * best[1] * self.work.filled(best[0].slots):
                break
            best, self.threads = (engine, rate), threads
            _forget_others()
        assert best is not None
        torch.set_num_threads(self.threads)
        return best

    def _rate(self, engine: FusedEngine) -> float:
        return engine.rate(self.probe, 6, PROBE_ROUNDS)

    def _rate_with_threads(self, engine: FusedEngine) -> tuple[float, int]:
        """Measure updates per second, and choose the number of threads: one unless several are much faster."""
        if self.device.type != "cpu":
            return self._rate(engine), ALL_THREADS
        torch.set_num_threads(1)
        alone = self._rate(engine)
        if engine.slots / alone <= STEP:
            return alone, 1
        torch.set_num_threads(ALL_THREADS)
        rate = self._rate(engine)
        return (rate, ALL_THREADS) if rate >= MIN_THREADS_SPEEDUP * alone else (alone, 1)

    def _candidates(self) -> Sequence[int]:
        if self.config.slots is not None:
            return [self.config.slots]
        usual = ON_GPU if self.device.type == "cuda" else ON_CPU
        most = self.work.fair_slots if self.config.name == "auto" else self.work.trials
        return [slots for slots in usual if slots <= most] or [most]


def _forget_others() -> None:
    """Give back what engines held that were tried and are not used: they refer to themselves."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _pace(rate: float) -> str:
    """Format updates a second: `18,440`; below 10 with two significant digits."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _first_line(error: BaseException) -> str:
    """What an error says, as far as it fits into a line; in words of ours where torch's are about its own workings."""
    text = str(error).strip()
    if "random operation" in text or "randomness" in text:
        return "it draws random numbers of its own"
    if "data-dependent control flow" in text or ".item()" in text:
        return "it decides by the values of a tensor"
    if operation := re.search(r"Batching rule not implemented for (aten::\w+)", text):
        return f"torch has no batching rule for {operation[1]}"
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= 120 else line[:120].rpartition(" ")[0] + " ..."


ALONE = "one training"
TWO_OPTIMIZERS = "a GAN has two optimizers, and is trained alone"


def one_by_one(config: RunConfig) -> type[SerialEngine]:
    """The engine that trains such a configuration, one at a time."""
    return SerialEngine if config.critic is None else AdversarialEngine


@generators_kept()
def check(data: Dataset, configs: Sequence[RunConfig], silent: bool = False) -> None:
    """Try what trainings of one kind need, on the CPU, without training.

    Args:
        silent: whether to discard what the model of the first configuration prints, as that of the others is.

    Raises:
        InvalidValueError: names what cannot be trained.
    """
    engine = one_by_one(configs[0])(data, CPU, configs[0].train.precision)
    for index, config in enumerate(configs):
        with silenced() if silent or index else nullcontext():
            engine.check(config)
            if config.train.save is not None and not index:
                refuse_unsavable(engine.initial(config, config.train.seed), config, engine.data)


@silenced()
@generators_kept()
def refuse_unstackable(data: Dataset, device: torch.device, like: Sequence[RunConfig]) -> None:
    """Try whether trials of these configurations can be trained in one step, and give what they give alone.

    A few updates of two seeds in float64, over part of the data, with an epoch's smaller last batch among them, and an
    evaluation.

    Raises:
        NotStackableError: says why not.
    """
    if any(config.critic is not None for config in like):
        raise NotStackableError(TWO_OPTIMIZERS)
    if data.loads_examples:
        raise NotStackableError("the data set loads examples one at a time")
    batch, model = like[0].train.batch_size, with_names(like[0].model.target)
    exact = "float32" if device.type == "mps" else "float64"
    n = min(len(data.train), 2 * batch + len(data.train) % batch)
    small = replace(
        data,
        train=data.train[:n],
        val=data.val[:64],
    )
    trials = [Trial(number, _short(like[0]), number, keeps_state=True) for number in (0, 1)]
    serial = SerialEngine(small, device, exact)
    try:
        fused = FusedEngine(small, device, exact, 2, like)
        alone: Reached = {}
        for trial in trials:
            serial.start(trial)
            ((before, _),) = _reached(serial, []).values()
            drawn = RandomState.capture(CPU)
            alone |= _reached(serial, serial.advance())
            _refuse_shared(model, before, alone[trial.number][0])
            now = RandomState.capture(CPU)
            if (drawn.python, drawn.numpy) != (now.python, now.numpy):
                raise NotStackableError(f"{model} draws from Python's or NumPy's generator, which a stack shares")
        for trial in trials:
            fused.start(trial)
        together = _reached(fused, fused.advance())
    except NotStackableError:
        raise
    except (Exception, SystemExit) as error:  # whatever a model does that cannot be done for many at once
        where = place(error)
        reason = _first_line(error) + ("" if where is None else f" ({where})")
        raise NotStackableError(f"{model} cannot be stacked: {reason}") from error
    for number, (state, expected) in alone.items():
        assert expected is not None
        found_state, found = together[number]
        if not _agree(found, expected, rtol=1e-7 if exact == "float64" else 1e-3):
            rule = "gives other losses stacked than alone: it may draw numbers, or look at a batch, in a way of its own"
            raise NotStackableError(f"{model} {rule}")
        if different := _different_buffers(found_state, state, rtol=1e-6 if exact == "float64" else 1e-3):
            rule = (
                "is another stacked than alone: it may be replaced, not changed in place, or depend on a smaller batch"
            )
            raise NotStackableError(f"buffer {named(different)} of {model} {rule}")


Reached = dict[int, tuple[Contents, Progress | None]]


def _reached(engine: SerialEngine | FusedEngine, progress: Sequence[Progress]) -> Reached:
    """Return the contents of the model of each trial in an engine, and of those that have ended, with the progress."""
    found: Reached = {one.trial: ({}, one) for one in progress}
    for one in [*progress, *engine.snapshots()]:
        if one.state is not None:
            found[one.trial] = read(one.state)["contents"], found.get(one.trial, ({}, None))[1]
    return found


def _refuse_shared(model: str, before: Contents, after: Contents) -> None:
    """Refuse a model that changes what all trials of a stack would share: there is one module for all of them."""
    shared = ("attribute", "extra", "tensor", "trained")
    changed = [key for key in changes(before, after) if key[0] in shared] if after else []
    if changed:
        rule = "in training, which all trials in a stack would share; make it a buffer that is changed in place"
        raise NotStackableError(f"{model} changes {named(changed)} {rule}")


def _different_buffers(found: Contents, expected: Contents, rtol: float) -> list[Key]:
    """Return the buffers that are not equal to rounding."""

    def equal(one: Any, other: Any) -> bool:
        if not (isinstance(one, list) and isinstance(other, list)):
            return bool(one == other)
        a, b = one[1], other[1]
        if not (a.is_floating_point() or a.is_complex()):
            return torch.equal(a, b)
        return torch.allclose(a, b, max(rtol, 4 * torch.finfo(a.dtype).eps), 1e-9, equal_nan=True)

    return [key for key, value in expected.items() if key[0] == "buffer" and not equal(found.get(key), value)]


def _agree(found: Progress | None, expected: Progress, rtol: float) -> bool:
    """Whether the losses of a trial are the same, and what was evaluated, to rounding."""
    if found is None or found.evaluation is None or expected.evaluation is None:
        return found is expected
    losses = found.rows[0].loss, expected.rows[0].loss
    metrics = found.evaluation.metrics, expected.evaluation.metrics
    if len(losses[0]) != len(losses[1]) or metrics[0].keys() != metrics[1].keys():
        return False
    same = [np.allclose(metrics[0][key], value, rtol=rtol, equal_nan=True) for key, value in metrics[1].items()]
    return bool(np.allclose(*losses, rtol=rtol, equal_nan=True)) and all(same)


def _short(config: RunConfig) -> RunConfig:
    """Four updates of a training, from its first on."""
    return replace(config, train=replace(config.train, eval_every=4))
