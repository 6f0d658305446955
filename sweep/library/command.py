"""The command that means the same as a call."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweep import given
from sweep.errors import InvalidValueError
from sweep.library.values import Overrides, as_texts
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


@contextmanager
def command_of(
    mode: str, overrides: Overrides, model: Model | None, dataset: Data | None, config_dir: str | Path | None
) -> Iterator[Command]:
    """Give the command that means the same as a call. Objects of the call are found as long as the context lasts."""
    register_resolvers()
    texts, objects = [f"mode={mode}"], {}
    for group, value in (("model", _checked_model(model)), ("dataset", dataset)):
        if isinstance(value, str):
            texts.append(f"{group}={value}")
        elif value is not None:
            target = given.target_of(value)
            objects[target] = value if callable(value) else _returning(value)
            texts += ["dataset=arrays"] if group == "dataset" else []
            texts.append(f"{group}._target_={target}")
    for text in as_texts(overrides):
        if read(text).key_or_group == "mode":
            rule = "is for the command line; in Python each mode is a function"
            raise InvalidValueError("mode", text.partition("=")[2], rule)
        texts.append(text)
    request = parse(texts)
    if request.datasets and mode not in OF_COMPARISONS:
        check_searchable("dataset", ",".join(request.datasets))
    folder = None if config_dir is None else str(config_dir)
    flags = () if folder is None else ("--config-dir", folder)
    with given.registered(objects):
        yield Command(Composer(folder), request, flags)


def _checked_model(model: Model | None) -> Model | None:
    if model is not None and not callable(model) and not isinstance(model, str):
        raise InvalidValueError("model", repr(model), "must be a class or function that returns a model, or a name")
    if hasattr(model, "state_dict") and not inspect.isclass(model):
        rule = "must be a class or function that returns a new model, because each trial trains its own"
        raise InvalidValueError("model", f"{type(model).__name__}(...)", rule)
    return model


def _returning(arrays: Mapping[str, Any] | Sequence[Any]) -> Callable[[], Mapping[str, Any]]:
    """Return a function that returns these arrays by their names."""
    if isinstance(arrays, Mapping):
        named = arrays
    elif isinstance(arrays, tuple | list) and len(arrays) == 2:
        named = {"x": arrays[0], "y": arrays[1]}
    else:
        rule = "must be arrays {'x': ..., 'y': ...}, a pair (x, y), a function that returns such a mapping, or a name"
        raise InvalidValueError("dataset", type(arrays).__name__, rule)
    return lambda: named
