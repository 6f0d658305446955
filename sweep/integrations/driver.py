"""Connects a run to a trainer of another library, which makes the updates. Both callbacks use it."""

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

TIME = re.compile(r"_(runtime|per_second|preparation_time)$|_mem_")
"""Names under which Hugging Face's Trainer gives times and memory, which are no metrics."""


class Driver:
    """Takes the steps of a run one by one, for a trainer that has a loop of its own.

    Attributes:
        step: the current step of the run; None before the first one, and after the last one.
        ratios: the rate of each group of parameters, divided by that of the first group; None before `follow`.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.step: int | None = None
        self.ratios: list[float] | None = None
        self._steps: Iterator[int] = iter(())
        self._used: float | None = None
        """The rate that the optimizer has used in the current step."""

    def refuse(self, rule: str) -> InvalidValueError:
        """Return the error that says what the loop does wrong."""
        return self.run.session.refuse(rule)

    def begin(self, completed: int) -> None:
        """Begin the first step, and give the random generators the states of the checkpoint, if there is one.

        Args:
            completed: the updates that the trainer has made.

        Raises:
            InvalidValueError: if these are not the updates that the run has recorded.
        """
        self._steps = self.run.steps()
        self.step = next(self._steps, None)
        if self.step is not None and self.step != completed:
            rule = f"begins after {completed} updates, and the run after {self.step}"
            raise self.refuse(f"{rule}: the trainer must resume from callback.checkpoint")

    def end(self, state: Callable[[], Any]) -> bool:
        """End the current step. Return True if another step follows, and False at the end of the run.

        Args:
            state: returns what the trainer needs to resume; it is called if a checkpoint is due.
        """
        self.run.checkpoint(state)
        self._used = None
        self.step = next(self._steps, None)
        return self.step is not None

    def follow(self, optimizer: Optimizer, ratios: list[float] | None) -> None:
        """Set the rates of an optimizer before each of its steps, and read afterwards which it has used.

        Args:
            ratios: of an earlier attempt; None to take those of the rates that the optimizer has.

        Raises:
            InvalidValueError: if the first group of parameters has the rate 0, and another one has not.
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
            raise self.refuse(f"makes two updates in step {self.step}: one of its optimizer is one step of the run")
        used = [float(group["lr"]) for group in optimizer.param_groups]
        for rate, expected in zip(used, self._rates(optimizer), strict=True):
            if not math.isclose(rate, expected, rel_tol=RATE_RTOL):
                rule = f"used the rate {rate!r} in step {self.step}, where the callback has set {expected!r}"
                raise self.refuse(f"{rule}: nothing else may set rates while the optimizer makes its step")
        self._used = used[0]

    def _rates(self, optimizer: Optimizer) -> list[float]:
        """Return the rate of each group of parameters in the current step."""
        assert self.step is not None
        assert self.ratios is not None
        if len(self.ratios) != len(optimizer.param_groups):
            rule = f"has an optimizer of {len(optimizer.param_groups)} groups of parameters in step {self.step}"
            raise self.refuse(f"{rule}, and of {len(self.ratios)} at the beginning: groups cannot be added later")
        rate = self.run.lr(self.step)
        return [rate * ratio for ratio in self.ratios]

    def record(self, loss: Tensor, skipped: bool) -> None:
        """Record the current step.

        Args:
            loss: of the update, with one element.
            skipped: whether the trainer may have left the update out, because its gradients were not finite.

        Raises:
            InvalidValueError: if the optimizer that is followed has made no update.
        """
        assert self.step is not None
        if self._used is None and not skipped:
            rule = f"makes no update in step {self.step} with the optimizer that it had at the beginning"
            raise self.refuse(f"{rule}, whose rate the callback sets")
        self.run.record(loss, self.run.lr(self.step) if self._used is None else self._used)


def metrics_of(given: Mapping[str, Any], prefix: str, name: str) -> dict[str, Any]:
    """Return the numbers among some metrics, under the names of a run.

    >>> metrics_of({"eval_loss": 0.5, "eval_f1/macro": 0.25, "eval_runtime": 3.0, "epoch": 1.0}, "eval", "val")
    {'val_loss': 0.5, 'val_f1_macro': 0.25}

    Args:
        prefix: of the names that are used, before `_` or `/`.
        name: that takes its place, val or test.
    """
    found = {}
    for key, value in given.items():
        number = isinstance(value, int | float | np.number) or (isinstance(value, Tensor) and value.numel() == 1)
        if number and key.startswith((f"{prefix}_", f"{prefix}/")) and not TIME.search(key):
            found[f"{name}_{re.sub(r'[^A-Za-z0-9_]', '_', key[len(prefix) + 1 :])}"] = value
    return found


def packed(folder: Path) -> dict[str, Tensor]:
    """Return the files of a folder as bytes: uint8 [n] of each path below it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): torch.from_numpy(np.fromfile(path, np.uint8)) for path in files}


def unpack(files: Mapping[str, Tensor], folder: Path) -> None:
    """Write the files that `packed` has returned below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content.numpy().tofile(path)
