"""The serial engine: one slot, plain PyTorch."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.config import RunConfig
from sweep.core import Evaluation, Progress, Rows, Status, Trial, take_joined
from sweep.data import Dataset, Examples, LoadedSplit
from sweep.tasks import LOSS
from sweep.training.average import averaged_weights, evaluated_weights, update_average
from sweep.training.base_engine import LONGEST_PROBE, BaseEngine, boundary, make_update, on_host, sound
from sweep.training.batches import in_order
from sweep.training.contents import unchanged
from sweep.training.device import ALL_THREADS, THREADS_GAIN
from sweep.training.generators import RandomState, generators_kept
from sweep.training.groups import Rates, recorded_group, set_rate
from sweep.training.losses import Totals
from sweep.training.model import silenced
from sweep.training.objectives import quotient, total_of
from sweep.training.state import TRAIN_ERROR, TrainState, global_steps
from sweep.training.state_io import packed

SMALL = 500_000
"""Floating-point operations of one call of torch, below which several threads gain nothing."""
FEW = 200
"""Updates of a training that is over before the number of threads has been tried."""
TRIED = 0.1
"""Seconds in which a number of threads is tried, several times; at least two updates."""


@dataclass
class Slot:
    """A trial in training.

    Args:
        rates: of each optimizer the rate of every update, unless an event changes it. A GAN has two optimizers: the
            generator's and the critic's.
        rows: those that no Progress has had yet.
    """

    trial: Trial
    state: TrainState
    rates: list[Rates] = field(init=False)
    rows: list[Rows] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        """Draw the curves anew, after what has happened."""
        trial = self.trial
        drawn = [series.curves(self.state.events, trial.last) for series in trial.config.series]
        self.rates = [{name: curve.tolist() for name, curve in curves.items()} for curves in drawn]

    def add(self, optimizer: int, begin: int, lr: np.ndarray, loss: np.ndarray) -> None:
        """Add the rows of the updates from `begin` on of one optimizer: float64 [n] each."""
        name = self.trial.config.series[optimizer].name
        self.rows.append(Rows(self.trial.number, np.arange(begin, begin + len(lr)), lr, loss, name))


class SerialEngine(BaseEngine):
    """Trains one trial at a time. No host synchronization between two boundaries, but for one an update with fp16."""

    slots = 1
    workers = 1
    """Processes that share a batch."""

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
        """Return the number of threads that updates are computed with: one, or as many as torch takes.

        They are tried by training another model of this configuration, because their speed depends on the model and on
        what else the cores compute. Two threads make 72 updates a second of experiment=gpt_text on two idle cores, and
        22 beside one busy process; one thread makes 51 and 50.

        Args:
            state: of a training with this configuration.
        """
        most = max(ALL_THREADS // self.workers, 1)
        if most == 1 or self.operations_of_a_call(config, state) < SMALL:
            return 1
        if self.workers > 1 or config.train.steps < FEW or isinstance(self.data.train, LoadedSplit):
            return most
        key = repr((config.model, config.task, config.train.micro_batch_size))
        if key not in self._threads:
            with silenced(), generators_kept():
                slot = Slot(Trial(0, config, config.train.seed), self.initial(config, config.train.seed))
                speeds = dict.fromkeys((1, most), 0.0)
                most_updates = config.train.steps // 6 - 3  # the curve has a rate for each
                updates = max(2, min(int(TRIED * self._speed(slot, 2, 2)), most_updates))
                for threads in (1, most, 1, most, 1, most):  # in turns: other processes may run for a part of the time
                    torch.set_num_threads(threads)
                    speeds[threads] = max(speeds[threads], self._speed(slot, updates, 1))
            self._threads[key] = most if speeds[most] >= THREADS_GAIN * speeds[1] else 1
        return self._threads[key]

    def stop(self, trial: Trial) -> None:
        if self._slot is not None and self._slot.trial.number == trial.number:
            self._slot = None

    def snapshots(self) -> Iterator[Progress]:
        slot = self._slot
        if slot is not None:
            yield Progress(slot.trial.number, take_joined(slot.rows), None, None, slot.state.events, packed(slot.state))

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
        slot.state.random = RandomState.capture(self.device)  # before evaluating, which must not change the training
        if slot.state.global_step < end:
            return []
        with unchanged(slot.state.model, self.device):
            evaluation = self._evaluate(slot, self.splits(trial, end))
        if not sound(evaluation):
            return [self._ended(slot, self._broken(slot), Status.DIVERGED)]
        if end % trial.config.train.eval_every == 0:  # an evaluation at an end elsewhere is not one of the schedule's
            self._react(slot, evaluation)
        if end == trial.last:
            return [self._ended(slot, evaluation, Status.COMPLETE)]
        return [Progress(trial.number, take_joined(slot.rows), evaluation, None, slot.state.events)]

    def rate(self, config: RunConfig, updates: int, rounds: int = 1) -> float:
        """Measure updates per second with a trial of this configuration, whose rows are dropped.

        Args:
            updates: of a round, which follow two that are not timed.
            rounds: how many rounds at most; the fastest counts. None is begun after LONGEST_PROBE seconds.
        """
        return self._speed(self._begin(Trial(0, config, config.train.seed)), updates, rounds)

    def _speed(self, slot: Slot, updates: int, rounds: int) -> float:
        """Measure updates per second by training on; the arguments are those of `rate`."""
        self._train(slot, slot.state.global_step, slot.state.global_step + 2)
        seconds: list[float] = []
        while len(seconds) < rounds and sum(seconds) <= LONGEST_PROBE:
            begin, began = slot.state.global_step, time.perf_counter()
            self._train(slot, begin, begin + updates)
            seconds.append(time.perf_counter() - began)
        return updates / min(seconds)

    def _ended(self, slot: Slot, evaluation: Evaluation, status: Status) -> Progress:
        self._slot = None
        complete, number = status is Status.COMPLETE, slot.trial.number
        state = packed(slot.state) if slot.trial.keeps_state and complete else None
        weights = self._weights(evaluation, lambda: slot.state) if complete else None
        return Progress(number, take_joined(slot.rows), evaluation, status, slot.state.events, state, weights=weights)

    @staticmethod
    def _broken(slot: Slot) -> Evaluation:
        """The evaluation of a trial that has diverged."""
        return Evaluation(slot.trial.number, slot.state.global_step, global_steps(slot.state))

    def _react(self, slot: Slot, evaluation: Evaluation) -> None:
        """Let the schedule's reactions see an evaluation; what happens redraws the rest of the curve."""
        state, schedule = slot.state, slot.trial.config.schedule.after(*slot.state.events)
        state.memories, happened = schedule.react(state.memories, evaluation.step, evaluation.metrics)
        if happened:
            state.events += happened
            slot.redraw()
        if state.mistakes is not None:
            state.mistakes.zero_()
            state.seen = 0

    def _train(self, slot: Slot, begin: int, end: int) -> float:
        """The updates begin..end-1, or up to a pause; the loss of the last, or the first that is not finite.

        It is the last whose row is taken.
        """
        config, model, optimizer = slot.trial.config, slot.state.model, slot.state.optimizer
        clip_norm, accumulate, recorded = config.optimizer.clip_norm, config.train.accumulate, recorded_group(optimizer)
        rates = np.empty(end - begin)
        losses = torch.empty(end - begin, device=self.device, dtype=self.dtype)
        parameters, (planned,) = list(model.parameters()), slot.rates
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
        slot.add(0, begin, rates[:kept], loss_column[:kept])
        slot.state.global_step = begin + kept
        return float(loss_column[kept - 1])

    def _gradient(self, state: TrainState, batch: Any, accumulate: int, seed: int, step: int) -> Tensor:
        """Return the mean loss over the batch of an update; its gradient is the parameters'."""
        loss, weight = self.backward(state, batch, accumulate, seed, step)
        if weight is None:
            return loss
        for parameter in state.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= weight
        return loss / weight

    def _pausing(self) -> bool:
        """Whether to stop before the next update."""
        return self.pause()

    def _evaluate(self, slot: Slot, splits: Mapping[str, Examples]) -> Evaluation:
        """The metrics on the splits, those of the averaged weights with _ema, and the global step.

        Weights and optimizer are left as they were.
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
        """Return the means of the loss and the metrics over each split: val_loss, val_accuracy, test_loss, ...

        Args:
            at_once: how many examples are evaluated at once.
        """
        objective = state.objective
        assert objective is not None  # a GAN is not measured here
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
        """Return loss and metrics of a batch, each a sum and the weight it is to be divided by, and the outputs."""
        objective = state.objective
        assert objective is not None
        with self.computing():
            outputs = objective.outputs(state.model.eval(), batch)
            return {LOSS: total_of(*objective.loss(outputs, batch))} | objective.metrics(outputs, batch), outputs
