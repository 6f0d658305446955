"""Build the loss and the metrics of a configured task, as functions of a model and a batch."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from sweep.components import Component
from sweep.data.batch import TARGETS, size, target_of
from sweep.data.loading import LABEL_PADDING
from sweep.errors import InvalidValueError
from sweep.tasks import (
    DICE,
    LOSS,
    CustomConfig,
    Direction,
    LanguageModelConfig,
    ModelConfig,
    SegmentationConfig,
    TaskConfig,
)
from sweep.training.losses import Dice, Labels, Loss, Totals, loss_of

Criterion = Callable[[Tensor, Tensor], Any]
"""Takes (outputs, targets) and returns the mean over a batch, a value for each example, or a pair (values, weights)."""

WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss)
"""Losses of torch.nn whose mean may be weighted, so that it may differ from the mean with reduction="none"."""


class UnsuitableLossError(ValueError):
    """Raised if a loss returns one number for a batch where a value for each example is needed."""


@dataclass(frozen=True)
class Objective:
    """Base class of the loss and the metrics of a task on one device.

    `outputs` calls the model; the other methods use its result.

    Args:
        task: the configuration of the task.
        measures: name -> user's metric that is a function of (outputs, targets).
        meters: name -> metric that collects batches, with `update`, `compute` and `reset`.
    """

    task: TaskConfig
    measures: Mapping[str, Criterion] = field(default_factory=dict, kw_only=True)
    meters: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def outputs(self, model: Callable[..., Any], batch: Any) -> Any:
        """Call the model on a batch, and return the result for the other methods."""
        raise NotImplementedError

    def result(self, outputs: Any, batch: Any) -> Any:
        """Return the loss of a batch: its mean, a value for each example, or a pair (values, weights)."""
        raise NotImplementedError

    def loss(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor | int]:
        """Return the mean loss of a batch and the number of examples.

        If the loss has weights, return the weighted sum and the sum of the weights, because the weights of a part of a
        batch may be 0.
        """
        return reduced(self.result(outputs, batch), size(batch))

    def values(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return the loss of each example, [n], and None; or values and their weights, both [n, ...].

        Raises:
            UnsuitableLossError: if the loss returns one number for a batch.
        """
        return values_of(self.result(outputs, batch), size(batch))

    def gives_values(self, outputs: Any, batch: Any) -> bool:
        """Return whether the loss returns a value for each example. A user's loss is called to find out."""
        try:
            self.values(outputs, batch)
        except UnsuitableLossError:
            return False
        return True

    def metrics(self, outputs: Any, batch: Any) -> Totals:
        """Return the totals of all metrics over a batch, except of the loss and of the meters."""
        if not self.measures:
            return {}
        predicted, targets = self.judged(outputs, batch)
        return {
            name: total_of(*reduced(measure(predicted, targets), size(batch), f"task.metrics.{name}"))
            for name, measure in self.measures.items()
        }

    def judged(self, outputs: Any, batch: Any) -> tuple[Tensor, Any]:
        """Return the outputs and the targets as arguments of metrics.

        Raises:
            TypeError: if the model returns no predictions.
        """
        return prediction(outputs), target_of(batch)

    def finished(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of a split, given the means over its examples."""
        return dict(means)

    def directions(self, labels: bool) -> Mapping[str, Direction | None]:
        """Return the direction of each metric; None for a metric that cannot be study.metric.

        Args:
            labels: whether the targets of the data set are labels.
        """
        return self.task.directions(labels)

    def mistakes(self, outputs: Any, batch: Any) -> Tensor:
        """Return which examples are misclassified, [n].

        Raises:
            InvalidValueError: names the task if it has no classes.
        """
        raise InvalidValueError("task", self.task.name, "has no training error, which warmup=until_error needs")

    def check(self, outputs: Any, batch: Any) -> None:
        """Refuse outputs from which the loss cannot be computed.

        Raises:
            TypeError, ValueError: describes what the model must return.
        """

    def try_metric(self, name: str, outputs: Any, batch: Any) -> float:
        """Return the value of a user's metric over one batch."""
        if name in self.measures:
            total, weight = self.metrics(outputs, batch)[name]
            return quotient(total, weight)
        meter = self.meters[name]
        meter.reset()
        meter.update(*self.judged(outputs, batch))
        value = float(meter.compute())
        meter.reset()
        return value

    # --- metrics that collect batches

    def reset(self) -> None:
        """Reset the meters."""
        for meter in self.meters.values():
            meter.reset()

    def update(self, outputs: Any, batch: Any) -> None:
        """Pass a batch to the meters."""
        for meter in self.meters.values():
            meter.update(*self.judged(outputs, batch))

    def collected(self) -> dict[str, float]:
        """Return the metrics of the meters over the batches since the last reset."""
        return {name: float(meter.compute()) for name, meter in self.meters.items()}

    @property
    def code(self) -> list[Any]:
        """Return the user's objects that are called, on whose code a compiled update depends."""
        return list(self.measures.values())


@dataclass(frozen=True)
class OutputObjective(Objective):
    """An objective that is a function of a model's outputs and the targets.

    Args:
        own: the built-in loss and metrics of the task.
        criterion: the user's loss; None for the built-in one.
        each: the user's loss with reduction="none"; None if it has no such form.
    """

    own: Loss
    criterion: Criterion | None = None
    each: Criterion | None = None

    def __repr__(self) -> str:
        return f"OutputObjective({self.own!r})"

    def outputs(self, model: Callable[..., Any], batch: Any) -> Any:
        return _with_inputs(model, batch)

    def judged(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        if isinstance(self.task, LanguageModelConfig) and isinstance(outputs, tuple) and len(outputs) == 2:
            outputs = outputs[0]  # a recurrent network returns its state, too
        predicted, targets = prediction(outputs), target_of(batch)
        if not isinstance(self.own, Labels) and predicted.ndim == 2 and targets.ndim != 2:
            targets = targets.reshape(
                len(targets), -1
            )  # targets [n] may be predicted as [n, 1], and images as [n, pixels]
        elif not isinstance(self.own, Labels) and predicted.ndim == 1 and targets.shape == (len(targets), 1):
            targets = targets.squeeze(1)
        return predicted, targets

    def result(self, outputs: Any, batch: Any) -> Any:
        predicted, targets = self.judged(outputs, batch)
        if self.criterion is not None:
            return self.criterion(predicted, targets)
        mean = self.own.mean(predicted, targets)
        return self.own.values(predicted, targets) if mean is None else mean

    def values(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor | None]:
        predicted, targets = self.judged(outputs, batch)
        if self.criterion is not None:
            return values_of((self.each or self.criterion)(predicted, targets), len(targets))
        values, weights = self.own.values(predicted, targets)
        return values_of(values if weights is None else (values, weights), len(targets))

    def metrics(self, outputs: Any, batch: Any) -> Totals:
        return self.own.totals(*self.judged(outputs, batch)) | super().metrics(outputs, batch)

    def finished(self, means: Mapping[str, float]) -> dict[str, float]:
        return self.own.finished(means)

    def mistakes(self, outputs: Any, batch: Any) -> Tensor:
        predicted, targets = self.judged(outputs, batch)
        if not isinstance(self.own, Labels) or targets.ndim != 1:
            return super().mistakes(outputs, batch)
        return self.own.mistakes(predicted, targets)

    def check(self, outputs: Any, batch: Any) -> None:
        predicted, targets = self.judged(outputs, batch)
        of_torch = isinstance(self.criterion, nn.Module) and type(self.criterion).__module__.startswith("torch.nn.")
        if self.criterion is None or isinstance(self.own, Labels) or of_torch:  # torch would broadcast other shapes
            self.own.check(predicted, targets)

    @property
    def code(self) -> list[Any]:
        return [*([] if self.criterion is None else [self.criterion]), *super().code]


@dataclass(frozen=True)
class ModelObjective(Objective):
    """An objective that the model computes itself: its forward pass returns the loss."""

    def __repr__(self) -> str:
        return f"ModelObjective({self.task!r})"

    def outputs(self, model: Callable[..., Any], batch: Any) -> Any:
        if isinstance(batch, Mapping):
            if batch.keys() == {"x", "y"}:
                return model(batch["x"], batch["y"])
            return model(**{name: batch[name] for name in _accepted(model, list(batch)) or batch})
        return model(*batch) if isinstance(batch, tuple) else model(batch)

    def result(self, outputs: Any, batch: Any) -> Tensor:
        return loss_in(outputs)

    def check(self, outputs: Any, batch: Any) -> None:
        loss_in(outputs)


@dataclass(frozen=True)
class CustomObjective(Objective):
    """The objective of a user's task.

    Args:
        own: the task, with `loss(model, batch)` and optionally `metrics(model, batch)` and `directions`.
    """

    own: Any

    def __repr__(self) -> str:
        return f"CustomObjective({self.task!r})"

    def outputs(self, model: Callable[..., Any], batch: Any) -> Any:
        return model

    def result(self, outputs: Any, batch: Any) -> Any:
        return self.own.loss(outputs, batch)

    def metrics(self, outputs: Any, batch: Any) -> Totals:
        measured = getattr(self.own, "metrics", None)
        found = {} if measured is None else measured(outputs, batch)
        if not isinstance(found, Mapping):
            rule = "must return a mapping of names to tensors"
            raise TypeError(f"metrics(model, batch) {rule}; {described(found)}")
        return {str(name): total_of(*reduced(value, size(batch), str(name))) for name, value in found.items()}

    def directions(self, labels: bool) -> Mapping[str, Direction | None]:
        return {LOSS: "minimize", **declared_directions(self.own, self.task.components[0])}

    @property
    def code(self) -> list[Any]:
        return [self.own]


def declared_directions(task: Any, component: Component) -> dict[str, Direction]:
    """Return the directions of metrics that a user's task declares.

    Raises:
        InvalidValueError: names task._target_ if they are not a mapping of names to minimize or maximize.
    """
    found = getattr(task, "directions", {})
    valid = isinstance(found, Mapping) and all(value in ("minimize", "maximize") for value in found.values())
    if not valid:
        rule = f'has directions={found!r}, which must be a mapping of names to "minimize" or "maximize"'
        raise InvalidValueError("task._target_", component.target, rule)
    return dict(found)


def custom_task(component: Component) -> Any:
    """Build the user's task that a component names.

    Raises:
        InvalidValueError: names task._target_ if it has no method `loss`.
    """
    own = component.function()
    if not callable(getattr(own, "loss", None)):
        raise InvalidValueError("task._target_", component.target, "must have a method loss(model, batch)")
    return own


def objective_of(task: TaskConfig, example: Any, n_outputs: int, device: torch.device, dtype: torch.dtype) -> Objective:
    """Build the objective of a task for a data set.

    Args:
        example: a batch of the data set, with any number of examples.
        n_outputs: number of classes, or width of the target; 0 if it is not known.

    Raises:
        InvalidValueError: names the key of `task` that does not suit the data set, or the code that cannot be called.
    """
    called = {name: _placed(metric.component, device, dtype) for name, metric in task.metrics.items()}
    meters = {name: found for name, found in called.items() if _collects(found)}
    measures = {name: found for name, found in called.items() if name not in meters}
    if isinstance(task, CustomConfig):
        if called:
            rule = (
                f"cannot be used with {task.component.target}, whose method metrics(model, batch) computes the metrics"
            )
            raise InvalidValueError("task.metrics", ", ".join(called), rule)
        return CustomObjective(task, custom_task(task.component))
    if isinstance(task, ModelConfig):
        return ModelObjective(task, measures=measures, meters=meters)
    targets = target_of(example)
    if not isinstance(targets, Tensor):
        rule = "needs a target, the array y or labels: task=model takes the loss that the model returns, and"
        raise InvalidValueError("task", task.name, f"{rule} task._target_=... names a task of your own")
    if isinstance(task, SegmentationConfig):
        meters = {DICE: Dice(LABEL_PADDING if task.ignore_index is None else task.ignore_index), **meters}
    criterion = None if task.loss is None else _placed(task.loss, device, dtype)
    if task.loss is not None and isinstance(criterion, nn.Module):
        _check_module(task.loss, criterion)
    own = loss_of(task, targets, n_outputs, device, dtype)
    return OutputObjective(task, own, criterion, _each(criterion, own), measures=measures, meters=meters)


# --- calling a model


def _with_inputs(model: Callable[..., Any], batch: Any) -> Any:
    """Call a model with the inputs of a batch.

    A single array x, and all but the last entry of a tuple, are positional arguments. Arrays with other names are
    keyword arguments, if the model has parameters of their names.
    """
    if isinstance(batch, Mapping):
        names = [name for name in batch if name not in TARGETS]
        accepted = _accepted(model, names) if names != ["x"] else names
        if "x" in names and not [name for name in accepted if name != "x"]:
            return model(batch["x"])
        return model(**{name: batch[name] for name in accepted or names})
    if isinstance(batch, tuple) and len(batch) > 1:
        return model(*batch[:-1])
    return model(batch)


def _accepted(model: Callable[..., Any], names: list[str]) -> list[str]:
    """Return the names that are parameters of a model's forward method."""
    known = _parameters(type(model).forward) if isinstance(model, nn.Module) else None
    return names if known is None else [name for name in names if name in known]


@lru_cache(256)
def _parameters(forward: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names of the parameters of a forward method; None if it takes any."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (ValueError, TypeError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def prediction(outputs: Any) -> Tensor:
    """Return the predictions in a model's result.

    They are the result itself, its `.logits` or `["logits"]`, or the only tensor with an axis in a tuple.

    Raises:
        TypeError: if there is none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(found, Tensor):
        return found
    if isinstance(outputs, tuple):
        tensors = [entry for entry in outputs if isinstance(entry, Tensor) and entry.ndim]
        if len(tensors) == 1:
            return tensors[0]
    rule = "forward must return a tensor of predictions, or an object or mapping with logits; task=model takes a loss"
    raise TypeError(f"{rule}; {described(outputs)}")


def loss_in(outputs: Any) -> Tensor:
    """Return the loss in a model's result: a number or a tensor [n], the only number in a tuple, `["loss"]`, `.loss`.

    Raises:
        TypeError: if there is none.
    """
    found = outputs
    if isinstance(outputs, tuple) and not hasattr(outputs, "loss"):
        numbers = [entry for entry in outputs if isinstance(entry, Tensor) and entry.ndim == 0]
        found = numbers[0] if len(numbers) == 1 else None
    elif not isinstance(outputs, Tensor):
        found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        rule = "forward must return its loss: a number, a tensor [n], a tuple or mapping that contains it, or an object"
        raise TypeError(f"{rule} with .loss; {described(outputs)}")
    return found


# --- losses and metrics of users


def _check_module(component: Component, criterion: nn.Module) -> None:
    """Refuse a loss that is not a mean over examples or has parameters."""
    if getattr(criterion, "reduction", "mean") == "sum":
        raise InvalidValueError("task.loss.reduction", "sum", "must be mean or none: the loss of a batch is a mean")
    for name, _ in criterion.named_parameters():
        rule = f"has the parameter {name}, which no optimizer trains: only the model may have parameters"
        raise InvalidValueError("task.loss._target_", component.target, rule)


def _placed(component: Component, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the function of a component, or the object of its class, on the device."""
    built = component.function()
    if hasattr(built, "to"):  # a module of torch, or a metric of torchmetrics
        built = built.to(device)
    return built.to(dtype) if isinstance(built, nn.Module) and not _collects(built) else built


def _collects(found: Any) -> bool:
    return all(callable(getattr(found, name, None)) for name in ("update", "compute", "reset"))


def _each(criterion: Any, own: Loss) -> Any:
    """Return a loss of torch.nn with reduction="none"; None if its mean would differ."""
    if isinstance(criterion, WEIGHTED) and isinstance(own, Labels) and own.left_out is not None:
        return None
    if not isinstance(criterion, nn.Module) or getattr(criterion, "reduction", None) != "mean":
        return None
    if isinstance(criterion, WEIGHTED) and (criterion.weight is not None or criterion.ignore_index >= 0):
        return None
    each: Any = copy.copy(criterion)
    each.reduction = "none"
    return each


def reduced(result: Any, examples: int, key: str = "task.loss") -> tuple[Tensor, Tensor | int]:
    """Return the mean of a loss or metric over a batch, and the number of examples.

    If it has weights, return the weighted sum and the sum of the weights.
    """
    if isinstance(result, Tensor) and result.ndim == 0:
        return result, examples
    values, weights = values_of(result, examples, key)
    return (values.mean(), examples) if weights is None else ((values * weights).sum(), weights.sum())


def total_of(value: Tensor, weight: Tensor | int) -> tuple[Tensor, Tensor | int]:
    """Return the weighted sum and the sum of the weights, given the result of `reduced`."""
    return value if isinstance(weight, Tensor) else value * weight, weight


def quotient(total: Tensor | float, weight: Tensor | float) -> float:
    """Return total / weight; nan if weight is 0."""
    return float(total) / float(weight) if float(weight) else float("nan")


def values_of(result: Any, examples: int, key: str = "task.loss") -> tuple[Tensor, Tensor | None]:
    """Return the values of a batch and their weights, both [n, ...]; without weights the values of the examples, [n].

    Both have at least single precision. Weights get no gradient, which would depend on how a batch is divided.

    Raises:
        UnsuitableLossError: if the loss or metric returns one number.
        TypeError: if it does not return tensors.
        ValueError: if their shapes are wrong.
    """
    pair = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    values, weights = pair
    if not isinstance(values, Tensor) or not (weights is None or isinstance(weights, Tensor)):
        raise TypeError(f"{key} must return a tensor, or a pair of tensors (values, weights); {described(result)}")
    if values.ndim == 0 and weights is None:
        raise UnsuitableLossError(f"{key} returns one number for a batch, not one for each example")
    if len(values.shape) == 0 or len(values) != examples or (weights is not None and weights.shape != values.shape):
        rule = f"must return a number, or one for each of the {examples} examples, or a pair (values, weights)"
        raise ValueError(f"{key} {rule}; {described(result)}")
    if not values.is_floating_point() or values.dtype.itemsize < 4:
        values = values.float()
    if weights is not None:
        return values, weights.detach().to(values.dtype)
    return (values if values.ndim == 1 else values.flatten(1).mean(1)), None


def described(result: Any) -> str:
    """Describe the result of a function for a message."""
    if isinstance(result, Tensor):
        return f"it returned a tensor {list(result.shape)}"
    if isinstance(result, tuple):
        return f"it returned a tuple of {', '.join(described(one).removeprefix('it returned ') for one in result)}"
    if result is None:
        return "it returned None"
    if isinstance(result, Mapping):
        return f"it returned a mapping with {', '.join(map(str, result)) or 'nothing'}"
    return f"it returned {'an' if type(result).__name__[0] in 'aeiou' else 'a'} {type(result).__name__}"
