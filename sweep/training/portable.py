"""The state of a training as bytes: what any engine stops with, any other goes on from."""

from collections.abc import Mapping
from io import BytesIO
from pickle import UnpicklingError
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

from sweep.core import Event, Snapshot, Trial
from sweep.data import Dataset
from sweep.training.device import DTYPES
from sweep.training.optimizers import load_exactly
from sweep.training.state import RandomState, TrainState, initial_state
from sweep.validation import InvalidValueError

CONTENT = {
    "model", "optimizer", "random", "average", "events", "memories", "mistakes", "seen", "global_step", "critic",
}  # fmt: skip
"""What they hold."""


def packed(state: TrainState) -> Snapshot:
    """A state: tensors and plain data, as torch saves them."""
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "random": [state.random.cpu, state.random.device, state.random.kind],
        "average": state.average,
        "events": [[event.step, event.name] for event in state.events],
        "memories": {name: list(memory) for name, memory in state.memories.items()},
        "mistakes": state.mistakes,
        "seen": state.seen,
        "global_step": state.global_step,
        "critic": _critic_of(state),
    }
    file = BytesIO()
    torch.save(content, file)
    return Snapshot(state.global_step, file.getvalue())


def unpacked(snapshot: Snapshot, trial: Trial, data: Dataset, device: torch.device) -> TrainState:
    """The state of a trial, which it was packed of.

    Raises:
        InvalidValueError: names train.checkpoint_dir, where it is kept, if it cannot be read or is of another training.
    """
    held = _read(snapshot.content)
    state = initial_state(trial.config, trial.seed, data, device, DTYPES[trial.config.train.precision])
    try:
        _restore(state, held, device)
    except (AttributeError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _refused(f"holds a state that is none of this training: {str(error).splitlines()[0]}") from error
    return state


def _restore(state: TrainState, held: Mapping[str, Any], device: torch.device) -> None:
    state.model.load_state_dict(held["model"])
    load_exactly(state.optimizer, held["optimizer"])
    state.random = RandomState(*held["random"])
    state.average = _on(held["average"], device)
    state.events = tuple(Event(step, name) for step, name in held["events"])
    state.memories = {name: tuple(memory) for name, memory in held["memories"].items()}
    state.mistakes = None if held["mistakes"] is None else held["mistakes"].to(device)
    state.seen, state.global_step = held["seen"], held["global_step"]
    if state.critic is not None:
        load_exactly(state.critic.optimizer, held["critic"]["optimizer"])
        state.critic.global_step = held["critic"]["global_step"]


def _critic_of(state: TrainState) -> dict[str, Any] | None:
    """What a GAN has beside its model."""
    if state.critic is None:
        return None
    return {"optimizer": state.critic.optimizer.state_dict(), "global_step": state.critic.global_step}


def _on(average: dict[str, torch.Tensor] | None, device: torch.device) -> dict[str, torch.Tensor] | None:
    return None if average is None else {name: weights.to(device) for name, weights in average.items()}


def _read(content: bytes) -> dict[str, Any]:
    """Tensors and plain data; nothing is run when they are read, and they take no more memory than the bytes do."""
    try:
        if any(entry.compress_type != ZIP_STORED for entry in ZipFile(BytesIO(content)).infolist()):
            raise ValueError("it is compressed")
        held: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except (BadZipFile, OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _refused(f"holds a state that cannot be read: {reason}") from error
    if not isinstance(held, dict) or held.keys() != CONTENT:
        raise _refused("holds no state of a training, or one of another version")
    return held


def _refused(rule: str) -> InvalidValueError:
    return InvalidValueError("train.checkpoint_dir", "a checkpoint", f"{rule}; delete it to begin the training anew")
