"""The typed configuration of the group task: which loss is trained, and which metrics are measured beside it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.validation import Integer, Number, OneOf, Positive, check_keys, check_number, check_one_of

Direction = Literal["minimize", "maximize"]

LOSS, ACCURACY, RMSE, PERPLEXITY, BITS, DICE = "loss", "accuracy", "rmse", "perplexity", "bits_per_character", "dice"
"""Names of metrics of our own. They are recorded as val_loss, test_loss and so on."""


class Task:
    """How a batch becomes a loss and metrics: the base class of a task of the user's, which need not inherit from it.

    A batch has the structure of the data set: a mapping of names to tensors, a tuple or a tensor, whose first axis
    counts examples. The loss of an update is the weighted mean over its batch, however the batch is divided.
    """

    directions: Mapping[str, Direction] = {}
    """name -> "minimize" or "maximize", of those metrics by which a study can be judged."""

    def loss(self, model: Any, batch: Any) -> Any:
        """Return the loss of a batch.

        It is a tensor [n] with a value for each of n examples, the mean as one number, or a pair (values, weights) of
        tensors [n, ...], whose weights say how much each value counts.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method loss(model, batch)")

    def metrics(self, model: Any, batch: Any) -> Mapping[str, Any]:
        """Return the metrics of a batch: name -> what `loss` may return. They are recorded as val_<name>."""
        return {}


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
            check_one_of("direction", self.direction, ("minimize", "maximize"))


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
    def left_out(self) -> int | None:
        """Return the label that does not count; None if all count."""
        return getattr(self, "ignore_index", None)

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


def _check_class_weights(weights: Sequence[float] | None) -> None:
    if weights is None:
        return
    if not isinstance(weights, (list, tuple)):
        raise InvalidValueError("class_weights", weights, "must be a list of numbers, one a class")
    for weight in weights:
        check_number("class_weights", weight, above=0)


@dataclass(frozen=True)
class ClassificationConfig(TaskConfig):
    """A classification: cross entropy of labels as the loss, and accuracy as a metric.

    Args:
        label_smoothing: 0 <= label_smoothing < 1; that part of the target is spread over all classes.
        class_weights: > 0, one for each class; loss and metrics are means that are weighted by that of the label.
        ignore_index: the label of examples that do not count; None if all count.
        top_k: >= 2; also measures `top<k>_accuracy`, whether the label is among the k largest outputs. None: it is not
            measured.
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


@dataclass(frozen=True)
class LanguageModelConfig(TaskConfig):
    """A language model: outputs [n, tokens, vocabulary], targets [n, tokens]. The loss is the cross entropy per token.

    It also measures `accuracy`; `perplexity`, exp(loss); and `bits_per_character`, loss / ln 2 / characters_per_token.

    Args:
        ignore_index: the label of tokens that do not count, such as padding.
        characters_per_token: > 0, the mean over the text; 1 if tokens are characters.
    """

    name = "language_model"
    classifies = True

    ignore_index: Annotated[int, Integer(at_least=-(2**31))] = -100
    characters_per_token: Positive = 1.0

    def own_directions(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize", ACCURACY: "maximize", PERPLEXITY: "minimize", BITS: "minimize"}


@dataclass(frozen=True)
class SegmentationConfig(TaskConfig):
    """A segmentation: outputs [n, classes, H, W], targets [n, H, W]. The loss is the cross entropy per pixel.

    It also measures `accuracy`, of pixels, and `dice`: the mean over the classes of 2 |A and B| / (|A| + |B|), where A
    are the pixels of a split that are predicted to be of the class and B those that are; a class in neither is left
    out.

    Args:
        label_smoothing, class_weights: as of a classification.
        ignore_index: the label of pixels that do not count; None if all count.
        dice_weight: >= 0. With w > 0 the loss of an example is (its mean cross entropy) + w * (1 - its soft Dice),
            where the soft Dice is the mean over classes of (2 sum p t + 1) / (sum p + sum t + 1) over its pixels, with
            the probabilities p and the targets t in {0, 1}; then every example counts alike.
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

    def own_directions(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize", ACCURACY: "maximize", DICE: "maximize"}


@dataclass(frozen=True)
class ModelConfig(TaskConfig):
    """A model that returns its own loss.

    It is called with the whole batch: with the arrays x and y as `forward(x, y)`, with arrays of other names by
    keyword. It returns the loss as a number or a tensor [n], a tuple or mapping that contains it, or an object with
    `.loss`.
    """

    name = "model"

    def __post_init__(self) -> None:
        if self.loss is not None:
            raise InvalidValueError("loss", self.loss.target, "is not for task=model, whose models return their loss")
        super().__post_init__()

    def own_directions(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize"}


@dataclass(frozen=True)
class CustomConfig(TaskConfig):
    """A task of the user's.

    Args:
        component: a class whose objects have `loss(model, batch)`, and perhaps `metrics(model, batch)` and
            `directions`, as `Task` describes; or such an object.
        declared: the directions that the class declares; they are known where its code may be imported.
    """

    name = "custom"

    component: Component = field(kw_only=True)
    declared: Mapping[str, Direction] = field(default_factory=dict, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if self.loss is not None:
            rule = f"is not for {self.component.target}, which has a loss of its own"
            raise InvalidValueError("loss", self.loss.target, rule)
        super().__post_init__()

    @property
    def components(self) -> tuple[Component, ...]:
        return (self.component, *super().components)

    def own_directions(self, labels: bool) -> dict[str, Direction]:
        return {LOSS: "minimize", **self.declared}


AUTO = TaskConfig()

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
"""The tasks by their names in conf/task."""
