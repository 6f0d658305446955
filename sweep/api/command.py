"""Converts the arguments of a public function to the corresponding command."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep import given
from sweep.api.values import Overrides, as_texts
from sweep.arrays import loads_examples
from sweep.augmentations import AUGMENT_KEY
from sweep.errors import InvalidValueError
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.current_trainer import started_trainer
from sweep.requests.expressions import COMPARISON_MODES, check_searchable, parse, parse_override
from sweep.requests.resolvers import register_resolvers

Model = str | Callable[..., Any]
"""The name of an option of conf/model, or a class or function that returns a new torch.nn.Module.

It gets `input_shape`, the shape of an example, and `n_outputs` if it has parameters with these names, and the given
keys of `model`: `{"model.width": 32}`.
"""
Data = str | Callable[..., Any] | Mapping[str, Any] | Sequence[Any]
"""The name of an option of conf/dataset; arrays {"x": [n, ...], "y": [n, ...]}, or of other names, or x_train, y_train,
x_val, ...; a pair (x, y); a map-style data set; {"train": ..., "val": ...} of these; or a function that gets the given
keys of `dataset` and returns one of them."""

Function = str | Callable[..., Any]
"""The name of an option of conf/schedule, or a function (steps [n], horizon, **keys) -> factors [n]."""

Loop = str | Callable[..., Any]
"""The name of an option of conf/loop, or a function `main(run, **keys)` that does the training itself."""

Augmenter = str | Callable[..., Any]
"""The name of an option of `dataset.augment`, or a function (inputs, targets, draws) -> (inputs, targets)."""


@dataclass(frozen=True)
class Objects:
    """The arguments of a call that replace options of configuration groups; None for those that are not given.

    Args:
        task: the name of an option of conf/task, or a class or object with a method `loss(model, batch)`.
    """

    model: Model | None = None
    dataset: Data | None = None
    task: Any = None
    schedule: Function | None = None
    loop: Loop | None = None
    augment: Augmenter | None = None


@contextmanager
def command_of(mode: str, overrides: Overrides, objects: Objects, config_dir: str | Path | None) -> Iterator[Command]:
    """Yield the command for a call. The objects of the call are registered within the context."""
    with _given_objects(mode, overrides, objects) as texts, started_trainer():
        request = parse(texts)
        if request.datasets and mode not in COMPARISON_MODES:
            check_searchable("dataset", ",".join(request.datasets))
        folder = None if config_dir is None else str(config_dir)
        flags = () if folder is None else ("--config-dir", folder)
        yield Command(Composer(folder), request, flags)


@contextmanager
def _given_objects(mode: str, overrides: Overrides, given_objects: Objects) -> Iterator[list[str]]:
    """Yield all overrides of a call as texts, with targets for its objects."""
    register_resolvers()
    texts, objects = [f"mode={mode}"], {}
    parts = {
        "model": _checked_model(given_objects.model),
        "dataset": _named(given_objects.dataset),
        "task": _checked_task(given_objects.task),
        "schedule": _checked_schedule(given_objects.schedule),
        "loop": _checked_loop(given_objects.loop),
        AUGMENT_KEY: _checked_augment(given_objects.augment),
    }
    for group, value in parts.items():
        if isinstance(value, str):
            texts.append(f"{group}={value}")
        elif value is not None:
            target = given.target_of(group, value)
            data = isinstance(value, Mapping) or (group == "dataset" and not callable(value))
            objects[target] = functools.partial(_identity, value) if data else value
            texts += ["dataset=arrays"] if group == "dataset" else []
            texts.append(f"{group}._target_={target}")
    given_groups = [group for group, value in parts.items() if value is not None]
    for text in as_texts(overrides):
        key = parse_override(text).key_or_group
        group = key.removesuffix("._target_")
        if group in given_groups:
            rule = f"must not be given twice, as an override and as {group.rpartition('.')[2]}=..."
            raise InvalidValueError(key, text.partition("=")[2], rule)
        if key == "mode":
            rule = "must not be given in Python, where each mode is a function"
            raise InvalidValueError("mode", text.partition("=")[2], rule)
        texts.append(text)
    with given.registered(objects):
        yield texts


def _checked_model(model: Model | None) -> Model | None:
    if model is not None and not callable(model) and not isinstance(model, str):
        raise InvalidValueError("model", repr(model), "must be a class or function that returns a model, or a name")
    if hasattr(model, "state_dict") and not inspect.isclass(model):
        rule = "must be a class or function that returns a new model, because each trial trains its own"
        raise InvalidValueError("model", f"{type(model).__name__}(...)", rule)
    return model


def _checked_task(task: Any) -> Any:
    if task is not None and not isinstance(task, str) and not callable(getattr(task, "loss", None)):
        rule = "must be a class or an object with a method loss(model, batch), or the name of a task"
        raise InvalidValueError("task", repr(task), rule)
    return task


def _checked_schedule(schedule: Function | None) -> Function | None:
    if schedule is not None and not callable(schedule) and not isinstance(schedule, str):
        raise InvalidValueError("schedule", repr(schedule), "must be a function (steps, horizon, **keys), or a name")
    return schedule


def _checked_loop(loop: Loop | None) -> Loop | None:
    if loop is not None and not callable(loop) and not isinstance(loop, str):
        raise InvalidValueError("loop", repr(loop), "must be a function main(run, ...), or a name")
    return loop


def _checked_augment(augment: Augmenter | None) -> Augmenter | None:
    if augment is not None and not callable(augment) and not isinstance(augment, str):
        raise InvalidValueError(
            AUGMENT_KEY,
            repr(augment),
            f"must be a function (inputs, targets, draws), or a name, with overrides {{'{AUGMENT_KEY}.pad': 1}}",
        )
    return augment


def _named(dataset: Data | None) -> Any:
    """Return a mapping with x and y for a pair of arrays, and any other data set unchanged."""
    if dataset is None or isinstance(dataset, str | Mapping) or callable(dataset) or loads_examples(dataset):
        return dataset
    if isinstance(dataset, tuple | list) and len(dataset) == 2:
        return {"x": dataset[0], "y": dataset[1]}
    rule = "must be arrays {'x': ..., 'y': ...}, a pair (x, y), a map-style data set, a function that returns one of"
    rule = f"{rule} these, or a name"
    raise InvalidValueError("dataset", type(dataset).__name__, rule)


def _identity(data: Any) -> Any:
    return data
