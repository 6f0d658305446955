"""The typed configuration of the group task: which loss is trained, and which metrics are measured beside it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.validation import OneOf, Positive, Real, Whole, check_keys, one_of, real

Direction = Literal["minimize", "maximize"]

LOSS, ACCURACY, RMSE = "loss", "accuracy", "rmse"
"""Names of metrics of our own. They are recorded as val_loss, test_loss and so on."""


@dataclass(frozen=True)
class Metric:
    """A metric that is measured beside the loss.

    Args:
        component: a function of (outputs, targets), a loss of torch.nn, or a class whose objects have the methods
            `update(outputs, targets)`, `compute()` and `reset()`, as those of torchmetrics have.
        direction: "minimize" or "maximize", for a study that is judged by it; None if none is.
    """

    component: Component
    direction: Direction | None = None

    def __post_init__(self) -> None:
        if self.direction is not None:
            one_of("direction", self.direction, ("minimize", "maximize"))


@dataclass(frozen=True)
class TaskConfig:
    """A task without options: labels have the cross entropy and the accuracy, numbers the mean squared error.

    Args:
        loss: replaces the loss of the task: a function of (outputs, targets), or a loss of torch.nn.
        metrics: name -> metric, beside those of the task.
    """

    name: ClassVar[str] = "auto"
    classifies: ClassVar[bool | None] = None
    """True if targets must be labels, False if they must be numbers, None if both are possible."""

    loss: Component | None = field(default=None, kw_only=True)
    metrics: Mapping[str, Metric] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        check_keys(self)
        for name in self.metrics:
            taken = self.own_directions(True) | self.own_directions(False)
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", name) or name.endswith("_ema") or name in taken:
                rule = "must be a name of letters, digits and _ that does not end in _ema"
                rule = f"{rule} and is none of {', '.join(taken)}"
                raise InvalidValueError("metrics", name, rule)

    @property
    def components(self) -> tuple[Component, ...]:
        """Return the code that the task names."""
        return (*(() if self.loss is None else (self.loss,)), *(metric.component for metric in self.metrics.values()))

    def own_directions(self, labels: bool) -> dict[str, Direction]:
        """Return the direction of each metric of the task itself, by its name without `val_`.

        Args:
            labels: whether the targets of the data set are labels.
        """
        return {LOSS: "minimize", ACCURACY: "maximize"} if labels else {LOSS: "minimize"}

    def directions(self, labels: bool) -> dict[str, Direction | None]:
        """Return the direction of each metric; None for a metric by which no study can be judged."""
        return {**self.own_directions(labels), **{name: metric.direction for name, metric in self.metrics.items()}}

    def check_targets(self, labels: bool) -> None:
        """Refuse a task that is not for such targets.

        Raises:
            InvalidValueError: names task.
        """
        if self.classifies is not None and self.classifies != labels:
            needed, held = ("numbers", "integers, which are labels") if labels else ("integer labels", "numbers")
            raise InvalidValueError("task", self.name, f"needs {needed} as targets, and dataset.y holds {held}")


@dataclass(frozen=True)
class ClassificationConfig(TaskConfig):
    """A classification: cross entropy of labels as the loss, and accuracy as a metric.

    Args:
        label_smoothing: 0 <= label_smoothing < 1; that part of the target is spread over all classes.
        class_weights: > 0, one for each class; loss and metrics are means that are weighted by that of the label.
        top_k: >= 2; also measures `top<k>_accuracy`, whether the label is among the k largest outputs. None: it is not
            measured.
    """

    name = "classification"
    classifies = True

    label_smoothing: Annotated[float, Real(at_least=0, below=1)] = 0.0
    class_weights: Sequence[float] | None = None
    top_k: Annotated[int, Whole(at_least=2)] | None = None

    def __post_init__(self) -> None:
        if self.class_weights is not None:
            if not isinstance(self.class_weights, (list, tuple)):
                raise InvalidValueError("class_weights", self.class_weights, "must be a list of numbers, one a class")
            for weight in self.class_weights:
                real("class_weights", weight, above=0)
        super().__post_init__()

    def own_directions(self, labels: bool) -> dict[str, Direction]:
        top: dict[str, Direction] = {} if self.top_k is None else {f"top{self.top_k}_{ACCURACY}": "maximize"}
        return {LOSS: "minimize", ACCURACY: "maximize", **top}


@dataclass(frozen=True)
class RegressionConfig(TaskConfig):
    """A regression: an error of numbers as the loss, and the root of the mean squared error as a metric.

    Args:
        error: "mse": (o - t)^2; "l1": |o - t|; "huber": (o - t)^2 / 2 up to |o - t| = delta and then delta * (|o - t| -
            delta / 2). The loss is its mean over examples and outputs.
        delta: > 0.
    """

    name = "regression"
    classifies = False

    error: Annotated[str, OneOf(("mse", "l1", "huber"))] = "mse"
    delta: Positive = 1.0

    def own_directions(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize", RMSE: "minimize"}


AUTO = TaskConfig()

TASKS: Mapping[str, type[TaskConfig]] = {
    task.name: task for task in (TaskConfig, ClassificationConfig, RegressionConfig)
}
"""The tasks by their names in conf/task."""
