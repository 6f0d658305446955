"""Augmentation: training batches changed by numbers that are a function of seed, update and row alone.

Engines, workers, micro-batches and resumed trainings therefore see the same batches, to the bit.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sweep.augmentations import Augment, CropFlip, NoAugment, key_and_value
from sweep.data.batch import inputs_of, leaves, mapped, replaced, size, target_of
from sweep.errors import InvalidValueError
from sweep.tracebacks import refusal
from sweep.training.objectives import described

STREAM = 0xA06
"""Tells these numbers from others that are drawn by seed and update: the last word of Philox's counter."""

BITS = 24
"""Bits of a number: a multiple of 2^-24 below 1 is exact in every precision of a training."""


def draws(seed: int, step: int, rows: int, n_draws: int) -> np.ndarray:
    """Return the numbers of update `step`, counted from 0: float32 [rows, n_draws], 0 <= x < 1, multiples of 2^-24.

    They are Philox4x64-10 (Salmon et al., 2011) with the key (seed, step). Fewer rows are the first of more.
    """
    key, counter = np.array([seed, step], np.uint64), np.array([0, 0, 0, STREAM], np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(rows * n_draws)
    numbers: np.ndarray = (raw >> np.uint64(64 - BITS)).astype(np.float32) * np.float32(2.0**-BITS)
    return numbers.reshape(rows, n_draws)


class RandomCropFlip:
    """The augmentation of `CropFlip`.

    Draws are [n, 3]: the row and the column of the crop, and whether it is flipped.
    """

    n_draws = 3
    per_example = True

    def __init__(self, config: CropFlip) -> None:
        self.pad, self.flip = config.pad, config.flip

    def __call__(self, inputs: Any, targets: Any, draws: Tensor) -> tuple[Tensor, Any]:
        """Return the crops and the targets. Each pixel is a copy of one of the image, or 0.

        Raises:
            ValueError: if the inputs are no images, or the targets are labels or numbers of pixels.
        """
        if not isinstance(inputs, Tensor) or inputs.ndim not in (3, 4):
            shapes = " and ".join(str(list(tensor.shape)) for tensor in leaves(inputs))
            raise ValueError(f"is for images [n, C, H, W] or [n, H, W], and the inputs of a batch are {shapes}")
        height, width = inputs.shape[-2:]
        if isinstance(targets, Tensor) and targets.ndim > 2 and targets.shape[-2:] == inputs.shape[-2:]:
            raise ValueError(f"moves the pixels of inputs only, and the targets {list(targets.shape)} are of pixels")
        n, places, device = len(inputs), 2 * self.pad + 1, inputs.device
        padded = functional.pad(inputs, (self.pad,) * 4).reshape(
            n, -1, (height + 2 * self.pad) * (width + 2 * self.pad)
        )
        top, left = ((draws[:, :2] * 2**BITS).long() * places >> BITS).unsqueeze(2).unbind(1)  # exact, unlike floats
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device).expand(n, width)
        if self.flip:
            columns = torch.where(draws[:, 2:] < 0.5, width - 1 - columns, columns)
        chosen = ((rows + top) * (width + 2 * self.pad)).unsqueeze(2) + (columns + left).unsqueeze(1)
        pixels = padded.gather(2, chosen.reshape(n, 1, -1).expand(-1, padded.shape[1], -1))
        return pixels.reshape(inputs.shape), targets


@dataclass(frozen=True)
class Augmentation:
    """What is done to training batches.

    Args:
        function: of the option, or the user's.
        n_draws: numbers that it needs for each example.
        per_example: whether what becomes of an example depends on this example and its numbers alone.
        name: key and value that name it, for messages.
        dtype: of the numbers: that of the training.
    """

    function: Callable[[Any, Any, Tensor], Any]
    n_draws: int
    per_example: bool
    name: tuple[str, str]
    dtype: torch.dtype

    @torch.no_grad()
    def __call__(self, batch: Any, numbers: Tensor) -> Any:
        """Return a batch with inputs and targets augmented.

        Args:
            numbers: float32 [n, n_draws], 0 <= x < 1.

        Raises:
            InvalidValueError: names `dataset.augment` if the function returns something else than a batch.
        """
        n, inputs, target = size(batch), inputs_of(batch), target_of(batch)
        structure, types = mapped(_nothing, inputs), [tensor.dtype for tensor in leaves(inputs)]
        found = self.function(inputs, target, numbers.to(self.dtype))
        if not isinstance(found, tuple) or len(found) != 2:
            raise self._refusal(f"must return a pair (inputs, targets); {described(found)}")
        if mapped(_nothing, found[0]) != structure or (found[1] is None) != (target is None):
            raise self._refusal(f"must return inputs and targets as it gets them; {described(found)}")
        tensors = [*leaves(found[0]), *([] if target is None else leaves(found[1]))]
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or tensor.shape[:1] != (n,):
                raise self._refusal(f"must return tensors of the {n} examples that it gets; {described(tensor)}")
        for before, tensor in zip(types, tensors, strict=False):
            if before.is_floating_point and tensor.dtype != before:
                kinds = [str(dtype).removeprefix("torch.") for dtype in (before, tensor.dtype)]
                raise self._refusal(f"must return inputs of the type that it gets, {kinds[0]}; it returned {kinds[1]}")
        return replaced(batch, *found)

    def check(self, batch: Any, numbers: Tensor) -> None:
        """Try it on a batch.

        Raises:
            InvalidValueError: names `dataset.augment` if it fails, or returns something else than a batch.
        """
        shapes = " and ".join(str(list(tensor.shape)) for tensor in leaves(inputs_of(batch)))
        whole, parts = self._tried(batch, numbers, shapes), []
        half = size(batch) // 2
        if not half or not self.per_example:
            return
        for rows in (slice(half), slice(half, None)):
            parts.append(leaves(self._tried(mapped(itemgetter(rows), batch), numbers[rows], shapes)))
        for of_whole, *of_halves in zip(leaves(whole), *parts, strict=True):
            together = torch.cat(of_halves).double()
            if not torch.allclose(of_whole.double(), together, rtol=1e-4, atol=1e-6, equal_nan=True):
                rule = "has per_example=True, and gives an example other results beside other examples"
                raise self._refusal(rule)

    def _tried(self, batch: Any, numbers: Tensor, shapes: str) -> Any:
        try:
            return self(mapped(torch.clone, batch), numbers)
        except InvalidValueError:
            raise
        except (Exception, SystemExit) as error:
            raise self._refusal(f"fails on inputs {shapes}: {refusal(error)}") from error

    def _refusal(self, rule: str) -> InvalidValueError:
        return InvalidValueError(*self.name, rule)


def _nothing(_: Any) -> None:
    return None


def augmentation_of(augment: Augment, dtype: torch.dtype) -> Augmentation | None:
    """Return what is done to training batches; None if nothing is.

    Args:
        dtype: of the training.

    Raises:
        InvalidValueError: names `dataset.augment` if the user's code cannot be called, or does not say what it draws.
    """
    if isinstance(augment, NoAugment):
        return None
    name = key_and_value(augment)
    function: Any = RandomCropFlip(augment) if isinstance(augment, CropFlip) else augment.function()
    own = function.func if isinstance(function, functools.partial) else function  # a function with its keys
    n_draws = getattr(own, "n_draws", None)
    if not callable(function) or type(n_draws) is not int or n_draws < 0:
        found = "has none" if n_draws is None else f"has {n_draws!r}"
        rule = "must be a function with an attribute n_draws, the random numbers that it needs for each example"
        raise InvalidValueError(*name, f"{rule}; it {found}")
    return Augmentation(function, n_draws, getattr(own, "per_example", False) is True, name, dtype)
