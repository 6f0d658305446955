"""The serial engine: one slot, plain PyTorch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sweep.config import RunConfig
from sweep.core import Evaluation, Progress, Rows, Status, Trial
from sweep.data import Dataset, Split
from sweep.training.device import DTYPES
from sweep.training.state import RandomState, TrainState, initial_state
from sweep.validation import InvalidValueError

EVALUATION_BATCH = 4096
"""Examples evaluated at once."""


@dataclass
class _Slot:
    trial: Trial
    state: TrainState
    curve: list[float]


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
        state = self._initial(config, config.train.seed)
        last = state.batches.per_epoch - 1
        try:
            for first in {0, last}:  # the last batch of an epoch may be smaller
                inputs, targets = next(state.batches.range(first, first + 1))
                outputs, expected = state.model(inputs), (len(inputs), self.data.n_outputs)
                if outputs.shape != expected:
                    raise ValueError(f"it gives {list(outputs.shape)} for {len(inputs)} examples, not {list(expected)}")
                self._loss(state.model, inputs, targets).backward()  # type: ignore[no-untyped-call]
        except (AttributeError, RuntimeError, TypeError, ValueError, IndexError) as error:
            rule = f"cannot be trained on examples of shape {list(self.data.input_shape)}: {error}"
            raise InvalidValueError("model._target_", config.model.target, rule) from error

    def start(self, trial: Trial) -> None:
        state = self._initial(trial.config, trial.seed)
        curve = trial.config.schedule.curve(trial.config.train.steps).tolist()
        self._slot = _Slot(trial, state, curve)

    def stop(self, trial: Trial) -> None:
        self._slot = None

    def advance(self) -> list[Progress]:
        slot = self._slot
        if slot is None:
            return []
        horizon, every = slot.trial.config.train.steps, slot.trial.config.train.eval_every
        begin = slot.state.global_step
        end = min(horizon, (begin // every + 1) * every)
        slot.state.random.restore(self.device)
        rows = self._train(slot, begin, end)
        if not np.isfinite(rows.loss[-1]):
            slot.state.global_step = begin + len(rows.lr)
            last = Evaluation(slot.trial.number, begin + len(rows.lr), {"global_step": float(begin + len(rows.lr))})
            return [self._ended(slot, rows, last, Status.DIVERGED)]
        evaluation = Evaluation(slot.trial.number, end, self._evaluate(slot.state, self.data.val))
        slot.state.random = RandomState.capture(self.device)
        if not np.isfinite(evaluation.metrics["val_loss"]):
            last = Evaluation(slot.trial.number, end, {"global_step": float(end)})
            return [self._ended(slot, rows, last, Status.DIVERGED)]
        if end == horizon:
            return [self._ended(slot, rows, evaluation, Status.COMPLETE)]
        return [Progress(slot.trial.number, [rows], evaluation, None)]

    def _initial(self, config: RunConfig, seed: int) -> TrainState:
        return initial_state(config, seed, self.data, self.device, self.dtype)

    def _ended(self, slot: _Slot, rows: Rows, evaluation: Evaluation | None, status: Status) -> Progress:
        self._slot = None
        return Progress(slot.trial.number, [rows], evaluation, status)

    def _train(self, slot: _Slot, begin: int, end: int) -> Rows:
        """The updates begin..end-1; their rows end with the first whose loss is not finite."""
        model, optimizer = slot.state.model, slot.state.optimizer
        clip_norm = slot.trial.config.optimizer.clip_norm
        rates = np.empty(end - begin)
        losses = torch.empty(end - begin, device=self.device, dtype=self.dtype)
        model.train()
        for row, (inputs, targets) in enumerate(slot.state.batches.range(begin, end)):
            for group in optimizer.param_groups:
                group["lr"] = slot.curve[begin + row]
            optimizer.zero_grad(set_to_none=True)
            loss = self._loss(model, inputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            rates[row] = optimizer.param_groups[0]["lr"]
            losses[row] = loss.detach()
        slot.state.global_step = end
        loss_column = losses.double().cpu().numpy() if self.device.type != "mps" else losses.cpu().double().numpy()
        broken = np.flatnonzero(~np.isfinite(loss_column))
        kept = int(broken[0]) + 1 if broken.size else end - begin
        return Rows(slot.trial.number, begin, rates[:kept], loss_column[:kept])

    def _loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss: Tensor = self.loss(model(inputs), targets)
            return loss

    @torch.no_grad()
    def _evaluate(self, state: TrainState, split: Split) -> dict[str, float]:
        """Mean loss over a split, the accuracy of a classification, and the global step."""
        state.model.eval()
        loss = torch.zeros((), device=self.device, dtype=self.dtype)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        for first in range(0, len(split), EVALUATION_BATCH):
            inputs = split.inputs[first : first + EVALUATION_BATCH].to(self.device)
            targets = split.targets[first : first + EVALUATION_BATCH].to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                outputs = state.model(inputs)
                loss += self.loss(outputs, targets) * len(inputs)
            if self.data.classification:
                correct += (outputs.argmax(dim=1) == targets).sum()
        metrics = {"val_loss": float(loss) / len(split), "global_step": float(state.global_step)}
        if self.data.classification:
            metrics["val_accuracy"] = float(correct) / len(split)
        return metrics
