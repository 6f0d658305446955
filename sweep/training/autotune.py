"""Chooses the engine that suits a model, a machine, and the remaining work."""

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

MIN_FUSED_SLOTS = 4
"""Number of trials below which the fused engine is not tried."""
SHORT_WORK_SECONDS = 5.0
"""Seconds of the serial engine's work that end before another engine could be tried."""
COMPILE_REPAID_SECONDS = 30.0
"""Seconds of work after which compiling a model of up to 16 weights and biases is repaid; proportional for more.

Compiling takes 5 to 20 s and makes updates about twice as fast.
"""
THREADED_STEP_SECONDS = 0.008
"""Seconds of a step above which several threads may be faster than one."""
MIN_SPEEDUP, MIN_SPEEDUP_WITH_THREADS = 1.1, 1.5
"""Smallest ratio of the fused engine's speed to the serial engine's for which trials are fused.

The second number is used if the serial engine computes with several threads. Its speed then depends on what else the
cores do: two measurements of a small GPT with two threads gave ratios of 0.8 and 1.2 on one machine.
"""
PROBE_ROUNDS = 3
"""Times that a speed is measured. The best round counts: other processes can only make a round slower."""
MAX_PROBED_UPDATES = 2000
CPU_SLOTS, GPU_SLOTS = (8, 16), (32, 128, 512)
"""Numbers of slots to try. On a CPU more than 16 are faster, but the coordinator cannot record them as fast."""

ALONE = "one training"
TWO_OPTIMIZERS = "a GAN has two optimizers, and is trained alone"


@dataclass(frozen=True)
class Chosen:
    """An engine, and the reason for its choice.

    Args:
        compiled: whether its updates are compiled.
        compiles: whether its updates are to be compiled while it trains.
        why: the reason, one line for the user.
        measured: what was measured; None if nothing was.
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
    """Return the engine that was asked for; for engine=auto the one that is faster for this work.

    Args:
        others: pipes to the further workers of the data-parallel engine; no other engine has any.
        known: what was measured for other work with the same model, data set and machine.

    Raises:
        NotStackableError: if engine=fused is asked for trials that cannot be stacked.
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
        train = work.like[0].train
        self.precision, self.compile = train.precision, train.compile
        self.data = BaseEngine(data, device, self.precision).data  # moved to the device once, for all engines
        self.probe = replace(work.like[0], train=replace(train, steps=max(train.steps, MAX_PROBED_UPDATES + 2)))
        self.threads = torch.get_num_threads()
        self.alone = one_by_one(work.like[0])(self.data, device, self.precision)

    def serial(self, why: str, measured: Measured | None = None) -> Chosen:
        torch.set_num_threads(ALL_THREADS)
        return Chosen(self.alone, False, why, measured)

    def fused(self) -> Chosen:
        if self.known is not None:
            return self._as_measured(self.known, self.config.slots or min(self.known.slots, self.work.trials))
        chosen, rate = self._fastest_fused()
        why = "as asked for" if self.config.slots is not None else f"{_format_rate(rate)} updates a second"
        measured = Measured(0.0, rate, chosen.slots, self.threads, chosen.compiled, why)
        return replace(chosen, why="; ".join(filter(None, [why, chosen.why])), measured=measured)

    def auto(self) -> Chosen:
        """Return the serial engine, unless the fused engine is possible and faster by enough."""
        work, wanted, known = self.work, self.config.slots, self.known
        if work.like[0].critic is not None:
            return self.serial(TWO_OPTIMIZERS)
        if wanted is None and work.fair_slots < MIN_FUSED_SLOTS:
            if work.trials == 1:
                return self.serial(ALONE)
            learning = ": its sampler learns from each" if work.learns else ""
            return self.serial(f"{work.trials} trials are too few to train several at once{learning}")
        alone = self.alone.rate(self.probe, 10, PROBE_ROUNDS) if known is None else known.alone
        if wanted is None and work.updates / alone < SHORT_WORK_SECONDS:
            return self.serial(f"{work.updates:,} updates are done sooner than another engine could be tried")
        chosen = None
        try:
            if known is None:
                chosen, known = self._measured(alone)
            slots = wanted or min(known.slots, work.fair_slots)
            together = known.together * min(slots / known.slots, 1.0)
            if not known.together:
                return self.serial(known.why, known)
            if together * work.filled(slots) < known.worth * known.alone:
                return self.serial(f"{slots} trials at once are not faster: {known.why}", known)
            return chosen or self._as_measured(known, slots)
        except Exception as error:  # whatever a device or a model finds to refuse
            return self.serial(f"many at once could not be tried: {_first_line(error)}")

    def _as_measured(self, known: Measured, slots: int) -> Chosen:
        """Return a fused engine that is set up as it was measured before."""
        engine = FusedEngine(self.data, self.device, self.precision, slots, self.work.like, compiled=known.compiled)
        torch.set_num_threads(known.threads)
        why = known.why if self.config.slots is not None else f"as measured before: {known.why}"
        return Chosen(engine, known.compiled, why, known, self._repays_compiling(engine, known.together))

    def _measured(self, alone: float) -> tuple[Chosen | None, Measured]:
        """Return the fastest fused engine, None if trials cannot be stacked; and what was measured.

        Args:
            alone: updates a second of the serial engine, as a first measurement gave it.
        """
        threaded = self.device.type == "cpu" and torch.get_num_threads() > 1
        worth = MIN_SPEEDUP_WITH_THREADS if threaded else MIN_SPEEDUP
        try:
            refuse_unstackable(self.data, self.device, self.work.like)
            chosen, together = self._fastest_fused()
        except NotStackableError as error:
            return None, Measured(alone, why=str(error))
        if chosen.compiles and together * self.work.filled(chosen.slots) < worth * alone:
            chosen, together = self._compiled(chosen, together)  # its speed decides whether trials are fused at all
        updates = min(MAX_PROBED_UPDATES // PROBE_ROUNDS, max(10, int(alone * 0.1)))  # 0.1 s, and at least ten
        alone = max(alone, self.alone.rate(self.probe, updates, PROBE_ROUNDS))
        why = f"{_format_rate(together)} updates a second, {_format_rate(alone)} one trial at a time"
        measured = Measured(alone, together, chosen.slots, self.threads, chosen.compiled, why, worth)
        torch.set_num_threads(self.threads)
        return replace(chosen, why="; ".join(filter(None, [why, chosen.why])), measured=measured), measured

    def _fastest_fused(self) -> tuple[Chosen, float]:
        """Return the fused engine with the fastest number of slots, and its updates a second.

        It is compiled for train.compile=true, and on a GPU if that is repaid. On a CPU it is compiled later, while it
        trains; its updates a second are those before.
        """
        engine, rate = self._fastest_slots()
        repays = self._repays_compiling(engine, rate)
        chosen = Chosen(engine, False, "", compiles=repays and self.device.type == "cpu")
        if self.compile is True or (repays and not chosen.compiles):
            return self._compiled(chosen, rate)
        return chosen, rate

    def _repays_compiling(self, engine: FusedEngine, rate: float) -> bool:
        """Return whether train.compile=auto compiles the updates of an engine that makes `rate` updates a second."""
        seconds = COMPILE_REPAID_SECONDS * max(1.0, len(engine.weights) / 16)
        return self.compile == "auto" and self.work.updates / rate >= seconds

    def _compiled(self, chosen: Chosen, rate: float) -> tuple[Chosen, float]:
        """Return the engine with compiled updates, if it can be compiled and is faster; its updates a second."""
        engine = chosen.engine
        assert isinstance(engine, FusedEngine)
        try:
            compiled = FusedEngine(self.data, self.device, self.precision, engine.slots, self.work.like, compiled=True)
            faster = self._rate(compiled)
        except Exception as error:  # whatever a compiler finds
            return Chosen(engine, False, f"could not be compiled ({_first_line(error)})"), rate
        if self.compile is not True and faster < rate:
            return Chosen(engine, False, ""), rate
        return Chosen(compiled, True, ""), faster

    def _fastest_slots(self) -> tuple[FusedEngine, float]:
        """Return the fused engine with the fastest numbers of slots and threads, and its updates a second."""
        best: tuple[FusedEngine, float] | None = None
        for slots in self._candidates():
            try:
                engine = FusedEngine(self.data, self.device, self.precision, slots, self.work.like)
                rate, threads = self._rate_with_threads(engine)
            except NotStackableError:
                raise
            except RuntimeError as error:  # out of memory, for which torch has several errors
                if best is None and self.config.slots is not None and out_of_memory(error):
                    raise  # the coordinator tries fewer
                if best is None:
                    raise NotStackableError(f"{slots} trials at once: {_first_line(error)}") from error
                break
            if best is not None and rate * self.work.filled(slots) < 1.1 * best[1] * self.work.filled(best[0].slots):
                break
            best, self.threads = (engine, rate), threads
            gc.collect()  # the engine before: engines refer to themselves
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
        assert best is not None
        torch.set_num_threads(self.threads)
        return best

    def _candidates(self) -> Sequence[int]:
        if self.config.slots is not None:
            return [self.config.slots]
        usual = GPU_SLOTS if self.device.type == "cuda" else CPU_SLOTS
        most = self.work.fair_slots if self.config.name == "auto" else self.work.trials
        return [slots for slots in usual if slots <= most] or [most]

    def _rate(self, engine: FusedEngine) -> float:
        return engine.rate(self.probe, 6, PROBE_ROUNDS)

    def _rate_with_threads(self, engine: FusedEngine) -> tuple[float, int]:
        """Return updates a second, and the number of threads: one, unless several are much faster."""
        if self.device.type != "cpu":
            return self._rate(engine), ALL_THREADS
        torch.set_num_threads(1)
        rate = self._rate(engine)
        if engine.slots / rate <= THREADED_STEP_SECONDS:
            return rate, 1
        torch.set_num_threads(ALL_THREADS)
        threaded = self._rate(engine)
        return (threaded, ALL_THREADS) if threaded >= MIN_THREADS_SPEEDUP * rate else (rate, 1)


def _format_rate(rate: float) -> str:
    """Format updates a second: `18,440`; below 10 with two significant digits."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _first_line(error: BaseException) -> str:
    """Return the text of an error on one line. Errors about the internals of torch are put in other words."""
    text = str(error).strip()
    if "random operation" in text or "randomness" in text:
        return "it draws random numbers of its own"
    if "data-dependent control flow" in text or ".item()" in text:
        return "it decides by the values of a tensor"
    if operation := re.search(r"Batching rule not implemented for (aten::\w+)", text):
        return f"torch has no batching rule for {operation[1]}"
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= 120 else line[:120].rpartition(" ")[0] + " ..."


def one_by_one(config: RunConfig) -> type[SerialEngine]:
    """Return the engine that trains such a configuration, one trial at a time."""
    return SerialEngine if config.critic is None else AdversarialEngine


@generators_kept()
def check(data: Dataset, configs: Sequence[RunConfig], silent: bool = False) -> None:
    """Try what trainings of one kind need, on the CPU, without training.

    Args:
        silent: whether to discard what the model of the first configuration prints; that of the others is discarded.

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
    """Refuse trials that cannot be trained in one step, or whose results differ then from those of one trial alone.

    This trains a few updates of two seeds in float64 on a part of the data, with the smaller last batch of an epoch
    among them, and evaluates.

    Raises:
        NotStackableError: names the reason.
    """
    if any(config.critic is not None for config in like):
        raise NotStackableError(TWO_OPTIMIZERS)
    if data.loads_examples:
        raise NotStackableError("the data set loads examples one at a time")
    train, model = like[0].train, with_names(like[0].model.target)
    exact = "float32" if device.type == "mps" else "float64"
    n = min(len(data.train), 2 * train.batch_size + len(data.train) % train.batch_size)
    small = replace(data, train=data.train[:n], val=data.val[:64])
    short = replace(like[0], train=replace(train, eval_every=4, more_steps=min(4, train.steps)))
    trials = [Trial(number, short, number, keeps_state=True) for number in (0, 1)]
    serial = SerialEngine(small, device, exact)
    try:
        fused = FusedEngine(small, device, exact, 2, like)
        alone = [_train_alone(serial, trial, model) for trial in trials]
        for trial in trials:
            fused.start(trial)
        together = {progress.trial: progress for progress in fused.advance()}
    except NotStackableError:
        raise
    except (Exception, SystemExit) as error:  # whatever a model does that cannot be done for many at once
        where = place(error)
        reason = _first_line(error) + ("" if where is None else f" ({where})")
        raise NotStackableError(f"{model} cannot be stacked: {reason}") from error
    for expected in alone:
        found = together[expected.trial]
        if not _agree(found, expected, rtol=1e-7 if exact == "float64" else 1e-3):
            rule = "gives other losses stacked than alone: it may draw numbers, or look at a batch, in a way of its own"
            raise NotStackableError(f"{model} {rule}")
        if different := _different_buffers(found, expected, rtol=1e-6 if exact == "float64" else 1e-3):
            rule = "differs stacked from alone: it may be replaced, not changed in place, or depend on a smaller batch"
            raise NotStackableError(f"buffer {named(different)} of {model} {rule}")


def _train_alone(engine: SerialEngine, trial: Trial, model: str) -> Progress:
    """Train a trial, and refuse a model that changes what all trials of a stack would share: they share one module."""
    engine.start(trial)
    (before,) = engine.snapshots()
    drawn = RandomState.capture(CPU)
    (ended,) = engine.advance()
    now, shared = RandomState.capture(CPU), ("attribute", "extra", "tensor", "trained")
    after = _contents(ended)
    if after and (changed := [key for key in changes(_contents(before), after) if key[0] in shared]):
        rule = "in training, which all trials in a stack would share; make it a buffer that is changed in place"
        raise NotStackableError(f"{model} changes {named(changed)} {rule}")
    if (drawn.python, drawn.numpy) != (now.python, now.numpy):
        raise NotStackableError(f"{model} draws from Python's or NumPy's generator, which a stack shares")
    return ended


def _contents(progress: Progress) -> Contents:
    """Return the contents of the model of a trial; none if the trial has diverged."""
    return {} if progress.state is None else read(progress.state)["contents"]


def _different_buffers(found: Progress, expected: Progress, rtol: float) -> list[Key]:
    """Return the buffers of a model that differ by more than rounding."""

    def equal(one: Any, other: Any) -> bool:
        if not (isinstance(one, list) and isinstance(other, list)):
            return bool(one == other)
        a, b = one[1], other[1]
        if not (a.is_floating_point() or a.is_complex()):
            return torch.equal(a, b)
        return torch.allclose(a, b, max(rtol, 4 * torch.finfo(a.dtype).eps), 1e-9, equal_nan=True)

    own = _contents(found)
    return [key for key, value in _contents(expected).items() if key[0] == "buffer" and not equal(own.get(key), value)]


def _agree(found: Progress, expected: Progress, rtol: float) -> bool:
    """Return whether losses and metrics of two trainings differ by rounding at most."""
    assert found.evaluation is not None
    assert expected.evaluation is not None
    losses = found.rows[0].loss, expected.rows[0].loss
    metrics, wanted = found.evaluation.metrics, expected.evaluation.metrics
    if len(losses[0]) != len(losses[1]) or metrics.keys() != wanted.keys():
        return False
    same = [np.allclose(metrics[key], value, rtol=rtol, equal_nan=True) for key, value in wanted.items()]
    return bool(np.allclose(*losses, rtol=rtol, equal_nan=True)) and all(same)
