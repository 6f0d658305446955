"""Divide texts into windows of consecutive tokens, the examples on which language models are trained."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.data.loading import generator_of
from sweep.data.splits import BLOCK_NUMBERS, Split
from sweep.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class DrawnWindows:
    """Overlapping windows of a text, which may begin at any token, as in nanoGPT.

    Row r is the window that begins at token r, 0 <= r < N - block. Its inputs `x` are the tokens r..r+block-1, and its
    targets `y` the tokens r+1..r+block. Tokens are gathered per batch, so a memory-mapped file is not read as a whole.

    Args:
        tokens: tokens of the text, [N], of a signed type or uint8.
        block: number of tokens of a window, < N.
        mask: bit mask of a token, if unsigned tokens are stored in a signed type; otherwise None.
    """

    tokens: Tensor
    block: int
    mask: int | None = None

    @staticmethod
    def of(tokens: np.ndarray, block: int) -> "DrawnWindows":
        """Return the windows of an array of integers [N]. It is not copied if it has native byte order."""
        native = tokens.astype(tokens.dtype.newbyteorder("="), copy=False)
        bits = 8 * native.dtype.itemsize
        masked = native.dtype.kind == "u" and bits > 8  # torch does not compute with these types
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # batches are copies
            stored = torch.from_numpy(native.view(f"i{native.dtype.itemsize}") if masked else native)
        return DrawnWindows(stored, block, 2**bits - 1 if masked and bits < 64 else None)

    def __len__(self) -> int:
        """Return the number of windows in an epoch, floor(N / block)."""
        return len(self.tokens) // self.block

    def __getitem__(self, rows: slice) -> Split:
        return Split(self.take(torch.tensor(range(self._n_rows)[rows], dtype=torch.int64, device=self.device)))

    @property
    def _n_rows(self) -> int:
        return len(self.tokens) - self.block

    @property
    def inputs(self) -> Tensor:
        """Return the inputs of all windows, [N - block, block]."""
        inputs: Tensor = self[:].inputs
        return inputs

    @property
    def example(self) -> Any:
        """Return a batch with 0 examples."""
        return self[:0].batch

    @property
    def device(self) -> torch.device:
        """Return the device that the tokens are on."""
        return self.tokens.device

    @property
    def nbytes(self) -> int:
        """Return the size of the tokens in bytes."""
        return self.tokens.nbytes

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the rows of an epoch of a training with this seed: int64 [len(self)], on the CPU.

        They are drawn independently and uniformly, with replacement.
        """
        return torch.randint(self._n_rows, (len(self),), generator=generator_of(seed, epoch))

    def take(self, rows: Tensor) -> Any:
        """Return the windows at indices of any shape: `x` and `y`, both int64 [*rows.shape, block]."""
        windows = self.tokens.unfold(0, self.block + 1, 1)[rows].long()
        if self.mask is not None:
            windows &= self.mask
        return {
            "x": windows[..., :-1].clone(),
            "y": windows[..., 1:].clone(),
        }  # copies, because a model may write into them

    def each(self, rows: Tensor) -> Iterator[Any]:
        """Yield `take(r)` for each r of rows [m, ...]."""
        return map(self.take, rows)

    def to(self, device: torch.device) -> "DrawnWindows":
        """Return the windows on a device."""
        return replace(self, tokens=self.tokens.to(device))

    def in_type(self, dtype: torch.dtype) -> "DrawnWindows":
        """Return the windows unchanged, because they contain no floats."""
        return self


def tokens_of(part: Any, block: int) -> np.ndarray:
    """Return the tokens [N] of a part of a data set.

    Raises:
        InvalidValueError: names dataset.block if the part does not consist of one such array of integers.
    """
    arrays = list(part.values()) if isinstance(part, Mapping) else []
    if len(arrays) != 1 or not isinstance(arrays[0], np.ndarray) or arrays[0].ndim != 1:
        raise InvalidValueError("dataset.block", block, "needs one array of tokens [n] in each split")
    tokens: np.ndarray = arrays[0]
    if tokens.dtype.kind not in "iu":
        raise InvalidValueError("dataset.block", block, f"needs tokens, which are integers, not {tokens.dtype}")
    return tokens


def divided_into_windows(tokens: np.ndarray, block: int) -> dict[str, np.ndarray]:
    """Divide tokens [N] into inputs x and targets y, both [(N - 1) // block, block]; y[i, j] follows x[i, j].

    Both are views, so a memory-mapped file is not read.

    Raises:
        InvalidValueError: names dataset.block if there are fewer than block + 1 tokens.
    """
    n = (len(tokens) - 1) // block
    if n < 1:
        rule = f"must be less than the number of tokens in each split; one split has {len(tokens)}"
        raise InvalidValueError("dataset.block", block, rule)
    return {"x": tokens[: n * block].reshape(n, block), "y": tokens[1 : n * block + 1].reshape(n, block)}


def vocabulary_size(texts: Mapping[str, np.ndarray], n_classes: int | None, ignored: int | None) -> int:
    """Return the size of the vocabulary: n_classes, or the largest token + 1 if n_classes is None.

    Args:
        texts: split -> tokens, [N].
        ignored: the token that is ignored; None if no token is.

    Raises:
        InvalidValueError: names dataset.n_classes if a token is not below it, or the split with a negative token.
    """
    largest = -1
    for split, tokens in texts.items():
        for first in range(0, len(tokens), BLOCK_NUMBERS):
            some = tokens[first : first + BLOCK_NUMBERS]
            some = some if ignored is None else some[some != ignored]
            if not some.size:
                continue
            low, high = int(some.min()), int(some.max())
            if low < 0:
                raise InvalidValueError(f"dataset.{split}", f"token {low}", "tokens must be 0..C-1")
            if n_classes is not None and high >= n_classes:
                rule = f"must be greater than every token; {split} has token {high}"
                raise InvalidValueError("dataset.n_classes", n_classes, rule)
            largest = max(largest, high)
    if largest < 0:
        raise InvalidValueError("dataset", f"token {ignored}", "is the only token and is ignored")
    return n_classes or largest + 1
