"""Stores the state of a training as bytes, and restores it. Any engine can resume from the state of any other."""

from collections.abc import Collection, Mapping
from io import BytesIO
from pickle import UnpicklingError
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import nn

from sweep.config import RunConfig
from sweep.core import Snapshot, Trial
from sweep.data import Dataset
from sweep.errors import InvalidValueError
from sweep.schedules import Event
from sweep.training.contents import (
    Contents,
    changes,
    contents,
    described,
    named,
    restore,
    same,
    storable,
    unstorable_in,
)
from sweep.training.device import DTYPES
from sweep.training.generators import RandomState
from sweep.training.optimizers import load_exactly
from sweep.training.state import TrainState, initial_state

CONTENT = {
    "model", "optimizer", "random", "average", "events", "memories", "mistakes", "seen", "global_step", "critic",
    "contents", "scaler", "threads",
}  # fmt: skip
"""The keys of the stored state."""


def packed(state: TrainState) -> Snapshot:
    """Return a state as bytes: tensors and plain data, as torch saves them."""
    return saved(content_of(state), state.global_step)


def saved(content: Mapping[str, Any], step: int) -> Snapshot:
    """Return tensors and plain data as bytes, as torch saves them."""
    file = BytesIO()
    torch.save(dict(content), file)
    return Snapshot(step, file.getvalue())


def content_of(state: TrainState) -> dict[str, Any]:
    """Return all that a training is resumed from, as tensors and plain data."""
    return {
        "model": _registered(state.model),
        "optimizer": state.optimizer.state_dict(),
        "random": list(vars(state.random).values()),
        "average": state.average,
        "events": [[event.step, event.name] for event in state.events],
        "memories": {name: list(memory) for name, memory in state.memories.items()},
        "mistakes": state.mistakes,
        "seen": state.seen,
        "global_step": state.global_step,
        "critic": None
        if state.critic is None
        else {"optimizer": state.critic.optimizer.state_dict(), "global_step": state.critic.global_step},
        "contents": storable(contents(state.model, state.optimizers)),
        "scaler": None if state.scaler is None else state.scaler.state_dict(),
        "threads": state.threads,
    }


def refuse_unstorable(state: TrainState, before: Contents, fresh: TrainState, config: RunConfig) -> None:
    """Refuse a training whose state changes when it is stored and loaded.

    Args:
        state: the state after at least one update.
        before: the contents of its model before that update.
        fresh: another initial state of this training, into which the state is loaded.

    Raises:
        InvalidValueError: names what a checkpoint cannot store.
    """

    def refused(part: str, rule: str) -> InvalidValueError:
        component = config.optimizer.component if part in ("optimizer", "critic") else config.model
        return InvalidValueError(f"{component.key}._target_", component.target, f"{rule}; {STORABLE}")

    content, device = content_of(state), next(iter(state.model.parameters())).device
    try:
        _restore(fresh, read(packed(state)), device)
    except Exception as error:  # whatever torch, pickle or the model finds to refuse
        rule = str(error.rule if isinstance(error, InvalidValueError) else error or type(error).__name__)
        raise refused(_unreadable(content), f"its state cannot be stored in a checkpoint: {rule}") from error
    after = described(state.model)
    changed = changes(before, after)
    if shared := [key for key in changed if key[0] == "class"]:
        raise refused(
            "model", f"{named(shared)} changes in training, and all models share it; make it an instance attribute"
        )
    for key in [key for key in changes(after, described(fresh.model)) if key[0] != "class"]:
        kind = unstorable_in(after.get(key))
        if kind is None:
            raise refused("model", f"{named([key])} differs after it was stored in a checkpoint and loaded")
        if key in changed:  # constants are whatever the constructor makes them
            raise refused("model", f"{named([key])} changes in training, and a checkpoint cannot store a {kind}")
    loaded = content_of(fresh)
    for part in content:
        if not same(content[part], loaded[part]):
            raise refused(part, "its state differs after it was stored in a checkpoint and loaded")


def _unreadable(content: Mapping[str, Any]) -> str:
    """Return the part of a content that cannot be loaded, or else the model."""
    for part, held in content.items():
        try:
            read(saved({**dict.fromkeys(content), part: held}, 0))
        except Exception:  # as above
            return part
    return "model"


STORABLE = "numbers, texts, tensors, arrays, and lists, tuples, sets and mappings of these can be stored"


def _registered(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and persistent buffers by name, as state_dict does; a model may override that."""
    held = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
    for name, module in model.named_modules(remove_duplicate=False):
        for key, buffer in module._buffers.items():
            if buffer is not None and key not in module._non_persistent_buffers_set:
                held[f"{name}.{key}" if name else key] = buffer.detach()
    return held


def unpacked(snapshot: Snapshot, trial: Trial, data: Dataset, device: torch.device) -> TrainState:
    """Return the state of a trial that `packed` has stored.

    Raises:
        InvalidValueError: names train.checkpoint_dir if the state cannot be read or belongs to another training.
    """
    held = read(snapshot)
    state = initial_state(trial.config, trial.seed, data, device, DTYPES[trial.config.train.precision])
    try:
        _restore(state, held, device)
    except (AttributeError, RuntimeError, ValueError, LookupError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _refused(f"has a state that does not fit this training: {reason}") from error
    return state


def _restore(state: TrainState, held: Mapping[str, Any], device: torch.device) -> None:
    load_exactly(state.optimizer, held["optimizer"])
    state.random = RandomState(*held["random"])
    average = held["average"]
    state.average = None if average is None else {name: weights.to(device) for name, weights in average.items()}
    state.events = tuple(Event(step, name) for step, name in held["events"])
    state.memories = {name: tuple(memory) for name, memory in held["memories"].items()}
    state.mistakes = None if held["mistakes"] is None else held["mistakes"].to(device)
    state.seen, state.global_step = held["seen"], held["global_step"]
    state.threads = held["threads"]
    if state.scaler is not None:
        state.scaler.load_state_dict(held["scaler"])
    if state.critic is not None:
        load_exactly(state.critic.optimizer, held["critic"]["optimizer"])
        state.critic.global_step = held["critic"]["global_step"]
    _restore_parameters(state.model, held["model"], held["contents"])
    restore(held["contents"], state.model, device, state.optimizers, held["model"])


@torch.no_grad()
def _restore_parameters(model: nn.Module, held: Mapping[str, torch.Tensor], contents: Contents) -> None:
    own = dict(model.named_parameters(remove_duplicate=False))
    buffers = {f"{name}.{key}".removeprefix(".") for kind, name, key in contents if kind == "buffer"}
    if different := own.keys() ^ (held.keys() - buffers):
        raise KeyError(f"either the state or the model lacks {', '.join(sorted(different))}")
    for name, parameter in own.items():
        given = held[name]
        if (given.shape, given.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(f"{name} is {_type_and_shape(given)}, but {_type_and_shape(parameter)} in this model")
        if given.layout == torch.strided:
            parameter.copy_(given)
        else:
            parameter.data = given.to(parameter.device)


def _type_and_shape(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def read(snapshot: Snapshot, known: Collection[str] = CONTENT) -> dict[str, Any]:
    """Return the content of a snapshot. Runs no code of it, and needs no more memory than its bytes.

    Args:
        known: the keys that it must have.

    Raises:
        InvalidValueError: if it cannot be read, or has other keys.
    """
    content = snapshot.content
    try:
        if any(entry.compress_type != ZIP_STORED for entry in ZipFile(BytesIO(content)).infolist()):
            raise ValueError("it is compressed")
        held: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except (BadZipFile, OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _refused(f"has a state that cannot be read: {reason}") from error
    if not isinstance(held, dict) or held.keys() != set(known):
        raise _refused("has no state of a training, or one of another version")
    return held


def _refused(rule: str) -> InvalidValueError:
    return InvalidValueError("train.checkpoint_dir", "a checkpoint", f"{rule}; delete it to begin the training anew")
