"""Windows of consecutive tokens: the examples that language models are trained on."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sweep.data.loading import generator_of
from sweep.data.splits import BLOCK, Split
from sweep.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class DrawnWindows:
    """Windows of a text that begin at any of its tokens, as nanoGPT draws them: they overlap.

    Row r is the window that begins at token r, 0 <= r < N - block: inputs `x` are tokens r..r+block-1, and targets `y`
    one token later. Tokens are gathered when a batch is made, so that those of a memory-mapped file stay there.

    Args:
        tokens: [N], of a signed type or uint8.
        block: tokens of a window, < N.
        mask: of the bits of a token, where it is an unsigned number that is stored as a signed one; None elsewhere.
    """

    tokens: Tensor
    block: int
    mask: int | None = None

    @staticmethod
    def of(tokens: np.ndarray, block: int) -> "DrawnWindows":
        """Return the windows of an array [N] of integers, which is shared and not copied if its bytes are in order."""
        native = tokens.astype(tokens.dtype.newbyteorder("="), copy=False)
        bits = 8 * native.dtype.itemsize
        masked = native.dtype.kind == "u" and bits > 8  # torch computes with no such type
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # no batch shares its memory
            stored = torch.from_numpy(native.view(f"i{native.dtype.itemsize}") if masked else native)
        return DrawnWindows(stored, block, 2**bits - 1 if masked and bits < 64 else None)

    def __len__(self) -> int:
        """Return how many windows an epoch has, floor(N / block)."""
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
        """Return the structure of a batch, with tensors of no example."""
        return self[:0].batch

    @property
    def device(self) -> torch.device:
        """Return the device that the tokens are on."""
        return self.tokens.device

    @property
    def nbytes(self) -> int:
        """Return the bytes of the tokens."""
        return self.tokens.nbytes

    def order(self, seed: int, epoch: int) -> Tensor:
        """Return the rows of an epoch of a training with that seed: int64 [len(self)], on the CPU.

        They are drawn independently and uniformly, with replacement.
        """
        return torch.randint(self._n_rows, (len(self),), generator=generator_of(seed, epoch))

    def take(self, rows: Tensor) -> Any:
        """Return the windows of an index of any shape: `x` and `y` int64 [*rows.shape, block]."""
        windows = self.tokens.unfold(0, self.block + 1, 1)[rows].long()
        if self.mask is not None:
            windows &= self.mask
        return {"x": windows[..., :-1].clone(), "y": windows[..., 1:].clone()}  # a model may write into one of them

    def each(self, rows: Tensor) -> Iterator[Any]:
        """Yield `take(r)` for each r of rows, which is [m, ...]."""
        return map(self.take, rows)

    def to(self, device: torch.device) -> "DrawnWindows":
        """Return the windows on another device."""
        return replace(self, tokens=self.tokens.to(device))

    def in_type(self, dtype: torch.dtype) -> "DrawnWindows":
        """Return the windows themselves: they hold no floating-point number."""
        return self


def tokens_of(part: Any, block: int) -> np.ndarray:
    """Return the tokens [N] of a part of a data set.

    Raises:
        InvalidValueError: names dataset.block if there is no such array.
    """
    arrays = list(part.values()) if isinstance(part, Mapping) else []
    if len(arrays) != 1 or not isinstance(arrays[0], np.ndarray) or arrays[0].ndim != 1:
        raise InvalidValueError("dataset.block", block, "is for one array of tokens, [n], in each split")
    tokens: np.ndarray = arrays[0]
    if tokens.dtype.kind not in "iu":
        raise InvalidValueError("dataset.block", block, f"is for tokens, which are integers, not {tokens.dtype}")
    return tokens


def divided_into_windows(tokens: np.ndarray, block: int) -> dict[str, np.ndarray]:
    """Return tokens [N] as inputs x and targets y, each [(N - 1) // block, block]: y[i, j] is the token after x[i, j].

    Both are views: a memory-mapped file stays one.

    Raises:
        InvalidValueError: names dataset.block if there are fewer than block + 1 tokens.
    """
    n = (len(tokens) - 1) // block
    if n < 1:
        rule = f"must be less than the number of tokens in each split, of which one has {len(tokens)}"
        raise InvalidValueError("dataset.block", block, rule)
    return {"x": tokens[: n * block].reshape(n, block), "y": tokens[1 : n * block + 1].reshape(n, block)}


def vocabulary_size(texts: Mapping[str, np.ndarray], n_classes: int | None, ignored: int | None) -> int:
    """Return the number of different tokens that a model must know: n_classes, or the largest token + 1.

    Args:
        texts: split -> tokens, [N].
        ignored: the token that does not count; None if all do.

    Raises:
        InvalidValueError: names dataset.n_classes if a token is not below it, or the split with a negative token.
    """
    largest = -1
    for split, tokens in texts.items():
        for first in range(0, len(tokens), BLOCK):
            some = tokens[first : first + BLOCK]
            some = some if ignored is None else some[some != ignored]
            if not some.size:
                continue
            low, high = int(some.min()), int(some.max())
            if low < 0:
                raise InvalidValueError(f"dataset.{split}", f"token {low}", "tokens must be 0..C-1")
            if n_classes is not None and high >= n_classes:
                rule = f"must be more than every token, and {split} has token {high}"
                raise InvalidValueError("dataset.n_classes", n_classes, rule)
            largest = max(largest, high)
    if largest < 0:
        raise InvalidValueError("dataset", f"token {ignored}", "is the only token, and does not count")
    return n_classes or largest + 1
