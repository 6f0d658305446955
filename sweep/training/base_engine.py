"""The base of the engines: a data set on a device, the gradient of a batch, and the checks of a configuration."""

import copy
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sweep.config import RunConfig, TrainConfig
from sweep.core import Evaluation, Rows, Trial
from sweep.data import Dataset, Examples, LoadedSplit
from sweep.data.batch import divided, leaves, mapped, size, target_of
from sweep.errors import InvalidValueError
from sweep.messages import Ranking
from sweep.plurals import plural
from sweep.schedules import Reaction
from sweep.tasks import LOSS, CustomConfig
from sweep.tracebacks import refusal
from sweep.training.batches import in_order
from sweep.training.contents import Contents, changes, described, named, restore, same, unchanged
from sweep.training.costs import examples_within, operations_of
from sweep.training.device import AUTOCAST, CPU, DTYPES
from sweep.training.dropout import set_draws, update_key
from sweep.training.generators import generators_kept, seed_generators
from sweep.training.model import silenced
from sweep.training.objectives import (
    CustomObjective,
    Objective,
    OutputObjective,
    objective_of,
    prediction,
    quotient,
    reduced,
)
from sweep.training.state import TRAIN_ERROR, TrainState, initial_state, loss_scaler
from sweep.training.state_io import packed, refuse_unstorable, unpacked
from sweep.training.weights import state_dict_of

PROBE_SECONDS = 1.0
"""Seconds after which a measurement of an engine's speed starts no further round."""

UNRECORDED_ROWS_BYTES, CHECKPOINT_GROWTH = 2**28, 32
"""Bytes of a checkpoint for rows that are not recorded yet, and the factor by which its first size may grow."""


@dataclass
class RowBuffer:
    """Collects the rows of one optimizer of a trial until they are taken.

    Args:
        first: the update of the first row.
        series: one of core.SERIES.
    """

    trial: int
    first: int = 0
    series: str = ""
    lr: list[np.ndarray] = field(default_factory=list)
    loss: list[np.ndarray] = field(default_factory=list)

    def add(self, lr: np.ndarray, loss: np.ndarray) -> None:
        """Append the rows of the next n updates: float64 [n] each."""
        self.lr.append(lr)
        self.loss.append(loss)

    def take(self) -> list[Rows]:
        """Remove and return all rows as one block; return an empty list if there are none."""
        if not self.lr:
            return []
        rows = Rows(self.trial, self.first, np.concatenate(self.lr), np.concatenate(self.loss), self.series)
        self.first, self.lr, self.loss = self.first + len(rows.lr), [], []
        return [rows]


class BaseEngine:
    """Holds the data set that all trials of an engine share, and computes losses and gradients on it.

    Args:
        data: the data set.
        device: the device to train on.
        precision: float32, bf16 and fp16 (autocast, fp16 with a loss scale), or float64.

    Attributes:
        pause: called between two updates; returns whether the engine stops there, before the next boundary. An engine
            makes at least one update between two pauses.
        ranking: decides which complete trials return their weights; None if no trial does.
    """

    def __init__(self, data: Dataset, device: torch.device, precision: str) -> None:
        self.device, self.dtype = device, DTYPES[precision]
        self.autocast = AUTOCAST.get(precision)
        self.data = data.place(device, self.dtype)
        self.pause: Callable[[], bool] = lambda: False
        self.ranking: Ranking | None = None
        self._examples_within: dict[str, int] = {}
        self._operations: dict[str, float] = {}

    def initial(self, config: RunConfig, seed: int) -> TrainState:
        """Return the state before update 0."""
        return initial_state(config, seed, self.data, self.device, self.dtype)

    def beginning(self, trial: Trial) -> TrainState:
        """Return the state that a trial starts from: the one before update 0, or the stored one that it resumes from.

        Raises:
            InvalidValueError: if the stored state does not belong to this training.
        """
        if trial.state is None:
            return self.initial(trial.config, trial.seed)
        return unpacked(trial.state, trial, self.data, self.device)

    def check(self, config: RunConfig) -> None:
        """Check that a configuration can be trained: use batches of both sizes, store and restore the state, evaluate.

        Raises:
            InvalidValueError: names what cannot be trained or stored.
        """
        self._check_batch(config)
        state, examples = self.initial(config, config.train.seed), config.train.batch_size
        objective = state.objective
        assert objective is not None  # AdversarialEngine has its own check
        known = [f"val_{name}" for name in objective.directions(self.data.classification)]
        known += [f"{name}_ema" for name in known] if state.average is not None else []
        known += [TRAIN_ERROR] if self.data.classification else []
        for group, part in (("warmup", config.warmup), ("schedule", config.decay)):
            if isinstance(part, Reaction) and part.watches not in known:
                key, value = f"{group}.{part.condition}", getattr(part, part.condition)
                raise InvalidValueError(key, value, f"waits for {part.watches}; this training has {', '.join(known)}")
        if state.scaler is not None:  # with the default scale the first updates may be skipped
            state.scaler = loss_scaler(self.device, 1.0)
        entries = state.model.state_dict().keys()
        state.model.train()
        try:
            before = described(state.model)
            for first in sorted({0, state.batches.per_epoch - 1}):  # the last batch of an epoch may be smaller
                if state.batches.augmentation is not None:
                    (batch,) = state.batches.plain(first, first + 1)
                    state.batches.augmentation.check(batch, state.batches.numbers(first, size(batch)))
                (batch,) = state.batches.range(first, first + 1)
                examples = size(batch)
                outputs = objective.outputs(state.model, batch)
                objective.check(outputs, batch)
                self._check_objective(objective, outputs, batch, config)
                (batch,) = state.batches.range(first, first + 1)  # a new copy: the model may have changed the first one
                for part in divided(batch, config.train.workers):
                    if size(part):
                        part = mapped(torch.Tensor.detach, part)
                        self.backward(state, part, config.train.accumulate, config.train.seed, first)
        except InvalidValueError:
            raise
        except (Exception, SystemExit) as error:
            seed = config.train.seed
            self._refuse_single(config, examples, error, lambda batch: self.backward(state, batch, 1, seed, 0))
            rule = f"cannot be trained on examples of shape {shape_text(self.data.input_shape)}: {refusal(error)}"
            rule += self._hint(config)
            raise InvalidValueError("model._target_", config.model.target, rule) from error
        try:
            make_update(state, None)
        except (Exception, SystemExit) as error:
            rule = f"cannot update this model: {refusal(error)}"
            raise InvalidValueError("optimizer._target_", config.optimizer.component.target, rule) from error
        if changed := sorted(entries ^ state.model.state_dict().keys()):
            rule = f"creates or removes {changed[0]} in its forward pass: only what its constructor creates is trained"
            rule = f"{rule} and stored in checkpoints (nn.LazyLinear takes its shape from the data)"
            raise InvalidValueError("model._target_", config.model.target, rule)
        with silenced():
            fresh = self.initial(config, config.train.seed)
        refuse_unstorable(state, before, fresh, config)
        if config.train.workers > 1:
            self._check_workers(state, config.train)
        self._check_evaluation(config, state.model)

    def _check_evaluation(self, config: RunConfig, model: nn.Module) -> None:
        """Check that a model can be evaluated, on a number of validation examples that differs from the batch size."""
        examples = config.train.batch_size + 1
        batch = next(in_order(self.data.val[:examples], examples, self.device))
        objective = objective_of(config.task, batch, self.data.n_outputs, self.device, self.dtype)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model.eval()
        try:
            with torch.no_grad(), self.computing():
                outputs = objective.outputs(model, batch)
                objective.check(outputs, batch)
                objective.loss(outputs, batch)
                if isinstance(objective, CustomObjective):
                    self._check_custom_means(objective, model, batch, config)
        except InvalidValueError:
            raise
        except (Exception, SystemExit) as error:
            rule = f"cannot be evaluated (in eval mode) on {plural(size(batch), 'example')} of shape"
            rule = f"{rule} {shape_text(self.data.input_shape)}: {refusal(error)}"
            raise InvalidValueError("model._target_", config.model.target, rule) from error
        changed = [name for name, parameter in model.named_parameters() if not same(parameter.detach(), before[name])]
        if changed:
            rule = f"changes {changed[0]} in an evaluation: its result would depend on train.eval_every"
            raise InvalidValueError("model._target_", config.model.target, rule)

    def _hint(self, config: RunConfig) -> str:
        """Return advice if a model fails because its inputs are integers, or were integers before standardizing."""
        if "Long" not in str(sys.exc_info()[1]):
            return ""
        if config.dataset.standardize:
            return " (dataset.standardize=true made floats of x; dataset.standardize=false keeps integers)"
        inputs = leaves(self.data.train.example)[0]
        if inputs.is_floating_point():
            return ""
        return " (x contains integers; dataset.standardize=true converts them to floats)"

    def _check_objective(self, objective: Objective, outputs: Any, batch: Any, config: RunConfig) -> None:
        """Refuse a user's loss or metric that fails on a batch, or returns neither a mean nor values.

        Raises:
            InvalidValueError: names the key of `task`.
        """
        loss, tried = config.task.loss, list[tuple[str, str, Callable[[], object]]]()
        if isinstance(config.task, CustomConfig):
            target = config.task.component.target
            tried.append(("task", target, lambda: objective.loss(outputs, batch)))
            tried.append(("task", target, lambda: _check_names(objective.metrics(outputs, batch))))
        if loss is not None or config.task.metrics:
            outputs = mapped(lambda part: part.detach() if isinstance(part, Tensor) else part, outputs)
        if loss is not None:
            tried.append(("task.loss", loss.target, lambda: objective.loss(outputs, batch)))
        for name, metric in config.task.metrics.items():
            call = partial(objective.try_metric, name, outputs, batch)
            tried.append((f"task.metrics.{name}", metric.component.target, call))
        criterion = objective.criterion if isinstance(objective, OutputObjective) else None
        kept = copy.deepcopy(criterion.state_dict()) if isinstance(criterion, nn.Module) else {}
        for key, target, attempt in tried:
            try:
                attempt()
            except (Exception, SystemExit) as error:
                rule = f"fails on {_shapes(outputs, batch)}: {refusal(error)}"
                raise InvalidValueError(f"{key}._target_", target, rule) from error
        for name, value in kept.items():
            if loss is not None and not same(value, criterion.state_dict()[name]):  # type: ignore[union-attr]
                rule = f"changes its buffer {name} when it is called, which checkpoints do not store"
                raise InvalidValueError("task.loss._target_", loss.target, rule)
        self._check_means(objective, outputs, batch, config)

    @staticmethod
    def _check_means(objective: Objective, outputs: Any, batch: Any, config: RunConfig) -> None:
        """Refuse a metric that returns one number for a batch and is not a mean: it would depend on the batch size."""
        half = size(batch) // 2
        if not half or not objective.measures:
            return
        predicted = prediction(outputs)
        whole = objective.metrics(predicted, batch)
        halves = [mapped(itemgetter(part), (predicted, batch)) for part in (slice(half), slice(half, None))]
        parts = [objective.metrics(*of_half) for of_half in halves]
        for name in objective.measures:
            if differs := _not_a_mean(whole[name], [part[name] for part in parts], size(batch)):
                rule = f"is not a mean over examples ({differs}): a class with update, compute and reset can measure it"
                target = config.task.metrics[name].component.target
                raise InvalidValueError(f"task.metrics.{name}._target_", target, rule)

    def _refuse_single(
        self, config: RunConfig, examples: int, error: BaseException, train: Callable[[Any], object]
    ) -> None:
        """Refuse train.batch_size if a model cannot be trained on one example but on two, as with BatchNorm.

        Args:
            examples: number of examples in the batch that the model failed on.
            error: the error that it raised.
            train: computes the gradient of a batch.

        Raises:
            InvalidValueError: names train.batch_size and the batch, or part of a batch, that has one example.
        """
        settings, split = config.train, self.data.train
        smallest_part = max(max(examples // settings.workers, 1) // settings.accumulate, 1)
        if smallest_part > 1 or len(split) < 2:
            return
        try:
            train(next(in_order(split[:2], 2, self.device)))
        except Exception:  # the number of examples is not the reason
            return
        last = examples < settings.batch_size
        batch = f"the last batch of an epoch of {len(split)} examples" if last else "every batch"
        keys = [key for key in ("workers", "accumulate") if getattr(settings, key) > 1] if examples > 1 else []
        divided = " and ".join(f"train.{key}={getattr(settings, key)}" for key in keys)
        found = f"{batch} has one example"
        if divided:
            found = f"{batch} has {examples} examples, and {divided} divides it into parts of which one has one example"
        reason = str(error).strip().partition("\n")[0]
        fewer = f", or a smaller {' or '.join(f'train.{key}' for key in keys)}" if keys else ""
        remedy = "train.drop_last=true omits it, or choose a different" if last else "choose a larger"
        rule = f"{found}, on which {config.model.target} cannot be trained ({reason}); {remedy} batch size{fewer}"
        raise InvalidValueError("train.batch_size", settings.batch_size, rule) from error

    def _check_workers(self, state: TrainState, train: TrainConfig) -> None:
        """Refuse a model whose loss depends on attributes that the examples change.

        Workers share parameters and buffers only, so such a model would differ among the workers.
        """
        model, last = state.model, state.batches.per_epoch - 1
        (batch,) = state.batches.range(last, last + 1)
        parts = divided(batch, train.workers)

        def loss_of(part: Any) -> float:
            seed_generators(0)
            return float(self.backward(state, mapped(torch.clone, part), train.accumulate, train.seed, last)[0])

        def restore_copy(contents: Contents) -> None:
            restore(copy.deepcopy(contents), model, self.device)

        before, after = described(model), []
        for part in (parts[0], parts[-1]):
            restore_copy(before)
            if size(part):  # a worker without an example does nothing
                loss_of(part)
            after.append(described(model))
        first, differing = after[0], [key for key in changes(*after) if key[0] in ("attribute", "extra", "tensor")]
        losses = []
        for own in after:
            shared = {key: value for key, value in first.items() if key not in differing}
            restore_copy(shared | {key: own[key] for key in differing if key in own})
            losses.append(loss_of(parts[0]))
        if losses[0] != losses[1]:
            rule = f"share parameters and buffers only, and {named(differing)} of the model would differ among them"
            raise InvalidValueError("train.workers", train.workers, f"{rule}; a buffer would not")

    @staticmethod
    def _check_custom_means(objective: CustomObjective, model: nn.Module, batch: Any, config: RunConfig) -> None:
        """Refuse a metric of a user's task that is not a mean over examples, unless it draws random numbers."""
        half = size(batch) // 2
        first, second = objective.metrics(model, batch), objective.metrics(model, batch)
        parts = [objective.metrics(model, mapped(itemgetter(rows), batch)) for rows in (slice(half), slice(half, None))]
        for name, whole in first.items():
            differs = _not_a_mean(whole, [part[name] for part in parts], size(batch))
            if differs and quotient(*whole) == quotient(*second[name]):
                rule = (
                    f"measures {name}, which is not a mean over examples ({differs}): return a value for each example"
                )
                raise InvalidValueError("task._target_", config.task.components[0].target, rule)

    def _check_batch(self, config: RunConfig) -> None:
        n_train = len(self.data.train)
        if config.train.batch_size > n_train:
            rule = f"must be at most the training split, which has {n_train} examples"
            raise InvalidValueError("train.batch_size", config.train.batch_size, rule)

    def backward(
        self,
        state: TrainState,
        batch: Any,
        accumulate: int,
        seed: int,
        step: int,
        first_row: int = 0,
        of: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the loss of a batch, and add its gradient to that of the parameters, micro-batch by micro-batch.

        With fp16 the gradient is multiplied by the loss scale; `make_update` divides by it.

        For a part of a batch, the loss and the gradient are multiplied by the part's share of the examples, so that
        their sums over the parts are those of the whole batch.

        Args:
            accumulate: number of micro-batches.
            seed, step: seed of the training and number of the update, which determine the dropout masks.
            first_row: row of the batch at which the part begins.
            of: number of examples of the whole batch; None if `batch` is the whole batch.

        Returns:
            The mean loss and None. If the loss has weights, whose sum is known only after the last micro-batch: the
            weighted sum of the loss, to which the gradient belongs, and the sum of the weights, by which the caller
            divides both.
        """
        key, whole = update_key(seed, step) if state.dropouts else 0, size(batch) if of is None else of
        if accumulate == 1 and size(batch) == whole:
            set_draws(state.dropouts, key)
            loss, weight, _ = self._loss(state, batch)
            loss = loss / weight if isinstance(weight, Tensor) else loss
            scaled(loss, state).backward()  # type: ignore[no-untyped-call]
            return loss.detach(), None
        total, weights = torch.zeros((), device=self.device, dtype=self.dtype), None
        divisor = 1
        for part in divided(batch, accumulate):
            if examples := size(part):  # the last batch of an epoch may have fewer examples than micro-batches
                set_draws(state.dropouts, key, first_row)
                # a model may write into its input, but torch refuses that for one of several views
                loss, weight, values = self._loss(state, mapped(Tensor.detach, part))
                if isinstance(weight, Tensor):
                    weights = weight if weights is None else weights + weight
                    if state.scaler is not None and divisor == 1:
                        # the loss scale suits a mean: the gradient of a sum would overflow in float16
                        divisor = _power_of_two(values * whole // examples)
                        _multiply_gradients(state.model, 1 / divisor)  # gradients of earlier calls
                else:
                    loss = loss * (examples / whole)
                scaled(loss if divisor == 1 else loss / divisor, state).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
                first_row += examples
        if divisor != 1:
            _multiply_gradients(state.model, divisor)
        return total, weights

    def _loss(self, state: TrainState, batch: Any) -> tuple[Tensor, Tensor | int, int]:
        """Return the result of `Objective.loss`, and the number of values that the mean or weighted sum is over.

        Also count the misclassified examples if a reaction needs their number.
        """
        objective = state.objective
        assert objective is not None  # None for a GAN, which AdversarialEngine trains
        with self.computing():
            outputs = objective.outputs(state.model, batch)
            result = objective.result(outputs, batch)
            loss, weight = reduced(result, size(batch))
        if state.mistakes is not None:
            state.mistakes += objective.mistakes(outputs, batch).sum()
            state.seen += size(batch)
        return loss, weight, result[0].numel() if isinstance(weight, Tensor) else size(batch)

    def computing(self) -> AbstractContextManager[object]:
        """Return an autocast context; an empty one if models compute in the precision of their parameters."""
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast)

    def operations_of_a_call(self, config: RunConfig, state: TrainState) -> float:
        """Return the mean number of floating-point operations of one torch call in the forward pass of a micro-batch.

        An example takes the counted operations, or two for each parameter if that is more.

        Args:
            state: state of a training with this configuration. Its model is evaluated once to count them.
        """
        model, objective, train = state.model, state.objective, config.train
        key = repr((config.model, config.task, train.micro_batch_size))
        if key not in self._operations:
            counted, calls = 0.0, 1
            if self.device.type == "cpu" and objective is not None:  # it is None for a GAN
                batch = next(in_order(self.data.val[:2], 2, self.device))
                with generators_kept(), unchanged(model, self.device), self.computing():
                    counted, calls = operations_of(lambda batch: objective.outputs(model.eval(), batch), batch)
            of_parameters = 2 * sum(parameter.numel() for parameter in model.parameters())
            self._operations[key] = max(counted, of_parameters) * train.micro_batch_size / max(calls, 1)
        return self._operations[key]

    def evaluated_at_once(self, config: RunConfig, state: TrainState, evaluate: Callable[[Any], object]) -> int:
        """Return the batch size of evaluations: train.eval_batch_size, or by default at least a micro-batch.

        The default is as large as fits into `EVALUATION_BYTES`, because thousands of examples at once make the
        evaluation of a small model several times as fast. It is a micro-batch if the loss returns one number for a
        batch, because the mean over a split may then depend on the batch size.

        Args:
            state: state of a training with this configuration.
            evaluate: evaluates the model of a trial on a batch.
        """
        train = config.train
        if train.eval_batch_size is not None or isinstance(self.data.val, LoadedSplit):
            return train.eval_batch_size or train.micro_batch_size
        key = repr((config.model, config.task, train.micro_batch_size))
        if key not in self._examples_within:
            batch = next(in_order(self.data.val, train.micro_batch_size, self.device))
            with generators_kept(self.device), unchanged(state.model, self.device):
                self._examples_within[key] = examples_within(evaluate, batch) if self.gives_values(config, state) else 0
        return max(self._examples_within[key], train.micro_batch_size)

    @torch.no_grad()
    def gives_values(self, config: RunConfig, state: TrainState) -> bool:
        """Return whether the loss returns a value for each example. A micro-batch may be evaluated to find out.

        Args:
            state: state of a training with this configuration.
        """
        objective = state.objective
        assert objective is not None
        if isinstance(objective, OutputObjective) and objective.criterion is None:
            return True
        (whole,) = state.batches.range(0, 1)
        batch = mapped(itemgetter(slice(config.train.micro_batch_size)), whole)
        return objective.gives_values(objective.outputs(state.model.eval(), batch), batch)

    def _weights(self, evaluation: Evaluation, state: Callable[[], TrainState]) -> bytes | None:
        """Return the weights of a trial that is complete, if it may be the best; see `state_dict_of`.

        Args:
            state: returns the last state of the trial.
        """
        ranking = self.ranking
        if ranking is None:
            return None
        value = evaluation.metrics[ranking.metric]
        if not ranking.beaten_by(value, evaluation.trial):
            return None
        if not ranking.prunes:
            self.ranking = replace(ranking, best=(value, evaluation.trial))
        return state_dict_of(state(), ranking.metric)

    def splits(self, trial: Trial, step: int) -> dict[str, Examples]:
        """Return the splits to evaluate after `step` updates: val, and at the end of a final trial also test."""
        tested = trial.final and step == trial.last and len(self.data.test) > 0
        return {"val": self.data.val} | ({"test": self.data.test} if tested else {})


def _not_a_mean(whole: tuple[Any, Any], halves: Sequence[tuple[Any, Any]], n: int) -> str | None:
    """Return a text if the metric of n examples is not the mean of that of their two halves; otherwise None.

    Args:
        whole, halves: weighted sum and sum of the weights of the metric.
    """
    total, weight = (sum(half[place] for half in halves) for place in (0, 1))
    expected, found = quotient(*whole), quotient(total, weight)
    if np.isclose(found, expected, rtol=1e-2, atol=1e-6, equal_nan=True):
        return None
    return f"{expected:.4g} for {n} examples, {found:.4g} for their halves"


def shape_text(shape: Any) -> str:
    """Return the shape of an example; of several inputs, the shape of each."""
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {shape_text(inner)}" for name, inner in shape.items())
    return str(list(shape))


def _shapes(outputs: Any, batch: Any) -> str:
    """Return the shapes of outputs and targets, or of a batch, for a message."""
    if isinstance(outputs, Tensor) and isinstance(target_of(batch), Tensor):
        return f"outputs {list(outputs.shape)} and targets {list(target_of(batch).shape)}"
    shapes = mapped(lambda tensor: tuple(tensor.shape), batch)
    return f"a batch of {shape_text(shapes) if isinstance(shapes, Mapping) else shapes}"


def _check_names(metrics: Mapping[str, object]) -> None:
    """Refuse names of metrics that cannot be recorded."""
    for name in metrics:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", name) or name.endswith("_ema") or name == LOSS:
            rule = "must be a name of letters, digits and _ that does not end in _ema and is not loss"
            raise ValueError(f"the name of a metric {rule}, not {name!r}")


def scaled(loss: Tensor, state: TrainState) -> Tensor:
    """Multiply a loss by the loss scale of fp16, so that small gradients do not underflow in float16."""
    if state.scaler is None:
        return loss
    larger: Tensor = state.scaler.scale(loss)
    return larger


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least this number. Division by it is exact."""
    return 1 << (number - 1).bit_length()


def _multiply_gradients(model: nn.Module, factor: float) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad *= factor


def make_update(state: TrainState, clip_norm: float | None) -> None:
    """Clip the gradient, and make one update with the optimizer.

    With fp16 the gradient is first divided by the loss scale. If it is not finite, the update is skipped and the scale
    is halved.
    """
    scaler, optimizer = state.scaler, state.optimizer
    if scaler is not None:
        scaler.unscale_(optimizer)  # type: ignore[arg-type]  # it uses only param_groups and step
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), clip_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)  # type: ignore[arg-type]
        scaler.update()


def boundary(trial: Trial, step: int) -> int:
    """Return the step of the next evaluation after `step`: the next multiple of train.eval_every, at most the end."""
    every = trial.config.train.eval_every
    return min(trial.last, (step // every + 1) * every)


def sound(evaluation: Evaluation) -> bool:
    """Return whether every metric is a finite number. If not, the trial has diverged."""
    return bool(np.isfinite(list(evaluation.metrics.values())).all())


def broken(trial: int, step: int) -> Evaluation:
    """Return the evaluation of a trial that has diverged after `step` updates."""
    return Evaluation(trial, step, {"global_step": float(step)})


def on_host(losses: Tensor) -> np.ndarray:
    """Return a tensor as a float64 array of the same shape on the host."""
    return losses.double().cpu().numpy() if losses.device.type != "mps" else losses.cpu().double().numpy()


@silenced()
@generators_kept()
def largest_checkpoint(config: RunConfig, data: Dataset) -> int:
    """Return a number of bytes that no checkpoint of such a training exceeds."""
    state = initial_state(config, config.train.seed, data, CPU, DTYPES[config.train.precision])
    return UNRECORDED_ROWS_BYTES + CHECKPOINT_GROWTH * len(packed(state).content)
