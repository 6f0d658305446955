"""Connects a run to the trainer of another library, which makes the updates. Both callbacks use this module."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from sweep.errors import InvalidValueError
from sweep.training.run import RATE_RTOL, Run

TIME_AND_MEMORY = re.compile(r"_(runtime|per_second|preparation_time)$|_mem_")
"""Names of times and memory sizes in the results of Hugging Face's Trainer; they are not metrics."""


class Driver:
    """Advances a run step by step for a trainer that has its own loop.

    Attributes:
        step: the current step of the run; None before the first and after the last step.
        ratios: the rate of each group of parameters, divided by that of the first group; None before `follow`.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.step: int | None = None
        self.ratios: list[float] | None = None
        self._steps: Iterator[int] = iter(())
        self._used: float | None = None
        """The rate that the optimizer has used in the current step; None before its update."""

    def refuse(self, rule: str) -> InvalidValueError:
        """Return an error about the user's loop."""
        return self.run.session.refuse(rule)

    def begin(self, completed: int) -> None:
        """Start the first step, and restore the random generators from the checkpoint, if there is one.

        Args:
            completed: number of updates that the trainer has made.

        Raises:
            InvalidValueError: if the run has recorded a different number of updates.
        """
        self._steps = self.run.steps()
        self.step = next(self._steps, None)
        if self.step is not None and self.step != completed:
            rule = f"starts after {completed} updates, but the run resumes after {self.step}"
            raise self.refuse(f"{rule}: the trainer must resume from callback.checkpoint")

    def end(self, state: Callable[[], Any]) -> bool:
        """End the current step. Return whether another step follows.

        Args:
            state: returns the state that the trainer needs to resume; called if a checkpoint is due.
        """
        self.run.checkpoint(state)
        self._used = None
        self.step = next(self._steps, None)
        return self.step is not None

    def follow(self, optimizer: Optimizer, ratios: list[float] | None) -> None:
        """Set the rates of an optimizer before each of its steps, and check them after the step.

        Args:
            ratios: `ratios` of an earlier attempt; None to compute them from the rates of the optimizer.

        Raises:
            InvalidValueError: if the rate of the first group of parameters is 0, but that of another group is not.
        """
        if ratios is None:
            rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
            if rates[0] == 0 and any(rates):
                rule = f"has an optimizer whose groups have the rates {rates}: that of the first one must not be 0"
                raise self.refuse(f"{rule}, because the others keep their ratio to it")
            ratios = [rate / rates[0] if rates[0] else 1.0 for rate in rates]
        self.ratios = ratios
        optimizer.register_step_pre_hook(self._set_rates)
        optimizer.register_step_post_hook(self._read_rates)

    def _set_rates(self, optimizer: Optimizer, args: Any, keys: Any) -> None:
        if self.step is None:
            return
        for group, rate in zip(optimizer.param_groups, self._rates(optimizer), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _read_rates(self, optimizer: Optimizer, args: Any, keys: Any) -> None:
        if self.step is None:
            return
        if self._used is not None:
            raise self.refuse(f"makes two updates in step {self.step}: each update must be one step of the run")
        used = [float(group["lr"]) for group in optimizer.param_groups]
        for rate, expected in zip(used, self._rates(optimizer), strict=True):
            if not math.isclose(rate, expected, rel_tol=RATE_RTOL):
                rule = f"used the rate {rate!r} in step {self.step}, but the callback has set {expected!r}"
                raise self.refuse(f"{rule}: nothing else may set the rates")
        self._used = used[0]

    def _rates(self, optimizer: Optimizer) -> list[float]:
        """Return the rate of each group of parameters in the current step."""
        assert self.step is not None
        assert self.ratios is not None
        if len(self.ratios) != len(optimizer.param_groups):
            rule = f"has an optimizer with {len(optimizer.param_groups)} groups of parameters in step {self.step}"
            raise self.refuse(f"{rule}, but had {len(self.ratios)} at the start: groups cannot be added later")
        rate = self.run.lr(self.step)
        return [rate * ratio for ratio in self.ratios]

    def record(self, loss: Tensor, skipped: bool) -> None:
        """Record the current step.

        Args:
            loss: loss of the update, a tensor with one element.
            skipped: whether the trainer may have skipped the update because its gradients were not finite.

        Raises:
            InvalidValueError: if the optimizer has made no update.
        """
        assert self.step is not None
        if self._used is None and not skipped:
            rule = f"makes no update in step {self.step} with the optimizer that it had at the start"
            raise self.refuse(f"{rule}, whose rates the callback sets")
        self.run.record(loss, self.run.lr(self.step) if self._used is None else self._used)


def metrics_of(given: Mapping[str, Any], prefix: str, name: str) -> dict[str, Any]:
    """Return those metrics that are numbers, under the names that a run uses.

    >>> metrics_of({"eval_loss": 0.5, "eval_f1/macro": 0.25, "eval_runtime": 3.0, "epoch": 1.0}, "eval", "val")
    {'val_loss': 0.5, 'val_f1_macro': 0.25}

    Args:
        prefix: prefix of the metrics to return, before `_` or `/`.
        name: prefix in the result, val or test.
    """
    found = {}
    for key, value in given.items():
        number = isinstance(value, int | float | np.number) or (isinstance(value, Tensor) and value.numel() == 1)
        if number and key.startswith((f"{prefix}_", f"{prefix}/")) and not TIME_AND_MEMORY.search(key):
            found[f"{name}_{re.sub(r'[^A-Za-z0-9_]', '_', key[len(prefix) + 1 :])}"] = value
    return found


def packed_files(folder: Path) -> dict[str, Tensor]:
    """Return the files of a folder: path below the folder -> bytes, uint8 [n]."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): torch.from_numpy(np.fromfile(path, np.uint8)) for path in files}


def unpack(files: Mapping[str, Tensor], folder: Path) -> None:
    """Write the files that `packed_files` has returned into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content.numpy().tofile(path)
