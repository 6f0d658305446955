"""Defines the typed configuration of the group task: the loss that is trained, and the metrics that are measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.validation import Integer, Number, OneOf, Positive, check_keys, check_number, check_one_of

Direction = Literal["minimize", "maximize"]

LOSS, ACCURACY, RMSE, DICE = "loss", "accuracy", "rmse", "dice"
PERPLEXITY, BITS_PER_CHARACTER = "perplexity", "bits_per_character"
"""Names of built-in metrics. They are recorded as val_loss, test_loss and so on."""


class Task:
    """Computes the loss and the metrics of a batch. A user's task has these methods, and may inherit from this class.

    A batch has the structure of the data set: a mapping of names to tensors, a tuple or a tensor. The first axis counts
    examples. The loss of an update is the weighted mean over its batch, however the batch is divided.
    """

    directions: Mapping[str, Direction] = {}
    """name -> "minimize" or "maximize", for the metrics that can be `study.metric`."""

    def loss(self, model: Any, batch: Any) -> Any:
        """Return the loss of a batch.

        It is a tensor [n] with a value for each of n examples, their mean as a scalar tensor, or a pair (values,
        weights) of tensors [n, ...] for a weighted mean.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method loss(model, batch)")

    def metrics(self, model: Any, batch: Any) -> Mapping[str, Any]:
        """Return the metrics of a batch, name -> what `loss` may return. They are recorded as val_<name>."""
        return {}


@dataclass(frozen=True)
class Metric:
    """A metric that is measured in addition to those of the task.

    Args:
        component: a function of (outputs, targets), a loss of torch.nn, or a class whose objects have the methods
            `update(outputs, targets)`, `compute()` and `reset()`, as those of torchmetrics have.
        direction: "minimize" or "maximize", which `study.metric` needs; None if it is not declared.
    """

    component: Component
    direction: Direction | None = None

    def __post_init__(self) -> None:
        if self.direction is not None:
            check_one_of("direction", self.direction, ("minimize", "maximize"))


@dataclass(frozen=True)
class TaskConfig:
    """The task `auto`, which is also the base class of the others.

    The loss is cross entropy for labels, for which accuracy is measured, too, and the mean squared error for numbers.

    Args:
        loss: replaces the loss of the task; a function of (outputs, targets), or a loss of torch.nn.
        metrics: name -> metric, in addition to those of the task.
    """

    name: ClassVar[str] = "auto"
    classifies: ClassVar[bool | None] = None
    """True if targets must be labels, False if they must be numbers, None if both are possible."""

    loss: Component | None = field(default=None, kw_only=True)
    metrics: Mapping[str, Metric] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        check_keys(self)
        for name in self.metrics:
            taken = self.own_metrics(True) | self.own_metrics(False)
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", name) or name.endswith("_ema") or name in taken:
                rule = "must be a name of letters, digits and _ that does not end in _ema"
                rule = f"{rule} and is not one of {', '.join(taken)}"
                raise InvalidValueError("metrics", name, rule)

    @property
    def ignored_label(self) -> int | None:
        """Return the label of examples that are ignored; None if no label is ignored."""
        return getattr(self, "ignore_index", None)

    @property
    def components(self) -> tuple[Component, ...]:
        """Return the loss and the metrics that an import path names."""
        return (*(() if self.loss is None else (self.loss,)), *(metric.component for metric in self.metrics.values()))

    def own_metrics(self, labels: bool) -> dict[str, Direction]:
        """Return the built-in metrics of the task, named without `val_`, and their directions.

        Args:
            labels: whether the targets of the data set are labels.
        """
        return {LOSS: "minimize", ACCURACY: "maximize"} if labels else {LOSS: "minimize"}

    def directions(self, labels: bool) -> dict[str, Direction | None]:
        """Return all metrics and their directions; None for a metric without a declared direction."""
        return {**self.own_metrics(labels), **{name: metric.direction for name, metric in self.metrics.items()}}

    def check_targets(self, labels: bool) -> None:
        """Refuse a task that does not support the targets of the data set.

        Raises:
            InvalidValueError: names task.
        """
        if self.classifies is not None and self.classifies != labels:
            needed, found = ("numbers", "integers, which are labels") if labels else ("integer labels", "numbers")
            raise InvalidValueError("task", self.name, f"needs {needed} as targets, and dataset.y has {found}")


def _check_class_weights(weights: Sequence[float] | None) -> None:
    if weights is None:
        return
    if not isinstance(weights, (list, tuple)):
        raise InvalidValueError("class_weights", weights, "must be a list with one number for each class")
    for weight in weights:
        check_number("class_weights", weight, above=0)


@dataclass(frozen=True)
class ClassificationConfig(TaskConfig):
    """A classification, with cross entropy as the loss and accuracy as a metric.

    Args:
        label_smoothing: fraction of the target that is distributed over all classes, 0 <= label_smoothing < 1.
        class_weights: weight of each class, > 0. Loss and metrics are means weighted by the class of the label.
        ignore_index: label of examples that are ignored; None to ignore none.
        top_k: k >= 2 to measure `top<k>_accuracy`, too, the fraction of labels among the k largest outputs; None not
            to.
    """

    name = "classification"
    classifies = True

    label_smoothing: Annotated[float, Number(at_least=0, below=1)] = 0.0
    class_weights: Sequence[float] | None = None
    ignore_index: Annotated[int, Integer(at_least=-(2**31))] | None = None
    top_k: Annotated[int, Integer(at_least=2)] | None = None

    def __post_init__(self) -> None:
        _check_class_weights(self.class_weights)
        super().__post_init__()

    def own_metrics(self, labels: bool) -> dict[str, Direction]:
        top: dict[str, Direction] = {} if self.top_k is None else {f"top{self.top_k}_{ACCURACY}": "maximize"}
        return {LOSS: "minimize", ACCURACY: "maximize", **top}


@dataclass(frozen=True)
class RegressionConfig(TaskConfig):
    """A regression, with an error of outputs o and targets t as the loss, and the root mean squared error as a metric.

    Args:
        error: "mse" for (o - t)^2; "l1" for |o - t|; "huber" for (o - t)^2 / 2 if |o - t| <= delta, and
            delta * (|o - t| - delta / 2) otherwise. The loss is the mean over examples and outputs.
        delta: used by huber only, > 0.
    """

    name = "regression"
    classifies = False

    error: Annotated[str, OneOf(("mse", "l1", "huber"))] = "mse"
    delta: Positive = 1.0

    def own_metrics(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize", RMSE: "minimize"}


@dataclass(frozen=True)
class LanguageModelConfig(TaskConfig):
    """A language model, with cross entropy per token as the loss.

    Outputs are [n, tokens, vocabulary], targets [n, tokens]. It also measures `accuracy`, `perplexity` = exp(loss), and
    `bits_per_character` = loss / ln 2 / characters_per_token.

    Args:
        ignore_index: label of tokens that are ignored, such as padding.
        characters_per_token: mean number of characters of a token, > 0.
    """

    name = "language_model"
    classifies = True

    ignore_index: Annotated[int, Integer(at_least=-(2**31))] = -100
    characters_per_token: Positive = 1.0

    def own_metrics(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize", ACCURACY: "maximize", PERPLEXITY: "minimize", BITS_PER_CHARACTER: "minimize"}


@dataclass(frozen=True)
class SegmentationConfig(TaskConfig):
    """A segmentation, with cross entropy per pixel as the loss.

    Outputs are [n, classes, H, W], targets [n, H, W]. It also measures the `accuracy` of pixels, and `dice`: the mean
    over the classes of 2 |A and B| / (|A| + |B|), where A are the pixels of a split with the class as prediction, and B
    those with the class as label. A class without such pixels is left out.

    Args:
        label_smoothing, class_weights: as for a classification.
        ignore_index: label of pixels that are ignored; None to ignore none.
        dice_weight: w >= 0. If w > 0, the loss of an example is its mean cross entropy + w * (1 - its soft Dice), and
            all examples have the same weight. The soft Dice is the mean over classes of
            (2 sum p t + 1) / (sum p + sum t + 1) over the pixels, for probabilities p and targets t in {0, 1}.
    """

    name = "segmentation"
    classifies = True

    label_smoothing: Annotated[float, Number(at_least=0, below=1)] = 0.0
    class_weights: Sequence[float] | None = None
    ignore_index: Annotated[int, Integer(at_least=-(2**31))] | None = None
    dice_weight: Annotated[float, Number(at_least=0)] = 0.0

    def __post_init__(self) -> None:
        _check_class_weights(self.class_weights)
        super().__post_init__()

    def own_metrics(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize", ACCURACY: "maximize", DICE: "maximize"}


@dataclass(frozen=True)
class ModelConfig(TaskConfig):
    """A model that returns its own loss.

    It is called with the batch: as `forward(x, y)` if its arrays are x and y, and by keyword if they have other names.
    It returns the loss as a scalar or a tensor [n], a tuple or mapping that contains it, or an object with `.loss`.
    """

    name = "model"

    def __post_init__(self) -> None:
        if self.loss is not None:
            raise InvalidValueError(
                "loss", self.loss.target, "must be null with task=model, whose models return their loss"
            )
        super().__post_init__()

    def own_metrics(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize"}


@dataclass(frozen=True)
class CustomConfig(TaskConfig):
    """A user's task.

    Args:
        component: a class (or an object) with the methods and attributes of `Task`, of which only `loss` is required.
        declared: the directions that the class declares. The trainer fills them in, because the coordinator does not
            import the class.
    """

    name = "custom"

    component: Component = field(kw_only=True)
    declared: Mapping[str, Direction] = field(default_factory=dict, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if self.loss is not None:
            rule = f"must be null with task={self.component.target}, which has its own loss"
            raise InvalidValueError("loss", self.loss.target, rule)
        super().__post_init__()

    @property
    def components(self) -> tuple[Component, ...]:
        return (self.component, *super().components)

    def own_metrics(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize", **self.declared}


AUTO_TASK = TaskConfig()

TASKS: Mapping[str, type[TaskConfig]] = {
    task.name: task
    for task in (
        TaskConfig,
        ClassificationConfig,
        RegressionConfig,
        LanguageModelConfig,
        SegmentationConfig,
        ModelConfig,
    )
}
"""Maps the names in conf/task to the tasks."""
