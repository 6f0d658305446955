"""The state of a training in a file."""

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from sweep.core import Event, Trial
from sweep.data import Dataset
from sweep.training.device import DTYPES
from sweep.training.optimizers import load_exactly
from sweep.training.state import RandomState, TrainState, initial_state
from sweep.validation import InvalidValueError

CONTENT = {
    "about", "model", "optimizer", "random", "average", "events", "memories", "mistakes", "seen", "global_step",
}  # fmt: skip
"""What a file holds."""


def prepare(path: Path) -> None:
    """Make the folder of a file.

    Raises:
        InvalidValueError: names train.checkpoint_dir if it cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        rule = f"cannot be made: {error.strerror}"
        raise InvalidValueError("train.checkpoint_dir", path.parent, rule) from error
    if not os.access(path.parent, os.W_OK):
        raise InvalidValueError("train.checkpoint_dir", path.parent, "cannot be written to")


def save(path: Path, state: TrainState, about: Mapping[str, str]) -> None:
    """Write a state, whole or not at all, for its owner only.

    Args:
        about: what else is to be kept with it.
    """
    content = {
        "about": dict(about),
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "random": [state.random.cpu, state.random.device, state.random.kind],
        "average": state.average,
        "events": [[event.step, event.name] for event in state.events],
        "memories": {name: list(memory) for name, memory in state.memories.items()},
        "mistakes": state.mistakes,
        "seen": state.seen,
        "global_step": state.global_step,
    }
    prepare(path)
    temporary = path.with_suffix(".tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def about(path: Path) -> dict[str, Any]:
    """What was kept with a state, and its global_step.

    Raises:
        InvalidValueError: names train.checkpoint_dir if the file cannot be read.
    """
    content = _read(path)
    return {**content["about"], "global_step": content["global_step"]}


def restore(path: Path, trial: Trial, data: Dataset, device: torch.device) -> TrainState:
    """The state of a file, of the trial that it was saved of.

    Raises:
        InvalidValueError: names train.checkpoint_dir if the file cannot be read, or is of another training.
    """
    content = _read(path)
    state = initial_state(trial.config, trial.seed, data, device, DTYPES[trial.config.train.precision])
    try:
        state.model.load_state_dict(content["model"])
        load_exactly(state.optimizer, content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        rule = f"holds a state that is none of this training: {str(error).splitlines()[0]}"
        raise InvalidValueError("train.checkpoint_dir", path, rule) from error
    state.random = RandomState(*content["random"])
    state.average = _on(content["average"], device)
    state.events = tuple(Event(step, name) for step, name in content["events"])
    state.memories = {name: tuple(memory) for name, memory in content["memories"].items()}
    state.mistakes = None if content["mistakes"] is None else content["mistakes"].to(device)
    state.seen, state.global_step = content["seen"], content["global_step"]
    return state


def _on(average: dict[str, torch.Tensor] | None, device: torch.device) -> dict[str, torch.Tensor] | None:
    return None if average is None else {name: weights.to(device) for name, weights in average.items()}


def _read(path: Path) -> dict[str, Any]:
    """The content of a file: tensors and plain data, nothing that is run when it is read."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        rule = f"cannot be read ({reason}); delete it to begin the training anew"
        raise InvalidValueError("train.checkpoint_dir", path, rule) from error
    if not isinstance(content, dict) or content.keys() != CONTENT or not isinstance(content["about"], dict):
        rule = "holds no state of a training, or one of another version; delete it to begin the training anew"
        raise InvalidValueError("train.checkpoint_dir", path, rule)
    return content
