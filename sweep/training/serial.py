"""Train one trial at a time with plain PyTorch: the serial engine."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.config import RunConfig
from sweep.core import Evaluation, Progress, Rows, Status, Trial
from sweep.data import Dataset, Examples, LoadedSplit
from sweep.tasks import LOSS
from sweep.training.average import averaged_weights, evaluated_weights, update_average
from sweep.training.base_engine import PROBE_SECONDS, BaseEngine, RowBuffer, boundary, make_update, on_host, sound
from sweep.training.batches import in_order
from sweep.training.contents import unchanged
from sweep.training.device import ALL_THREADS, MIN_THREADS_SPEEDUP
from sweep.training.generators import RandomState, generators_kept
from sweep.training.groups import Rates, recorded_group, set_rate
from sweep.training.losses import Totals
from sweep.training.model import silenced
from sweep.training.objectives import quotient, total_of
from sweep.training.state import TRAIN_ERROR, TrainState, global_steps
from sweep.training.state_io import packed

MIN_OPERATIONS_PER_CALL = 500_000
"""Floating-point operations per torch call below which several threads are not faster than one."""

MIN_UPDATES = 200
"""Updates below which a training is too short to measure the number of threads."""

THREADS_PROBE_SECONDS = 0.1
"""Seconds of one measurement of a number of threads, which has at least two updates and is repeated."""


@dataclass
class Slot:
    """A trial that is being trained.

    Attributes:
        unrecorded: the row buffer of each optimizer; those of a GAN are the generator's and the critic's.
        rates: the rates of all updates of each optimizer, unless a reaction changes them.
    """

    trial: Trial
    state: TrainState
    unrecorded: list[RowBuffer] = field(init=False)
    rates: list[Rates] = field(init=False)

    def __post_init__(self) -> None:
        number, step = self.trial.number, self.state.global_step
        self.unrecorded = [RowBuffer(number, step * of.updates, of.name) for of in self.trial.config.series]
        self.redraw()

    def redraw(self) -> None:
        """Compute the rates again, after an event of the schedule."""
        trial = self.trial
        drawn = [series.curves(self.state.events, trial.last) for series in trial.config.series]
        self.rates = [{name: curve.tolist() for name, curve in curves.items()} for curves in drawn]

    def rows(self) -> list[Rows]:
        """Return the rows that were not returned before."""
        return [rows for unrecorded in self.unrecorded for rows in unrecorded.take()]


class SerialEngine(BaseEngine):
    """Trains one trial at a time.

    The host does not wait for the device between two boundaries; with fp16 it waits once per update.
    """

    slots = 1
    workers = 1
    """Number of processes that share a batch."""

    def __init__(self, data: Dataset, device: torch.device, precision: str) -> None:
        super().__init__(data, device, precision)
        self._slot: Slot | None = None
        self._threads: dict[str, int] = {}

    @property
    def free(self) -> int:
        return 0 if self._slot else 1

    def start(self, trial: Trial) -> None:
        self._slot = self._begin(trial)

    def _begin(self, trial: Trial) -> Slot:
        state = self.beginning(trial)
        if self.device.type == "cpu":
            if state.threads is None:
                state.threads = self._fastest_threads(trial.config, state)
            torch.set_num_threads(min(state.threads, ALL_THREADS))
        return Slot(trial, state)

    def _fastest_threads(self, config: RunConfig, state: TrainState) -> int:
        """Return the number of threads for updates: 1, or all that torch uses.

        Both are measured with a second model of this configuration, because their speed depends on the model and on
        other processes. With experiment=gpt_text on two cores, two threads make 72 updates per second if the cores are
        idle and 22 beside one busy process; one thread makes 51 and 50.

        Args:
            state: state of a training with this configuration.
        """
        most = max(ALL_THREADS // self.workers, 1)
        if most == 1 or self.operations_of_a_call(config, state) < MIN_OPERATIONS_PER_CALL:
            return 1
        if self.workers > 1 or config.train.steps < MIN_UPDATES or isinstance(self.data.train, LoadedSplit):
            return most
        key = repr((config.model, config.task, config.train.micro_batch_size))
        if key not in self._threads:
            with silenced(), generators_kept():
                slot = Slot(Trial(0, config, config.train.seed), self.initial(config, config.train.seed))
                speeds = dict.fromkeys((1, most), 0.0)
                most_updates = config.train.steps // 6 - 3  # the curve ends after train.steps updates
                updates = max(2, min(int(THREADS_PROBE_SECONDS * self._speed(slot, 2, 2)), most_updates))
                for threads in (1, most, 1, most, 1, most):  # alternating, because other processes may run meanwhile
                    torch.set_num_threads(threads)
                    speeds[threads] = max(speeds[threads], self._speed(slot, updates, 1))
            self._threads[key] = most if speeds[most] >= MIN_THREADS_SPEEDUP * speeds[1] else 1
        return self._threads[key]

    def stop(self, trial: Trial) -> None:
        if self._slot is not None and self._slot.trial.number == trial.number:
            self._slot = None

    def snapshots(self) -> Iterator[Progress]:
        slot = self._slot
        if slot is not None:
            yield Progress(slot.trial.number, slot.rows(), None, None, slot.state.events, packed(slot.state))

    def advance(self) -> list[Progress]:
        slot = self._slot
        if slot is None:
            return []
        trial, begin = slot.trial, slot.state.global_step
        end = boundary(trial, begin)
        slot.state.random.restore(self.device)
        last_loss = self._train(slot, begin, end)
        if not np.isfinite(last_loss):
            return [self._ended(slot, self._broken(slot), Status.DIVERGED)]
        slot.state.random = RandomState.capture(
            self.device
        )  # before the evaluation, which must not affect the training
        if slot.state.global_step < end:
            return []
        with unchanged(slot.state.model, self.device):
            evaluation = self._evaluate(slot, self.splits(trial, end))
        if not sound(evaluation):
            return [self._ended(slot, self._broken(slot), Status.DIVERGED)]
        if end % trial.config.train.eval_every == 0:  # reactions see only regular evaluations
            self._react(slot, evaluation)
        if end == trial.last:
            return [self._ended(slot, evaluation, Status.COMPLETE)]
        return [Progress(trial.number, slot.rows(), evaluation, None, slot.state.events)]

    def rate(self, config: RunConfig, updates: int, rounds: int = 1) -> float:
        """Measure updates per second with a trial of this configuration, whose rows are dropped.

        Args:
            updates: number of updates in a round. Two updates before the first round are not timed.
            rounds: largest number of rounds, of which the fastest counts. No round starts after PROBE_SECONDS.
        """
        return self._speed(self._begin(Trial(0, config, config.train.seed)), updates, rounds)

    def _speed(self, slot: Slot, updates: int, rounds: int) -> float:
        """Measure updates per second by training the slot; the arguments are those of `rate`."""
        self._train(slot, slot.state.global_step, slot.state.global_step + 2)
        seconds: list[float] = []
        while len(seconds) < rounds and sum(seconds) <= PROBE_SECONDS:
            begin, began = slot.state.global_step, time.perf_counter()
            self._train(slot, begin, begin + updates)
            seconds.append(time.perf_counter() - began)
        return updates / min(seconds)

    def _ended(self, slot: Slot, evaluation: Evaluation, status: Status) -> Progress:
        self._slot = None
        complete, number = status is Status.COMPLETE, slot.trial.number
        state = packed(slot.state) if slot.trial.keeps_state and complete else None
        weights = self._weights(evaluation, lambda: slot.state) if complete else None
        return Progress(number, slot.rows(), evaluation, status, slot.state.events, state, weights=weights)

    @staticmethod
    def _broken(slot: Slot) -> Evaluation:
        """Return the evaluation of a trial that has diverged."""
        return Evaluation(slot.trial.number, slot.state.global_step, global_steps(slot.state))

    def _react(self, slot: Slot, evaluation: Evaluation) -> None:
        """Pass an evaluation to the reactions of the schedule, and recompute the rates if one of them is triggered."""
        state, schedule = slot.state, slot.trial.config.schedule.after(*slot.state.events)
        state.memories, happened = schedule.react(state.memories, evaluation.step, evaluation.metrics)
        if happened:
            state.events += happened
            slot.redraw()
        if state.mistakes is not None:
            state.mistakes.zero_()
            state.seen = 0

    def _train(self, slot: Slot, begin: int, end: int) -> float:
        """Make the updates begin..end-1, or fewer if the engine pauses.

        Return the loss of the last recorded update, which is the first with a loss that is not finite if there is one.
        """
        config, model, optimizer = slot.trial.config, slot.state.model, slot.state.optimizer
        clip_norm, accumulate, recorded = config.optimizer.clip_norm, config.train.accumulate, recorded_group(optimizer)
        rates = np.empty(end - begin)
        losses = torch.empty(end - begin, device=self.device, dtype=self.dtype)
        parameters, (planned,), (unrecorded,) = list(model.parameters()), slot.rates, slot.unrecorded
        model.train()
        for row, batch in enumerate(slot.state.batches.range(begin, end)):
            if row and self._pausing():
                end = begin + row
                break
            set_rate(optimizer, planned, begin + row)
            for parameter in parameters:  # optimizer.zero_grad costs a small model as much as its update
                parameter.grad = None
            losses[row] = self._gradient(slot.state, batch, accumulate, slot.trial.seed, begin + row)
            make_update(slot.state, clip_norm)
            rates[row] = recorded["lr"]
            if slot.state.average is not None and config.average.decay is not None:
                update_average(slot.state.average, model, config.average.decay, begin + row)
        loss_column = on_host(losses[: end - begin])
        broken = np.flatnonzero(~np.isfinite(loss_column))
        kept = int(broken[0]) + 1 if broken.size else end - begin
        unrecorded.add(rates[:kept], loss_column[:kept])
        slot.state.global_step = begin + kept
        return float(loss_column[kept - 1])

    def _gradient(self, state: TrainState, batch: Any, accumulate: int, seed: int, step: int) -> Tensor:
        """Return the mean loss over the batch of an update, and store its gradient in the parameters."""
        loss, weight = self.backward(state, batch, accumulate, seed, step)
        if weight is None:
            return loss
        for parameter in state.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= weight
        return loss / weight

    def _pausing(self) -> bool:
        """Return whether to stop before the next update."""
        return self.pause()

    def _evaluate(self, slot: Slot, splits: Mapping[str, Examples]) -> Evaluation:
        """Return the metrics on the splits, those of averaged weights with the suffix _ema, and the global step.

        The weights and the optimizer stay unchanged.
        """
        state = slot.state
        at_once = self.evaluated_at_once(slot.trial.config, state, lambda batch: self._measured(state, batch))
        with evaluated_weights(state.model, state.optimizer):
            metrics = self._measure(state, splits, at_once)
        if state.average is not None:
            with averaged_weights(state.model, state.average):
                averaged = self._measure(state, splits, at_once)
            metrics |= {f"{name}_ema": value for name, value in averaged.items()}
        if state.mistakes is not None:
            metrics[TRAIN_ERROR] = float(state.mistakes) / state.seen
        return Evaluation(slot.trial.number, state.global_step, metrics | global_steps(state))

    @torch.no_grad()
    def _measure(self, state: TrainState, splits: Mapping[str, Examples], at_once: int) -> dict[str, float]:
        """Return the loss and the metrics over each split: val_loss, val_accuracy, test_loss, ...

        Args:
            at_once: batch size of the evaluation.
        """
        objective = state.objective
        assert objective is not None  # AdversarialEngine evaluates GANs
        metrics: dict[str, float] = {}
        for name, split in splits.items():
            totals: Totals = {LOSS: (torch.zeros((), device=self.device, dtype=self.dtype), 0)}
            objective.reset()
            for batch in in_order(split, at_once, self.device):
                measured, outputs = self._measured(state, batch)
                objective.update(outputs, batch)
                for key, (total, weight) in measured.items():
                    before, seen = totals.get(key, (0, 0))
                    wide = total.to(self.dtype) if total.is_floating_point() else total
                    totals[key] = before + wide, seen + weight
            means = {key: quotient(total, weight) for key, (total, weight) in totals.items()}
            found = objective.finished(means) | objective.collected()
            metrics |= {f"{name}_{key}": value for key, value in found.items()}
        return metrics

    def _measured(self, state: TrainState, batch: Any) -> tuple[Totals, Any]:
        """Return the sums and weights of the loss and the metrics of a batch, and the outputs of the model."""
        objective = state.objective
        assert objective is not None
        with self.computing():
            outputs = objective.outputs(state.model.eval(), batch)
            return {LOSS: total_of(*objective.loss(outputs, batch))} | objective.metrics(outputs, batch), outputs
