"""The command that means the same as a call."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweep import given
from sweep.api.values import Overrides, as_texts
from sweep.errors import InvalidValueError
from sweep.requests.asking import own_trainer
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.expressions import OF_COMPARISONS, check_searchable, parse, read
from sweep.requests.resolvers import register_resolvers

Model = str | Callable[..., Any]
"""The name of an option of conf/model, or a class or function that returns a new torch.nn.Module.

It gets those of `input_shape`, the shape of an example, and `n_outputs` that it has parameters for, and the keys of
`model` that are given: `{"model.width": 32}`.
"""
Data = str | Callable[..., Any] | Mapping[str, Any] | Sequence[Any]
"""The name of an option of conf/dataset; arrays {"x": [n, ...], "y": [n, ...]}, or x_train, y_train, x_val, ...; a pair
(x, y); or a function that returns such a mapping, and gets the keys of `dataset` that are given."""

Loop = str | Callable[..., Any]
"""The name of an option of conf/loop, or a function `main(run, **keys)` that does the training itself."""


@contextmanager
def command_of(
    mode: str,
    overrides: Overrides,
    model: Model | None = None,
    dataset: Data | None = None,
    config_dir: str | Path | None = None,
    loop: Loop | None = None,
) -> Iterator[Command]:
    """Give the command that means the same as a call. Objects of the call are found as long as the context lasts."""
    with _given_objects(mode, overrides, model, dataset, loop) as texts, own_trainer():
        request = parse(texts)
        if request.datasets and mode not in OF_COMPARISONS:
            check_searchable("dataset", ",".join(request.datasets))
        folder = None if config_dir is None else str(config_dir)
        flags = () if folder is None else ("--config-dir", folder)
        yield Command(Composer(folder), request, flags)


@contextmanager
def _given_objects(
    mode: str, overrides: Overrides, model: Model | None, dataset: Data | None, loop: Loop | None
) -> Iterator[list[str]]:
    """Give all overrides of a call as texts, with targets for its objects."""
    register_resolvers()
    texts, objects = [f"mode={mode}"], {}
    if loop is not None and not callable(loop) and not isinstance(loop, str):
        raise InvalidValueError("loop", repr(loop), "must be a function main(run, ...), or a name")
    given_values = (("model", _checked_model(model)), ("dataset", _named(dataset)), ("loop", loop))
    for group, value in given_values:
        if isinstance(value, str):
            texts.append(f"{group}={value}")
        elif value is not None:
            target = given.target_of(group, value)
            objects[target] = functools.partial(_returned, value) if isinstance(value, Mapping) else value
            texts += ["dataset=arrays"] if group == "dataset" else []
            texts.append(f"{group}._target_={target}")
    given_groups = [group for group, value in given_values if value is not None]
    for text in as_texts(overrides):
        key = read(text).key_or_group
        group = key.removesuffix("._target_")
        if group in given_groups:
            raise InvalidValueError(key, text.partition("=")[2], f"is given twice: as an override, and as {group}=...")
        if key == "mode":
            rule = "is for the command line; in Python each mode is a function"
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


def _named(dataset: Data | None) -> str | Callable[..., Any] | Mapping[str, Any] | None:
    """Return a pair of arrays by their names, and anything else that may be a data set as it is."""
    if dataset is None or isinstance(dataset, str | Mapping) or callable(dataset):
        return dataset
    if isinstance(dataset, tuple | list) and len(dataset) == 2:
        return {"x": dataset[0], "y": dataset[1]}
    rule = "must be arrays {'x': ..., 'y': ...}, a pair (x, y), a function that returns such a mapping, or a name"
    raise InvalidValueError("dataset", type(dataset).__name__, rule)


def _returned(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    return arrays
