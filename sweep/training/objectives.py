"""The loss that a task trains and the metrics that it measures, as functions of a model's outputs and the targets."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sweep.components import Component, locate
from sweep.errors import InvalidValueError
from sweep.tasks import ACCURACY, RMSE, ClassificationConfig, RegressionConfig, TaskConfig

Criterion = Callable[[Tensor, Tensor], Any]
"""Takes (outputs, targets) and returns the mean over a batch, a value for each example, or a pair (values, weights)."""

Totals = dict[str, tuple[Tensor, Tensor | int]]
"""name -> the weighted sum over examples, and the sum of the weights. A mean over several batches is their quotient."""

WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss)
"""Losses of torch.nn whose mean may be weighted, so that it is not the mean of what reduction="none" gives."""


class UnsuitableLossError(ValueError):
    """The loss gives one number for a batch where one for each example is needed."""


@dataclass(frozen=True)
class Objective:
    """The loss and the metrics of a task for one data set, on one device.

    Args:
        task: its configuration.
        labels: whether targets are labels.
        class_weights: [n_outputs], of a classification that has them.
        criterion: the user's loss; None for that of the task.
        each: the user's loss in the form that gives a value for each example; None if it has none.
        measures: name -> a metric of the user's that is a function.
        meters: name -> a metric of the user's that collects batches: it has `update`, `compute` and `reset`.
    """

    task: TaskConfig
    labels: bool
    class_weights: Tensor | None = None
    criterion: Criterion | None = None
    each: Criterion | None = None
    measures: Mapping[str, Criterion] = field(default_factory=dict)
    meters: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Objective({self.task!r}, labels={self.labels})"

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        """Return the mean loss of a batch and the number of examples; if the loss has weights, its weighted sum and the
        sum of the weights.

        The sum is not divided here, because a part of a batch may have no weight.
        """
        if self.criterion is not None:
            return reduced(self.criterion(outputs, targets), len(targets))
        if self.class_weights is not None:
            return reduced(self.values(outputs, targets), len(targets))
        return self._own(outputs, targets, "mean"), len(targets)

    def values(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the loss of each example, [n], and None; or values and their weights, both [n, ...].

        Raises:
            UnsuitableLossError: if the loss gives one number for a batch.
        """
        if self.criterion is not None:
            return values_of((self.each or self.criterion)(outputs, targets), len(targets))
        losses = self._own(outputs, targets, "none")
        if self.class_weights is None:
            return (losses if self.labels else losses.flatten(1).mean(1)), None
        weights = self.class_weights[targets]
        return losses / weights, weights

    def gives_values(self, outputs: Tensor, targets: Tensor) -> bool:
        """Return whether the loss gives a value for each example; a loss of the user's is called to find out."""
        try:
            self.values(outputs, targets)
        except UnsuitableLossError:
            return False
        return True

    def _own(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        """Return the loss of the task; with class weights and reduction "none" it is multiplied by them."""
        task = self.task
        if isinstance(task, ClassificationConfig):
            weights, smoothing = self.class_weights, task.label_smoothing
            return functional.cross_entropy(outputs, targets, weights, reduction=reduction, label_smoothing=smoothing)
        if self.labels:
            return functional.cross_entropy(outputs, targets, reduction=reduction)
        if isinstance(task, RegressionConfig) and task.error == "l1":
            return functional.l1_loss(outputs, targets, reduction=reduction)
        if isinstance(task, RegressionConfig) and task.error == "huber":
            return functional.huber_loss(outputs, targets, reduction=reduction, delta=task.delta)
        return functional.mse_loss(outputs, targets, reduction=reduction)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Totals:
        """Return the totals of all metrics over a batch, except of the loss and of the meters."""
        found: Totals = {}
        if self.labels:
            right = {ACCURACY: outputs.argmax(dim=1) == targets}
            if isinstance(self.task, ClassificationConfig) and self.task.top_k is not None:
                largest = outputs.topk(self.task.top_k, dim=1).indices
                right[f"top{self.task.top_k}_{ACCURACY}"] = (largest == targets.unsqueeze(1)).any(dim=1)
            weights = None if self.class_weights is None else self.class_weights[targets]
            for name, correct in right.items():
                if weights is None:
                    found[name] = correct.sum(), len(targets)
                else:
                    found[name] = (correct * weights).sum(), weights.sum()
        if isinstance(self.task, RegressionConfig):
            squares = functional.mse_loss(outputs, targets, reduction="none").flatten(1).mean(1)
            found[RMSE] = squares.sum(), len(targets)
        for name, measure in self.measures.items():
            found[name] = total_of(*reduced(measure(outputs, targets), len(targets), f"task.metrics.{name}"))
        return found

    def try_metric(self, name: str, outputs: Tensor, targets: Tensor) -> float:
        """Return a metric of the user's over one batch."""
        if name in self.measures:
            total, weight = self.metrics(outputs, targets)[name]
            return quotient(total, weight)
        meter = self.meters[name]
        meter.reset()
        meter.update(outputs, targets)
        value = float(meter.compute())
        meter.reset()
        return value

    def finished(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of a split, given the means over its examples: of the squared error the root."""
        if not isinstance(self.task, RegressionConfig):
            return dict(means)
        return {name: float(np.sqrt(value)) if name == RMSE else value for name, value in means.items()}

    def mistakes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return which examples are misclassified, [n]."""
        return outputs.detach().argmax(dim=1) != targets

    # --- metrics that collect batches

    def reset(self) -> None:
        """Let the meters forget what they have collected."""
        for meter in self.meters.values():
            meter.reset()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Give the meters a batch."""
        for meter in self.meters.values():
            meter.update(outputs, targets)

    def collected(self) -> dict[str, float]:
        """Return what the meters make of the batches since the last reset."""
        return {name: float(meter.compute()) for name, meter in self.meters.items()}


def objective_of(task: TaskConfig, labels: bool, n_outputs: int, device: torch.device, dtype: torch.dtype) -> Objective:
    """Build the loss and the metrics of a task.

    Args:
        labels: whether the targets of the data set are labels.
        n_outputs: number of classes, or width of the target.

    Raises:
        InvalidValueError: names the key of `task` that does not suit the data set, or the code that cannot be called.
    """
    task.check_targets(labels)
    weights = None
    if isinstance(task, ClassificationConfig):
        if task.class_weights is not None:
            if len(task.class_weights) != n_outputs:
                rule = f"must have {n_outputs} entries, one for each class"
                raise InvalidValueError("task.class_weights", list(task.class_weights), rule)
            weights = torch.tensor(task.class_weights, device=device, dtype=dtype)
        if task.top_k is not None and task.top_k >= n_outputs:
            rule = f"must be less than the number of classes, {n_outputs}"
            raise InvalidValueError("task.top_k", task.top_k, rule)
    criterion = None if task.loss is None else _callable(task.loss, device, dtype)
    if task.loss is not None and isinstance(criterion, nn.Module):
        _check_module(task.loss, criterion)
    called = {name: _callable(metric.component, device, dtype) for name, metric in task.metrics.items()}
    meters = {name: found for name, found in called.items() if _collects(found)}
    measures = {name: found for name, found in called.items() if name not in meters}
    return Objective(task, labels, weights, criterion, _each(criterion), measures, meters)


def _check_module(component: Component, criterion: nn.Module) -> None:
    """Refuse a loss that is no mean over examples, or that has parameters."""
    if getattr(criterion, "reduction", "mean") == "sum":
        raise InvalidValueError("task.loss.reduction", "sum", "must be mean or none: the loss of a batch is a mean")
    for name, _ in criterion.named_parameters():
        rule = f"has the parameter {name}, which no optimizer trains: it must be one of the model"
        raise InvalidValueError("task.loss._target_", component.target, rule)


def _callable(component: Component, device: torch.device, dtype: torch.dtype) -> Any:
    """Return an object of the class that a component names, or the function with its arguments bound."""
    found = locate(component.key, component.target, component.trusted)
    if not inspect.isclass(found):
        component.check()
        return partial(found, **component.arguments) if component.arguments else found
    built = component.build()
    if hasattr(built, "to"):  # a module of torch, or a metric of torchmetrics
        built = built.to(device)
    return built.to(dtype) if isinstance(built, nn.Module) and not _collects(built) else built


def _collects(found: Any) -> bool:
    return all(callable(getattr(found, name, None)) for name in ("update", "compute", "reset"))


def _each(criterion: Any) -> Any:
    """Return a loss of torch.nn in the form that gives a value for each example; None where that has another mean."""
    if not isinstance(criterion, nn.Module) or getattr(criterion, "reduction", None) != "mean":
        return None
    if isinstance(criterion, WEIGHTED) and (criterion.weight is not None or criterion.ignore_index >= 0):
        return None
    each: Any = copy.copy(criterion)
    each.reduction = "none"
    return each


def reduced(result: Any, examples: int, key: str = "task.loss") -> tuple[Tensor, Tensor | int]:
    """Return the mean that a loss or metric gives for a batch and the number of examples; if it gives weights, the
    weighted sum and the sum of the weights.
    """
    if isinstance(result, Tensor) and result.ndim == 0:
        return result, examples
    values, weights = values_of(result, examples, key)
    return (values.mean(), examples) if weights is None else ((values * weights).sum(), weights.sum())


def total_of(value: Tensor, weight: Tensor | int) -> tuple[Tensor, Tensor | int]:
    """Return the weighted sum and the sum of the weights, given what `reduced` returns."""
    return value if isinstance(weight, Tensor) else value * weight, weight


def quotient(total: Tensor | float, weight: Tensor | float) -> float:
    """Return total / weight; nan if no example has a weight."""
    return float(total) / float(weight) if float(weight) else float("nan")


def values_of(result: Any, examples: int, key: str = "task.loss") -> tuple[Tensor, Tensor | None]:
    """Return the values of a batch and their weights, both [n, ...]; without weights the values of the examples, [n].

    Both are at least of single precision. No gradient flows through weights: it would depend on how a batch is divided.

    Raises:
        UnsuitableLossError: if the loss or metric gives one number.
        TypeError: if it gives no tensors.
        ValueError: if their shapes are wrong.
    """
    pair = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    values, weights = pair
    if not isinstance(values, Tensor) or not (weights is None or isinstance(weights, Tensor)):
        raise TypeError(f"{key} must return a tensor, or a pair of tensors (values, weights); {_described(result)}")
    if values.ndim == 0 and weights is None:
        raise UnsuitableLossError(f"{key} gives one number for a batch, not one for each example")
    if len(values.shape) == 0 or len(values) != examples or (weights is not None and weights.shape != values.shape):
        rule = f"must return a number, or one for each of the {examples} examples, or a pair (values, weights)"
        raise ValueError(f"{key} {rule}; {_described(result)}")
    if not values.is_floating_point() or values.dtype.itemsize < 4:
        values = values.float()
    if weights is not None:
        return values, weights.detach().to(values.dtype)
    return (values if values.ndim == 1 else values.flatten(1).mean(1)), None


def _described(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"it returned a tensor {list(result.shape)}"
    if isinstance(result, tuple):
        return f"it returned a tuple of {', '.join(_described(one).removeprefix('it returned ') for one in result)}"
    return f"it returned {'an' if type(result).__name__[0] in 'aeiou' else 'a'} {type(result).__name__}"
