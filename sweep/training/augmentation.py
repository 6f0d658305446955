"""Augment training batches with random numbers that depend on seed, update and row only.

Therefore all engines, workers, micro-batches and resumed trainings see bit-identical batches.
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

COUNTER_STREAM = 0xA06
"""Last word of Philox's counter. It separates these numbers from others that depend on seed and update."""

DRAW_BITS = 24
"""Bits of a random number. A multiple of 2^-24 below 1 is exact in float32 and float64."""


def draws(seed: int, step: int, rows: int, n_draws: int) -> np.ndarray:
    """Return the numbers of update `step`, counted from 0: float32 [rows, n_draws], 0 <= x < 1, multiples of 2^-24.

    They come from Philox4x64-10 (Salmon et al., 2011) with the key (seed, step). Row r does not depend on `rows`.
    """
    key, counter = np.array([seed, step], np.uint64), np.array([0, 0, 0, COUNTER_STREAM], np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(rows * n_draws)
    numbers: np.ndarray = (raw >> np.uint64(64 - DRAW_BITS)).astype(np.float32) * np.float32(2.0**-DRAW_BITS)
    return numbers.reshape(rows, n_draws)


class RandomCropFlip:
    """Implements the augmentation of `CropFlip`: a random crop of the padded image and a random horizontal flip.

    Draws are [n, 3]: the row of the crop, the column of the crop, and whether it is flipped.
    """

    n_draws = 3
    per_example = True

    def __init__(self, config: CropFlip) -> None:
        self.pad, self.flip = config.pad, config.flip

    def __call__(self, inputs: Any, targets: Any, draws: Tensor) -> tuple[Tensor, Any]:
        """Return the cropped inputs and the unchanged targets. Each pixel is copied from the image or is 0.

        Raises:
            ValueError: if the inputs are not images, or the targets belong to pixels.
        """
        if not isinstance(inputs, Tensor) or inputs.ndim not in (3, 4):
            shapes = " and ".join(str(list(tensor.shape)) for tensor in leaves(inputs))
            raise ValueError(f"is for images [n, C, H, W] or [n, H, W]; the inputs of a batch are {shapes}")
        height, width = inputs.shape[-2:]
        if isinstance(targets, Tensor) and targets.ndim > 2 and targets.shape[-2:] == inputs.shape[-2:]:
            raise ValueError(
                f"moves the pixels of inputs only; the targets {list(targets.shape)} belong to pixels, too"
            )
        n, places, device = len(inputs), 2 * self.pad + 1, inputs.device
        padded = functional.pad(inputs, (self.pad,) * 4).reshape(
            n, -1, (height + 2 * self.pad) * (width + 2 * self.pad)
        )
        top, left = (
            ((draws[:, :2] * 2**DRAW_BITS).long() * places >> DRAW_BITS).unsqueeze(2).unbind(1)
        )  # exact, unlike floats
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device).expand(n, width)
        if self.flip:
            columns = torch.where(draws[:, 2:] < 0.5, width - 1 - columns, columns)
        chosen = ((rows + top) * (width + 2 * self.pad)).unsqueeze(2) + (columns + left).unsqueeze(1)
        pixels = padded.gather(2, chosen.reshape(n, 1, -1).expand(-1, padded.shape[1], -1))
        return pixels.reshape(inputs.shape), targets


@dataclass(frozen=True)
class Augmentation:
    """Applies an augmentation function to training batches, and checks what it returns.

    Args:
        function: takes inputs, targets and random numbers, and returns inputs and targets.
        n_draws: number of random numbers that it needs for each example.
        per_example: whether its result for an example depends on that example and its random numbers only.
        name: key and value of the configuration that name it in messages.
        dtype: type of the random numbers, which is that of the training.
    """

    function: Callable[[Any, Any, Tensor], Any]
    n_draws: int
    per_example: bool
    name: tuple[str, str]
    dtype: torch.dtype

    @torch.no_grad()
    def __call__(self, batch: Any, numbers: Tensor) -> Any:
        """Return the batch with augmented inputs and targets.

        Args:
            numbers: float32 [n, n_draws], 0 <= x < 1.

        Raises:
            InvalidValueError: names `dataset.augment` if the function does not return such a batch.
        """
        n, inputs, target = size(batch), inputs_of(batch), target_of(batch)
        structure, types = _structure(inputs), [tensor.dtype for tensor in leaves(inputs)]
        found = self.function(inputs, target, numbers.to(self.dtype))
        if not isinstance(found, tuple) or len(found) != 2:
            raise self._refusal(f"must return a pair (inputs, targets); {described(found)}")
        if _structure(found[0]) != structure or (found[1] is None) != (target is None):
            raise self._refusal(f"must return inputs and targets in the structure of its arguments; {described(found)}")
        tensors = [*leaves(found[0]), *([] if target is None else leaves(found[1]))]
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or tensor.shape[:1] != (n,):
                raise self._refusal(f"must return tensors of {n} examples, as many as it gets; {described(tensor)}")
        for before, tensor in zip(types, tensors, strict=False):
            if before.is_floating_point and tensor.dtype != before:
                kinds = [str(dtype).removeprefix("torch.") for dtype in (before, tensor.dtype)]
                raise self._refusal(
                    f"must return inputs of the type of its argument, {kinds[0]}; it returned {kinds[1]}"
                )
        return replaced(batch, *found)

    def check(self, batch: Any, numbers: Tensor) -> None:
        """Call the function on a batch, and with per_example=True on both halves of it, and check the results.

        Raises:
            InvalidValueError: names `dataset.augment` if the function fails or returns a wrong result.
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
                raise self._refusal("has per_example=True, but its result for an example depends on other examples")

    def _tried(self, batch: Any, numbers: Tensor, shapes: str) -> Any:
        try:
            return self(mapped(torch.clone, batch), numbers)
        except InvalidValueError:
            raise
        except (Exception, SystemExit) as error:
            raise self._refusal(f"fails on inputs {shapes}: {refusal(error)}") from error

    def _refusal(self, rule: str) -> InvalidValueError:
        return InvalidValueError(*self.name, rule)


def _structure(batch: Any) -> Any:
    """Return the nested structure of a batch, with None in place of each tensor."""
    return mapped(lambda _: None, batch)


def augmentation_of(augment: Augment, dtype: torch.dtype) -> Augmentation | None:
    """Return the augmentation of training batches; None if there is none.

    Args:
        dtype: floating type of the training.

    Raises:
        InvalidValueError: names `dataset.augment` if it cannot be called or has no valid attribute `n_draws`.
    """
    if isinstance(augment, NoAugment):
        return None
    name = key_and_value(augment)
    function: Any = RandomCropFlip(augment) if isinstance(augment, CropFlip) else augment.function()
    own = (
        function.func if isinstance(function, functools.partial) else function
    )  # a partial binds the keys of the option
    n_draws = getattr(own, "n_draws", None)
    if not callable(function) or type(n_draws) is not int or n_draws < 0:
        found = "has none" if n_draws is None else f"has {n_draws!r}"
        rule = "must be a function with an attribute n_draws, the random numbers that it needs for each example"
        raise InvalidValueError(*name, f"{rule}; it {found}")
    return Augmentation(function, n_draws, getattr(own, "per_example", False) is True, name, dtype)
