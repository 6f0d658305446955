"""Train many trials at once: the fused engine updates all its slots in one step."""

import copy
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sweep.config import RunConfig
from sweep.core import Evaluation, Progress, Status, Trial
from sweep.data import Dataset, Examples, LoadedSplit
from sweep.data.batch import leaves, mapped, rebuilt
from sweep.errors import InvalidValueError
from sweep.schedules import Event, Memory
from sweep.training.augmentation import Augmentation, draws
from sweep.training.average import average_decay
from sweep.training.base_engine import PROBE_SECONDS, BaseEngine, RowBuffer, boundary, broken, sound
from sweep.training.batches import Batches, in_order, moved, placed, rows_of_epoch
from sweep.training.dropout import update_keys
from sweep.training.groups import SCHEDULE, recorded_group
from sweep.training.model import silenced
from sweep.training.objectives import quotient
from sweep.training.rules import rule_of
from sweep.training.stacked import NORMS, Shape, Stack, grouped
from sweep.training.state import TRAIN_ERROR, TrainState
from sweep.training.state_io import packed

MAX_UPDATES_PER_ADVANCE = 256
"""Largest number of updates between two checks of the losses, after which a diverged trial leaves its slot."""


class NotStackableError(ValueError):
    """Raised for trials that cannot be trained in one step. The message gives the reason."""


@dataclass
class _Slot:
    """A trial that is being trained.

    Args:
        index: index of the slot.
        rows: rows that were not returned yet.
        groups: param_groups of the optimizer, without the parameters.
        recorded: index of the group whose rate is recorded.
        curves: name of a schedule, None for the main one -> the rate of every update, float64, unless a reaction
            changes it.
        step: number of completed updates.
        seen: number of completed updates at the last regular evaluation.
    """

    trial: Trial
    index: int
    rows: RowBuffer
    batches: Batches
    groups: Sequence[Mapping[str, Any]]
    curves: Mapping[str | None, np.ndarray]
    recorded: int
    step: int
    seen: int
    events: tuple[Event, ...]
    memories: dict[str, Memory]


@dataclass
class SlotUsage:
    """Counts how much of the slots was in use.

    Args:
        offered: number of updates that all slots could have made: slots x steps.
        made: number of updates that were recorded.
        seconds: time of the updates, without evaluations.
    """

    offered: int = 0
    made: int = 0
    seconds: float = 0.0


class FusedEngine(BaseEngine):
    """Trains one trial per slot, all in one step. The host does not wait for the device between two boundaries.

    When a trial ends, its slot takes the next trial at once, while the others continue at their own steps. The results
    of a trial do not depend on its slot or on the other trials.

    Args:
        data, device, precision: as in BaseEngine.
        slots: number of slots, >= 1.
        like: configurations of expected trials, which must have the same structure.
        compiled: whether to compile the update.

    Raises:
        NotStackableError: if such trials cannot be trained in one step.
    """

    def __init__(
        self,
        data: Dataset,
        device: torch.device,
        precision: str,
        slots: int,
        like: Sequence[RunConfig] = (),
        compiled: bool = False,
    ) -> None:
        super().__init__(data, device, precision)
        self.use = SlotUsage()
        self.slots = slots
        self._slots: list[_Slot | None] = [None] * slots
        self._compiled = compiled
        self._stack: Stack | None = None
        self._kinds: list[tuple[torch.Size, torch.dtype]] = []
        """Shapes and types of an augmented batch."""
        if like:
            self._prepare(like)

    def compile(self, wanted: bool = True) -> None:
        """Use compiled updates from now on, or stop using them. The first compiled update takes seconds."""
        self._compiled = wanted
        if self._stack is not None:
            self._stack.compile(wanted)

    @property
    def free(self) -> int:
        return sum(slot is None for slot in self._slots)

    def start(self, trial: Trial) -> None:
        """Put a trial into a free slot.

        Raises:
            NotStackableError: if its structure differs from that of the other trials, or it cannot be stacked at all.
        """
        state = self.beginning(trial)
        structure = self._structure_of(trial.config, state)
        if self._stack is None or (not any(self._slots) and structure != self.structure):
            self._prepare([trial.config])
        assert self._stack is not None
        _refuse_difference(self.structure, structure)
        index, config = self._slots.index(None), trial.config
        self._stack.fill(index, state)
        given, own_rate = state.optimizer.param_groups, recorded_group(state.optimizer)
        recorded = next(i for i, group in enumerate(given) if group is own_rate)  # == would compare tensors
        groups = [{key: value for key, value in group.items() if key != "params"} for group in given]
        step = state.global_step
        self._slots[index] = _Slot(
            trial=trial,
            index=index,
            rows=RowBuffer(trial.number, step),
            batches=state.batches,
            groups=groups,
            curves=config.series[0].curves(state.events, trial.last),
            recorded=recorded,
            step=step,
            seen=step - step % config.train.eval_every,
            events=state.events,
            memories=state.memories,
        )

    def stop(self, trial: Trial) -> None:
        self._slots = [None if slot and slot.trial.number == trial.number else slot for slot in self._slots]

    def snapshots(self) -> Iterator[Progress]:
        for slot in [slot for slot in self._slots if slot is not None]:
            yield Progress(slot.trial.number, slot.rows.take(), None, None, slot.events, packed(self._state(slot)))

    def _state(self, slot: _Slot) -> TrainState:
        """Return the state of the trial in a slot. It is valid until the next call."""
        assert self._stack is not None
        if not slot.step:
            with silenced():
                return self.initial(slot.trial.config, slot.trial.seed)
        state = self._spare
        for group, own in zip(state.optimizer.param_groups, slot.groups, strict=True):
            group.pop(SCHEDULE, None)  # left by another slot
            group.update(own)
        self._stack.read(slot.index, state, slot.step)
        state.events, state.memories = slot.events, slot.memories
        state.seen, state.global_step = _examples(slot.batches, slot.seen, slot.step), slot.step
        return state

    def advance(self) -> list[Progress]:
        """Train to the nearest boundary, or for MAX_UPDATES_PER_ADVANCE updates, or to a pause.

        Return the progress of the trials that have reached a boundary or diverged.
        """
        return self._advance() if any(self._slots) else []

    @property
    def stack(self) -> Stack:
        """Return the tensors of all slots. The engine must have been given configurations or a trial."""
        assert self._stack is not None
        return self._stack

    @property
    def example(self) -> TrainState:
        """Return a state with the structure of all trials of this engine."""
        return self._spare

    @property
    def weights(self) -> Collection[str]:
        """Return the names of the trained parameters."""
        return () if self._stack is None else self._stack.params.keys()

    def rate(self, config: RunConfig, updates: int, rounds: int = 1) -> float:
        """Measure updates per second over all slots with trials of this configuration, whose rows are dropped.

        Args:
            updates: number of updates of each slot in a round. Two updates before the first round are not timed.
            rounds: largest number of rounds, of which the fastest counts. No round starts after PROBE_SECONDS.
        """
        assert not any(self._slots)
        for number in range(self.slots):
            self.start(Trial(number, config, config.train.seed))
        live = [slot for slot in self._slots if slot is not None]
        seconds: list[float] = []
        with torch.no_grad():
            self._train(live, 2)
            while len(seconds) < rounds and sum(seconds) <= PROBE_SECONDS:
                began = time.perf_counter()
                self._train(live, updates)
                seconds.append(time.perf_counter() - began)
        self._slots = [None] * self.slots
        return self.slots * updates / min(seconds)

    # --- structure

    @silenced()
    def _prepare(self, like: Sequence[RunConfig]) -> None:
        """Allocate the tensors of all slots for trials with these configurations."""
        config = like[0]
        if isinstance(self.data.train, LoadedSplit):
            raise NotStackableError("the data set loads examples one at a time")
        self._examples = self.data.train
        state = self.initial(config, config.train.seed)
        self.structure = self._structure_of(config, state)
        for other in like[1:]:
            _refuse_difference(self.structure, self._structure_of(other, self.initial(other, other.train.seed)))
        objective = state.objective
        assert objective is not None
        shape = Shape(
            rule=rule_of(state.optimizer),
            groups=grouped(state),
            n_groups=len(state.optimizer.param_groups),
            objective=objective,
            autocast=self.autocast is not None,
            clips=config.optimizer.clip_norm is not None,
            averages=state.average is not None,
            counts=state.mistakes is not None,
            ragged=not config.train.drop_last and len(self.data.train) % config.train.batch_size != 0,
            values=self.gives_values(config, state),
        )
        if shape.ragged and not shape.values:
            rule = "task.loss returns one number for a batch, and the last batch of an epoch is smaller"
            raise NotStackableError(f"{rule}: return one for each example, or use train.drop_last=true")
        self._kinds = []
        self._spare = state
        """A state with the structure of all trials, into which `_state` reads a slot."""
        self._batch_size, self._drop_last = config.train.batch_size, config.train.drop_last
        self._config = config
        self._padded = lru_cache(maxsize=4 * self.slots)(self._padded_order)
        self._stack = Stack(state, shape, self.slots, self.device, self._compiled)
        if self.device.type == "cuda":
            rows = torch.zeros((self.slots, self._batch_size), dtype=torch.int64, device=self._examples.device)
            self._stack.capture(self._augmented(placed(self._examples.take(rows), self.device), {}), state)

    def _structure_of(self, config: RunConfig, state: TrainState) -> dict[str, Any]:
        """Return the properties that all trials of a stack must have in common, by their names in messages."""
        if config.train.accumulate != 1:
            raise NotStackableError("train.accumulate divides a batch that does not fit into memory, let alone several")
        if config.train.precision == "fp16":
            raise NotStackableError("fp16 has a loss scale for each trial; train.precision=bf16 trains several at once")
        try:
            rule = rule_of(state.optimizer)
        except ValueError as error:
            raise NotStackableError(str(error)) from error
        for module in state.model.modules():
            if isinstance(module, NORMS) and not module.track_running_stats:
                raise NotStackableError("a BatchNorm without running statistics is evaluated by its batch")
        for name, tensor in (*state.model.named_parameters(), *state.model.named_buffers()):
            if tensor.layout != torch.strided or tensor.is_quantized:
                raise NotStackableError(f"{name} of the model is sparse or quantized")
            if tensor.requires_grad and tensor.dtype != self.dtype:
                raise NotStackableError(f"{name} of the model is trained in {str(tensor.dtype).removeprefix('torch.')}")
        model = {name: tuple(p.shape) for name, p in state.model.named_parameters()}
        return {
            "model": (config.model.target, repr(dict(config.model.arguments)), model),
            "optimizer": type(rule).__name__,
            "optimizer.groups": (grouped(state), len(state.optimizer.param_groups)),
            "optimizer.clip_norm": config.optimizer.clip_norm is not None,
            "train.batch_size": config.train.batch_size,
            "train.drop_last": config.train.drop_last,
            "task": repr(config.task),
            "dataset.augment": repr(config.augment),
            "average": state.average is not None,
            "warmup": state.mistakes is not None,
        }

    # --- training

    @torch.no_grad()
    def _advance(self) -> list[Progress]:
        """Train to the nearest boundary, for at most MAX_UPDATES_PER_ADVANCE updates; return the progress."""
        live = [slot for slot in self._slots if slot is not None]
        length = min(MAX_UPDATES_PER_ADVANCE, *(boundary(slot.trial, slot.step) - slot.step for slot in live))
        began = time.perf_counter()
        losses, rates = self._train(live, length)
        self.use.seconds += time.perf_counter() - began
        length = len(losses)
        progress, measured = [], []
        for slot in live:
            own = losses[:, slot.index]
            bad = np.flatnonzero(~np.isfinite(own))
            made = int(bad[0]) + 1 if bad.size else length
            slot.rows.add(rates[:made, slot.index], own[:made])
            begin = slot.step
            slot.step += made
            self.use.made += made
            if bad.size:
                progress.append(self._ended(slot, broken(slot.trial.number, slot.step), Status.DIVERGED))
            elif slot.step == boundary(slot.trial, begin):
                measured.append(slot)
        self.use.offered += length * len(self._slots)
        return progress + self._measured(measured)

    def _train(self, live: Sequence[_Slot], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Make `length` updates of every live slot, or fewer if the engine pauses.

        Return the losses and the rates that were used, both float64 [updates, slots].
        """
        stack = self._stack
        assert stack is not None
        slots, rule = len(self._slots), stack.shape.rule
        chosen = torch.zeros((length, slots, self._batch_size), dtype=torch.int64)
        present = torch.ones((length, slots, self._batch_size), dtype=self.dtype) if stack.shape.ragged else None
        coefficients = np.zeros((length, stack.shape.n_groups, len(rule.names), slots))
        keys = np.zeros((length, slots), dtype=np.int64)
        clip_norm, share, rates = np.full(slots, np.inf), np.zeros((length, slots)), np.zeros((length, slots))
        for slot in live:
            begin, end, index, config = slot.step, slot.step + length, slot.index, slot.trial.config
            steps = np.arange(begin, end)
            self._choose(slot, begin, end, chosen, present)
            for number, group in enumerate(slot.groups):
                used = slot.curves[group.get(SCHEDULE)][begin:end] * group["lr_factor"]
                for i, value in enumerate(rule.coefficients(group, used, steps)):
                    coefficients[:, number, i, index] = value
                if number == slot.recorded:
                    rates[:, index] = used
            if stack.draws:
                keys[:, index] = update_keys(slot.trial.seed, begin, end)
            if config.optimizer.clip_norm is not None:
                clip_norm[index] = config.optimizer.clip_norm
            if config.average.decay is not None:
                share[:, index] = 1 - average_decay(config.average.decay, steps)
        table, draws, shares = (self._moved(array).unbind() for array in (coefficients, keys, share))
        clips = self._moved(clip_norm)
        batches = self._examples.each(moved(chosen, self._examples.device))
        here = [None] * length if present is None else moved(present, self.device).unbind()
        losses = []
        with sdpa_kernel(SDPBackend.MATH):  # vmap supports no other kernel of attention
            for i, batch in enumerate(batches):
                if i and self.pause():
                    break
                batch = self._augmented(placed(batch, self.device), {slot.index: slot.step + i for slot in live})
                stack.update(batch, here[i], table[i], draws[i], clips, shares[i])
                losses.append(stack.loss.clone())
        return torch.stack(losses).cpu().double().numpy(), rates[: len(losses)]

    def _augmented(self, batch: Any, steps: Mapping[int, int]) -> Any:
        """Return the augmented batches of an update of all slots, [slots, batch, ...].

        An augmentation that uses several examples is called once per slot, with the examples that are present. So a
        trial does not depend on the others, and a smaller last batch is as small as in the serial engine.

        Args:
            steps: index of each live slot -> number of its update. Other slots get arbitrary values of the same shape.
        """
        augmentation = self._spare.batches.augmentation
        if augmentation is None:
            return batch
        drawn = np.zeros((self.slots, self._batch_size, augmentation.n_draws), dtype=np.float32)
        for index, step in steps.items():
            slot = self._slots[index]
            assert slot is not None
            drawn[index] = draws(slot.trial.seed, step, self._batch_size, augmentation.n_draws)
        numbers = moved(torch.from_numpy(drawn), self.device)
        if augmentation.per_example or not steps:
            flat = augmentation(mapped(lambda tensor: tensor.flatten(0, 1), batch), numbers.flatten(0, 1))
            whole = mapped(lambda tensor: tensor.unflatten(0, (self.slots, self._batch_size)).contiguous(), flat)
            return self._unvaried(whole, augmentation)
        parts: dict[int, Any] = {}
        for index, step in steps.items():
            there = self._spare.batches.examples(step)
            part = augmentation(mapped(lambda tensor: tensor[index, :there], batch), numbers[index, :there])  # noqa: B023
            parts[index] = mapped(lambda tensor: _padded(tensor, self._batch_size), part)
        every = [parts.get(index, next(iter(parts.values()))) for index in range(self.slots)]
        whole = rebuilt(every[0], [torch.stack(column) for column in zip(*map(leaves, every), strict=True)])
        return self._unvaried(whole, augmentation)

    def _unvaried(self, batch: Any, augmentation: Augmentation) -> Any:
        """Return the batch. Refuse shapes or types that differ from the first batch, which compiled updates assume."""
        kinds = [(tensor.shape, tensor.dtype) for tensor in leaves(batch)]
        self._kinds = self._kinds or kinds
        if kinds != self._kinds:
            rule = "must return tensors of the same shapes and types in every update; engine=serial supports others"
            raise InvalidValueError(*augmentation.name, rule)
        return batch

    def _moved(self, array: np.ndarray) -> Tensor:
        """Return an array as a tensor on the device, with floats in the precision of the training."""
        tensor = torch.from_numpy(array)
        return moved(tensor.to(self.dtype) if tensor.is_floating_point() else tensor, self.device)

    def _choose(self, slot: _Slot, begin: int, end: int, chosen: Tensor, present: Tensor | None) -> None:
        """Write the rows of the examples of the updates begin..end-1 of a slot, and which of them are present.

        Args:
            chosen: int64 [updates, slots, batch], is written.
            present: 1 or 0, [updates, slots, batch], is written; None if all examples are present.
        """
        step = begin
        while step < end:
            epoch, first = divmod(step, slot.batches.per_epoch)
            last = min(slot.batches.per_epoch, first + end - step)
            rows = slice(step - begin, step - begin + last - first)
            chosen[rows, slot.index] = self._padded(slot.batches.seed, epoch)[first:last]
            if present is not None and last == slot.batches.per_epoch:
                there = len(self.data.train) - (last - 1) * self._batch_size
                present[rows.stop - 1, slot.index, there:] = 0
            step += last - first

    def _padded_order(self, seed: int, epoch: int) -> Tensor:
        """Return the batches of an epoch, int64 [per_epoch, batch_size].

        A smaller last batch is padded with its own first example; with train.drop_last it is left out.
        """
        order = rows_of_epoch(self.data.train, seed, epoch)
        if self._drop_last:
            return order[: len(order) - len(order) % self._batch_size].reshape(-1, self._batch_size)
        short = -len(order) % self._batch_size
        first = order[len(order) - len(order) % self._batch_size] if short else 0
        return torch.cat([order, torch.full((short,), int(first), dtype=torch.int64)]).reshape(-1, self._batch_size)

    # --- evaluating

    def _measured(self, slots: Sequence[_Slot]) -> list[Progress]:
        """Evaluate slots that have reached a boundary, end those that are complete, and return their progress."""
        if not slots:
            return []
        metrics = self._measure(slots)
        progress = []
        for slot in slots:
            trial, end = slot.trial, slot.step
            evaluation = Evaluation(trial.number, end, metrics[slot.index])
            if not sound(evaluation):
                progress.append(self._ended(slot, broken(trial.number, end), Status.DIVERGED))
                continue
            if end % trial.config.train.eval_every == 0:  # reactions see only regular evaluations
                self._react(slot, evaluation)
            if end == trial.last:
                progress.append(self._ended(slot, evaluation, Status.COMPLETE))
            else:
                progress.append(Progress(trial.number, slot.rows.take(), evaluation, None, slot.events))
        return progress

    def _ended(self, slot: _Slot, evaluation: Evaluation, status: Status) -> Progress:
        self._slots[slot.index] = None
        complete, number = status is Status.COMPLETE, slot.trial.number
        state = packed(self._state(slot)) if slot.trial.keeps_state and complete else None
        weights = self._weights(evaluation, lambda: self._state(slot)) if complete else None
        return Progress(number, slot.rows.take(), evaluation, status, slot.events, state, weights=weights)

    def _react(self, slot: _Slot, evaluation: Evaluation) -> None:
        """Pass an evaluation to the reactions of the schedule, and recompute the curve if one of them is triggered."""
        schedule = slot.trial.config.schedule.after(*slot.events)
        slot.memories, happened = schedule.react(slot.memories, evaluation.step, evaluation.metrics)
        if happened:
            slot.events += happened
            slot.curves = slot.trial.config.series[0].curves(slot.events, slot.trial.last)
        assert self._stack is not None
        self._stack.mistakes[slot.index] = 0
        slot.seen = slot.step

    def _measure(self, slots: Sequence[_Slot]) -> dict[int, dict[str, float]]:
        """Return the metrics of these slots by index, with the names of the serial engine.

        On a GPU all slots are evaluated at once. On a CPU this is not faster, so the slots are evaluated one at a time,
        which makes the results independent of the number of slots.
        """
        stack = self._stack
        assert stack is not None
        metrics: dict[int, dict[str, float]] = {slot.index: {} for slot in slots}
        for together in [slots] if self.device.type == "cuda" else [[slot] for slot in slots]:
            for name in ("val", "test"):
                tested = {slot.index: self.splits(slot.trial, slot.step).get(name) for slot in together}
                chosen = [index for index, split in tested.items() if split is not None]
                for averaged in (False, True)[: 1 + stack.shape.averages] if chosen else ():
                    for index, own in self._evaluate(stack, chosen, name, averaged).items():
                        metrics[index] |= own
        mistakes = stack.mistakes.tolist() if stack.shape.counts else []
        for slot in slots:
            if stack.shape.counts:
                examples = _examples(slot.batches, slot.seen, slot.step)
                metrics[slot.index][TRAIN_ERROR] = mistakes[slot.index] / examples
            metrics[slot.index]["global_step"] = float(slot.step)
        return metrics

    def _evaluate(self, stack: Stack, slots: Sequence[int], name: str, averaged: bool) -> dict[int, dict[str, float]]:
        """Return the metrics of these slots over a split, by the index of the slot."""
        split: Examples = getattr(self.data, name)
        objective, suffix = stack.shape.objective, "_ema" if averaged else ""
        totals: dict[str, Tensor] = {}
        meters = [copy.deepcopy(objective) for _ in slots] if objective.meters else []
        for meter in meters:
            meter.reset()
        for batch in in_order(split, self._examples_of_each(stack, slots), self.device):
            measured, predicted = self._stacked_measures(stack, slots, batch, averaged)
            for key, (total, weight) in measured.items():
                both = torch.stack([total.to(self.dtype), weight.to(self.dtype)])
                totals[key] = totals[key] + both if key in totals else both
            for place, meter in enumerate(meters):
                meter.update(predicted[place], batch)
        sums = {key: both.double().cpu().numpy() for key, both in totals.items()}
        found: dict[int, dict[str, float]] = {}
        for place, slot in enumerate(slots):
            means = {key: quotient(total[place], weight[place]) for key, (total, weight) in sums.items()}
            own_metrics = objective.finished(means) | (meters[place].collected() if meters else {})
            found[slot] = {f"{name}_{key}{suffix}": value for key, value in own_metrics.items()}
        return found

    def _examples_of_each(self, stack: Stack, slots: Sequence[int]) -> int:
        """Return the batch size of evaluations of these slots.

        By default an evaluation may use as much memory as an update of all slots.
        """
        config = self._config
        at_once = self.evaluated_at_once(
            config, self._spare, lambda batch: self._stacked_measures(stack, slots[:1], batch, averaged=False)
        )
        if config.train.eval_batch_size is not None or not stack.shape.values:
            return at_once
        return max(at_once, config.train.micro_batch_size * self.slots) // len(slots)

    def _stacked_measures(self, stack: Stack, slots: Sequence[int], batch: Any, averaged: bool) -> Any:
        """Return the result of `Stack.evaluate`, computed with the attention kernel that vmap supports."""
        with sdpa_kernel(SDPBackend.MATH):
            return stack.evaluate(slots, batch, averaged)


def _examples(batches: Batches, begin: int, end: int) -> int:
    """Return the number of training examples of the updates begin..end-1."""
    short = max(batches.per_epoch * batches.batch_size - len(batches.split), 0)  # with drop_last no batch is smaller
    return (end - begin) * batches.batch_size - short * (end // batches.per_epoch - begin // batches.per_epoch)


def _padded(tensor: Tensor, rows: int) -> Tensor:
    """Pad a tensor [n, ...] to a number of rows by repeating its first row."""
    return torch.cat([tensor, tensor[:1].expand(rows - len(tensor), *tensor.shape[1:])])


def _refuse_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        if found[name] != value:
            raise NotStackableError(f"the trials differ in {name}")
