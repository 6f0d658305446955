"""The serial engine: one slot, plain PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sweep.config import RunConfig
from sweep.core import Evaluation, Progress, Rows, Status, Trial
from sweep.data import Dataset, Split
from sweep.schedules import Reaction
from sweep.training.average import averaged_weights, evaluated_weights, update_average
from sweep.training.device import DTYPES
from sweep.training.groups import recorded_group, set_rate
from sweep.training.state import TRAIN_ERROR, RandomState, TrainState, initial_state
from sweep.validation import InvalidValueError

EVALUATION_BATCH = 4096
"""Examples evaluated at once."""


@dataclass
class _Slot:
    """A trial in training.

    Args:
        curve: the rate of every update, as long as nothing else happens.
    """

    trial: Trial
    state: TrainState
    curve: list[float]

    def redraw(self) -> None:
        """Draw the curve anew, after what has happened."""
        schedule = self.trial.config.schedule.after(*self.state.events)
        self.curve = schedule.curve(max(self.trial.last, self.trial.config.train.steps)).tolist()


class SerialEngine:
    """Trains one trial at a time. No host synchronization between two boundaries.

    Args:
        data: the data set all trials share.
        device: where to train.
        precision: float32, bf16 (autocast), float64.
    """

    def __init__(self, data: Dataset, device: torch.device, precision: str) -> None:
        self.device, self.dtype = device, DTYPES[precision]
        self.autocast = precision == "bf16"
        self.data = data.place(device, self.dtype)
        self.loss = nn.CrossEntropyLoss() if data.classification else nn.MSELoss()
        self._slot: _Slot | None = None

    @property
    def free(self) -> int:
        return 0 if self._slot else 1

    def check(self, config: RunConfig) -> None:
        """Try what a training needs, without training: build the model, and push batches of both sizes through it.

        Raises:
            InvalidValueError: names what cannot be trained.
        """
        n_train = len(self.data.train)
        if config.train.batch_size > n_train:
            rule = f"must be at most the training split, which has {n_train} examples"
            raise InvalidValueError("train.batch_size", config.train.batch_size, rule)
        for group, part in (("warmup", config.warmup), ("schedule", config.decay)):
            if isinstance(part, Reaction) and part.watches != "val_loss" and not self.data.classification:
                key, value = f"{group}.{part.condition}", getattr(part, part.condition)
                raise InvalidValueError(key, value, f"waits for {part.watches}, which a regression does not have")
        state = self._initial(config, config.train.seed)
        last = state.batches.per_epoch - 1
        try:
            for first in {0, last}:  # the last batch of an epoch may be smaller
                inputs, targets = next(state.batches.range(first, first + 1))
                outputs, expected = state.model(inputs), (len(inputs), self.data.n_outputs)
                if outputs.shape != expected:
                    raise ValueError(f"it gives {list(outputs.shape)} for {len(inputs)} examples, not {list(expected)}")
                self._backward(state, inputs, targets, config.train.accumulate)
        except (AttributeError, RuntimeError, TypeError, ValueError, IndexError) as error:
            rule = f"cannot be trained on examples of shape {list(self.data.input_shape)}: {error}"
            raise InvalidValueError("model._target_", config.model.target, rule) from error
        try:
            state.optimizer.step()
        except Exception as error:  # whatever an optimizer finds to refuse only now
            rule = f"cannot update this model: {error}"
            raise InvalidValueError("optimizer._target_", config.optimizer.component.target, rule) from error

    def start(self, trial: Trial) -> None:
        state = self._initial(trial.config, trial.seed) if trial.state is None else trial.state
        assert isinstance(state, TrainState)
        self._slot = _Slot(trial, state, curve=[])
        self._slot.redraw()

    def stop(self, trial: Trial) -> None:
        self._slot = None

    def advance(self) -> list[Progress]:
        slot = self._slot
        if slot is None:
            return []
        every, begin = slot.trial.config.train.eval_every, slot.state.global_step
        end = min(slot.trial.last, (begin // every + 1) * every)
        slot.state.random.restore(self.device)
        rows = self._train(slot, begin, end)
        if not np.isfinite(rows.loss[-1]):
            slot.state.global_step = begin + len(rows.lr)
            last = Evaluation(slot.trial.number, begin + len(rows.lr), {"global_step": float(begin + len(rows.lr))})
            return [self._ended(slot, rows, last, Status.DIVERGED)]
        slot.state.random = RandomState.capture(self.device)  # before evaluating, which must not change the training
        evaluation = Evaluation(slot.trial.number, end, self._measure(slot.state, self._splits(slot.trial, end)))
        if not np.isfinite(list(evaluation.metrics.values())).all():
            last = Evaluation(slot.trial.number, end, {"global_step": float(end)})
            return [self._ended(slot, rows, last, Status.DIVERGED)]
        if end % every == 0:  # an evaluation at an end elsewhere is not one of the schedule's
            self._react(slot, evaluation)
        if end == slot.trial.last:
            return [self._ended(slot, rows, evaluation, Status.COMPLETE)]
        return [Progress(slot.trial.number, [rows], evaluation, None, slot.state.events)]

    def _initial(self, config: RunConfig, seed: int) -> TrainState:
        return initial_state(config, seed, self.data, self.device, self.dtype)

    def _ended(self, slot: _Slot, rows: Rows, evaluation: Evaluation | None, status: Status) -> Progress:
        self._slot = None
        state = slot.state if status is Status.COMPLETE else None
        return Progress(slot.trial.number, [rows], evaluation, status, slot.state.events, state)

    def _react(self, slot: _Slot, evaluation: Evaluation) -> None:
        """Let the schedule's reactions see an evaluation; what happens redraws the rest of the curve."""
        state, schedule = slot.state, slot.trial.config.schedule.after(*slot.state.events)
        state.memories, happened = schedule.react(state.memories, evaluation.step, evaluation.metrics)
        if happened:
            state.events += happened
            slot.redraw()
        if state.mistakes is not None:
            state.mistakes.zero_()
            state.seen = 0

    def _train(self, slot: _Slot, begin: int, end: int) -> Rows:
        """The updates begin..end-1; their rows end with the first whose loss is not finite."""
        config, model, optimizer = slot.trial.config, slot.state.model, slot.state.optimizer
        clip_norm, recorded = config.optimizer.clip_norm, recorded_group(optimizer)
        rates = np.empty(end - begin)
        losses = torch.empty(end - begin, device=self.device, dtype=self.dtype)
        model.train()
        for row, (inputs, targets) in enumerate(slot.state.batches.range(begin, end)):
            set_rate(optimizer, slot.curve[begin + row])
            optimizer.zero_grad(set_to_none=True)
            losses[row] = self._backward(slot.state, inputs, targets, config.train.accumulate)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            rates[row] = recorded["lr"]
            if slot.state.average is not None and config.average.decay is not None:
                update_average(slot.state.average, model, config.average.decay, begin + row)
        slot.state.global_step = end
        loss_column = losses.double().cpu().numpy() if self.device.type != "mps" else losses.cpu().double().numpy()
        broken = np.flatnonzero(~np.isfinite(loss_column))
        kept = int(broken[0]) + 1 if broken.size else end - begin
        return Rows(slot.trial.number, begin, rates[:kept], loss_column[:kept])

    def _backward(self, state: TrainState, inputs: Tensor, targets: Tensor, accumulate: int) -> Tensor:
        """The mean loss over a batch; its gradient is added to the parameters', micro-batch by micro-batch."""
        if accumulate == 1:
            loss = self._loss(state, inputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        total = torch.zeros((), device=self.device, dtype=self.dtype)
        for part, expected in zip(inputs.tensor_split(accumulate), targets.tensor_split(accumulate), strict=True):
            if len(part):  # the last batch of an epoch may have fewer examples than micro-batches
                loss = self._loss(state, part, expected) * (len(part) / len(inputs))
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return total

    def _loss(self, state: TrainState, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss; the mistakes among the examples are counted where a reaction asks."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs = state.model(inputs)
            loss: Tensor = self.loss(outputs, targets)
        if state.mistakes is not None:
            state.mistakes += (outputs.detach().argmax(dim=1) != targets).sum()
            state.seen += len(inputs)
        return loss

    def _splits(self, trial: Trial, step: int) -> dict[str, Split]:
        """What is evaluated after `step` updates: the validation split; at the end of a final trial the test split."""
        tested = trial.final and step == trial.last and len(self.data.test) > 0
        return {"val": self.data.val} | ({"test": self.data.test} if tested else {})

    def _measure(self, state: TrainState, splits: Mapping[str, Split]) -> dict[str, float]:
        """The metrics on the splits, those of the averaged weights with _ema, and the global step.

        Weights and optimizer are left as they were.
        """
        with evaluated_weights(state.model, state.optimizer):
            metrics = self._evaluate(state.model, splits)
        if state.average is not None:
            with averaged_weights(state.model, state.average):
                averaged = self._evaluate(state.model, splits)
            metrics |= {f"{name}_ema": value for name, value in averaged.items()}
        if state.mistakes is not None:
            metrics[TRAIN_ERROR] = float(state.mistakes) / state.seen
        return metrics | {"global_step": float(state.global_step)}

    @torch.no_grad()
    def _evaluate(self, model: nn.Module, splits: Mapping[str, Split]) -> dict[str, float]:
        """Mean loss over each split, and the accuracy of a classification: val_loss, val_accuracy, test_loss, ..."""
        model.eval()
        metrics = {}
        for name, split in splits.items():
            loss = torch.zeros((), device=self.device, dtype=self.dtype)
            correct = torch.zeros((), device=self.device, dtype=torch.int64)
            for first in range(0, len(split), EVALUATION_BATCH):
                inputs = split.inputs[first : first + EVALUATION_BATCH].to(self.device)
                targets = split.targets[first : first + EVALUATION_BATCH].to(self.device)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                    outputs = model(inputs)
                    loss += self.loss(outputs, targets) * len(inputs)
                if self.data.classification:
                    correct += (outputs.argmax(dim=1) == targets).sum()
            metrics[f"{name}_loss"] = float(loss) / len(split)
            if self.data.classification:
                metrics[f"{name}_accuracy"] = float(correct) / len(split)
        return metrics
