"""Compute the losses and metrics of the built-in tasks from a model's outputs and the targets."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sweep.data.loading import LABEL_PADDING
from sweep.errors import InvalidValueError
from sweep.tasks import (
    ACCURACY,
    BITS_PER_CHARACTER,
    LOSS,
    PERPLEXITY,
    RMSE,
    ClassificationConfig,
    LanguageModelConfig,
    RegressionConfig,
    SegmentationConfig,
    TaskConfig,
)

Totals = dict[str, tuple[Tensor, Tensor | int]]
"""Name -> weighted sum over examples, and sum of the weights. The quotient of their sums is the mean over batches."""


class Loss(Protocol):
    """Computes the loss and the metrics of a task."""

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the mean loss of a batch; None if it has weights, or must be computed from `values`."""

    def values(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the values [n, ...] and None, or the values and their weights, both [n, ...]."""

    def totals(self, outputs: Tensor, targets: Tensor) -> Totals:
        """Return the totals of the metrics over a batch."""

    def finished(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of a split, given the means of the loss and of the totals over the split."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse outputs of a wrong shape.

        Raises:
            ValueError: names the shape that they must have.
        """


class Labels:
    """Computes the cross entropy and the accuracy of labels.

    An augmentation may replace labels by class probabilities [n, classes, ...], which have a cross entropy only.

    Args:
        task: the configuration of the task.
        n_outputs: number of classes; 0 if it is not known.
        left_out: label that is ignored; None if no label is.
    """

    def __init__(
        self, task: TaskConfig, n_outputs: int, left_out: int | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.task, self.n_outputs, self.left_out = task, n_outputs, left_out
        self.smoothing: float = getattr(task, "label_smoothing", 0.0)
        self.top_k = task.top_k if isinstance(task, ClassificationConfig) else None
        self.dice_weight = task.dice_weight if isinstance(task, SegmentationConfig) else 0.0
        self.class_weights: Tensor | None = None
        given = getattr(task, "class_weights", None)
        if given is not None:
            if len(given) != n_outputs:
                rule = f"must have {n_outputs} entries, one for each class"
                raise InvalidValueError("task.class_weights", list(given), rule)
            self.class_weights = torch.tensor(given, device=device, dtype=dtype)
        if self.top_k is not None and n_outputs and self.top_k >= n_outputs:
            rule = f"must be less than the number of classes, {n_outputs}"
            raise InvalidValueError("task.top_k", self.top_k, rule)

    def __repr__(self) -> str:
        return f"Labels({self.task!r}, {self.n_outputs})"

    def scores(self, outputs: Tensor) -> Tensor:
        """Return the outputs as [n, classes, ...]."""
        return outputs.movedim(-1, 1) if isinstance(self.task, LanguageModelConfig) else outputs

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        if self.class_weights is not None or self.left_out is not None or self.dice_weight:
            return None
        expected = self.scores(targets) if targets.is_floating_point() else targets
        return functional.cross_entropy(self.scores(outputs), expected, label_smoothing=self.smoothing)

    def values(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        if targets.is_floating_point():
            return functional.cross_entropy(
                self.scores(outputs),
                self.scores(targets),
                self.class_weights,
                reduction="none",
                label_smoothing=self.smoothing,
            ), None
        scores, weights = self.scores(outputs), self._weights(targets)
        known = self._known(targets)
        entropy = functional.cross_entropy(  # 0 for ignored labels
            scores,
            targets,
            self.class_weights,
            ignore_index=LABEL_PADDING if self.left_out is None else self.left_out,
            reduction="none",
            label_smoothing=self.smoothing,
        )
        if self.class_weights is not None:  # cross_entropy has multiplied by them
            entropy = entropy / self.class_weights[known]
        if not self.dice_weight:
            return entropy, weights
        if weights is None:
            return entropy.flatten(1).mean(1) + self.dice_weight * self._soft_dice(scores, known, None), None
        of_example = weights.flatten(1).sum(1)
        means = (entropy * weights).flatten(1).sum(1) / torch.where(of_example > 0, of_example, 1)
        return means + self.dice_weight * self._soft_dice(scores, known, self._counted(targets)), None

    def totals(self, outputs: Tensor, targets: Tensor) -> Totals:
        scores, weights = self.scores(outputs), self._weights(targets)
        right = {ACCURACY: scores.argmax(dim=1) == targets}
        if self.top_k is not None:
            largest = scores.topk(self.top_k, dim=1).indices
            right[f"top{self.top_k}_{ACCURACY}"] = (largest == targets.unsqueeze(1)).any(dim=1)
        if weights is None:
            return {name: (correct.sum(), targets.numel()) for name, correct in right.items()}
        return {name: ((correct * weights).sum(), weights.sum()) for name, correct in right.items()}

    def finished(self, means: Mapping[str, float]) -> dict[str, float]:
        found = dict(means)
        if isinstance(self.task, LanguageModelConfig):
            with np.errstate(over="ignore"):
                found[PERPLEXITY] = float(np.exp(means[LOSS]))
            found[BITS_PER_CHARACTER] = means[LOSS] / float(np.log(2)) / self.task.characters_per_token
        return found

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point():
            if outputs.shape != targets.shape:
                given, wanted = list(outputs.shape), list(targets.shape)
                raise ValueError(
                    f"it returns {given}, and dataset.augment returns targets {wanted}; the shapes must be equal"
                )
            return
        n, *positions = targets.shape
        classes = [self.n_outputs] if self.n_outputs else ["classes"]
        if not isinstance(self.task, LanguageModelConfig):
            _check_shape(outputs, [n, *classes, *positions])
            return
        larger = (
            self.n_outputs and outputs.shape[-1] > self.n_outputs
        )  # a vocabulary may be larger than that of the text
        _check_shape(outputs, [n, *positions, *(["classes"] if larger else classes)])

    def mistakes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return which labels are predicted wrongly, in the shape of the targets."""
        return self.scores(outputs).detach().argmax(dim=1) != targets

    def _counted(self, targets: Tensor) -> Tensor | None:
        return None if self.left_out is None else targets != self.left_out

    def _known(self, targets: Tensor) -> Tensor:
        """Return the labels, with class 0 in place of ignored ones."""
        return targets if self.left_out is None else targets.masked_fill(targets == self.left_out, 0)

    def _weights(self, targets: Tensor) -> Tensor | None:
        """Return the weight of each label; None if all weights are equal."""
        counted = self._counted(targets)
        if self.class_weights is None:
            return None if counted is None else counted.to(torch.get_default_dtype())
        weights = self.class_weights[self._known(targets)]
        return weights if counted is None else weights * counted

    def _soft_dice(self, scores: Tensor, known: Tensor, counted: Tensor | None) -> Tensor:
        """Return 1 - the soft Dice coefficient of each example, [n]."""
        probabilities = scores.softmax(1)
        classes = torch.arange(scores.shape[1], device=scores.device).reshape((1, -1) + (1,) * (known.ndim - 1))
        expected = (known.unsqueeze(1) == classes).to(probabilities.dtype)
        if counted is not None:
            probabilities, expected = probabilities * counted.unsqueeze(1), expected * counted.unsqueeze(1)
        both = (probabilities * expected).flatten(2).sum(2)
        either = probabilities.flatten(2).sum(2) + expected.flatten(2).sum(2)
        return 1 - ((2 * both + 1) / (either + 1)).mean(1)


class Dice:
    """Computes the Dice coefficient of a segmentation over a split, from the batches that it collects.

    Args:
        left_out: label of ignored pixels; None if no pixels are ignored.
    """

    def __init__(self, left_out: int | None) -> None:
        self.left_out = left_out
        self.reset()

    def reset(self) -> None:
        self._both: Tensor | None = None
        self._either: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        classes, predicted = outputs.shape[1], outputs.argmax(1)
        counted = torch.ones_like(targets, dtype=torch.bool) if self.left_out is None else targets != self.left_out
        predicted, expected = predicted[counted], targets[counted]
        both = torch.bincount(expected[predicted == expected], minlength=classes)
        either = torch.bincount(predicted, minlength=classes) + torch.bincount(expected, minlength=classes)
        self._both = both if self._both is None else self._both + both
        self._either = either if self._either is None else self._either + either

    def compute(self) -> float:
        assert self._both is not None
        assert self._either is not None
        seen = self._either > 0
        return float((2 * self._both[seen].double() / self._either[seen].double()).mean())


class Numbers:
    """Computes the error of predicted numbers.

    Args:
        task: the configuration of the task.
    """

    def __init__(self, task: TaskConfig) -> None:
        self.task = task

    def __repr__(self) -> str:
        return f"Numbers({self.task!r})"

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        return self._error(outputs, targets, "mean")

    def values(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._error(outputs, targets, "none"), None

    def _error(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        if isinstance(self.task, RegressionConfig) and self.task.error == "l1":
            return functional.l1_loss(outputs, targets, reduction=reduction)
        if isinstance(self.task, RegressionConfig) and self.task.error == "huber":
            return functional.huber_loss(outputs, targets, reduction=reduction, delta=self.task.delta)
        return functional.mse_loss(outputs, targets, reduction=reduction)

    def totals(self, outputs: Tensor, targets: Tensor) -> Totals:
        if not isinstance(self.task, RegressionConfig):
            return {}
        squares = functional.mse_loss(outputs, targets, reduction="none").flatten(1).mean(1)
        return {RMSE: (squares.sum(), len(targets))}

    def finished(self, means: Mapping[str, float]) -> dict[str, float]:
        if not isinstance(self.task, RegressionConfig):  # a user's metric may have the name RMSE
            return dict(means)
        return {name: float(np.sqrt(value)) if name == RMSE else value for name, value in means.items()}

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        _check_shape(outputs, list(targets.shape))


def _check_shape(outputs: Tensor, expected: list[Any]) -> None:
    """Refuse outputs whose shape is not `expected`, in which a text matches any number."""
    shape = list(outputs.shape)
    fits = len(shape) == len(expected) and all(
        isinstance(e, str) or e == s for s, e in zip(shape, expected, strict=True)
    )
    if not fits:
        n = expected[0]
        examples = "1 example" if n == 1 else f"{n} examples"
        wanted = ", ".join(map(str, expected))
        raise ValueError(f"it returns {shape} for {examples}, not [{wanted}]")


def loss_of(task: TaskConfig, targets: Tensor, n_outputs: int, device: torch.device, dtype: torch.dtype) -> Loss:
    """Return the loss of a built-in task for a data set.

    Args:
        targets: targets of the data set. Only their shape and type are used.
        n_outputs: number of classes; 0 if it is not known.

    Raises:
        InvalidValueError: names the key of `task` that does not suit the data set.
    """
    labels = not targets.is_floating_point()
    task.check_targets(labels)
    if not labels:
        return Numbers(task)
    if targets.ndim == 1 and isinstance(task, SegmentationConfig | LanguageModelConfig):
        rule = f"needs labels of the {'pixels' if isinstance(task, SegmentationConfig) else 'tokens'} of each example"
        raise InvalidValueError("task", task.name, f"{rule}; those of the data set are [examples]")
    if targets.ndim != 1 and type(task) is TaskConfig:
        rule = "labels must be [examples]; task=language_model, segmentation or classification takes several of each"
        raise InvalidValueError("dataset.y", f"labels {list(targets.shape[1:])} of an example", rule)
    padded = LABEL_PADDING if targets.ndim > 1 else None  # with which labels of several lengths are padded
    return Labels(task, n_outputs, padded if task.ignored_label is None else task.ignored_label, device, dtype)
