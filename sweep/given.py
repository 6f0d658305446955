"""Objects that a user gives in Python instead of by an import path: the class of a model, a function that returns data.

A configuration names such an object by a target as it names other code: `python.Net_1f0a3b5c`. The end of the target is
a digest of the object's source, so that studies of different code have different identities.
"""

import ast
import dis
import functools
import hashlib
import inspect
import pickle
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle
import numpy as np

from sweep.errors import InvalidValueError

PACKAGE = "python"
"""The first part of the target of a given object."""

_objects: dict[str, Any] = {}
"""Target -> object, of this process."""


@contextmanager
def registered(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let the targets of these objects be found for as long as the context lasts.

    Args:
        objects: target -> object.
    """
    added = {target: value for target, value in objects.items() if target not in _objects}
    _objects.update(added)
    try:
        yield
    finally:
        for target in added:
            _objects.pop(target, None)


def is_given(target: Any) -> bool:
    """Return whether a target is that of a given object."""
    return isinstance(target, str) and target.startswith(f"{PACKAGE}.")


def find(key: str, target: str) -> Any:
    """Return the object of a target.

    Raises:
        InvalidValueError: names the key if the object was not given to this command or call.
    """
    if target not in _objects:
        group, name = key.partition(".")[0], name_of(target)
        rule = f"was given in Python; give it again there: {group}={name}"
        raise InvalidValueError(key, target, rule)
    return _objects[target]


def pickled(key: str, target: str) -> bytes:
    """Return the object of a target for another process: classes and functions of a notebook or script as their code.

    Raises:
        InvalidValueError: names the key if the object cannot be pickled.
    """
    try:
        return bytes(cloudpickle.dumps(find(key, target)))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        rule = f"cannot be sent to the process that trains: {error}"
        raise InvalidValueError(key, name_of(target), rule) from error


def restore(target: str, code: bytes) -> None:
    """Let a target be found for the rest of the process, with the object that another process pickled."""
    if target not in _objects:
        _objects[target] = cloudpickle.loads(code)


def target_of(value: Any) -> str:
    """Return the target of an object: its name and a digest of what it does.

    The digest covers the source of functions and of the methods of classes, without comments, and, as far as they come
    from the same module, the functions, classes and constants that these use. An attribute `version` of the object
    replaces its source. Of arrays it covers the contents.
    """
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return f"{PACKAGE}.{_name(value)}_{digest.hexdigest()[:8]}"


def name_of(target: str) -> str:
    """Return the name of the object of a target, without the digest."""
    return target.removeprefix(f"{PACKAGE}.").rpartition("_")[0]


def _name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return _name(value.func)
    if isinstance(value, Mapping | tuple):
        return "arrays"
    name = getattr(value, "__name__", type(value).__name__)
    return name if name.isidentifier() else "function"  # <lambda>


def _parts(value: Any, seen: set[int]) -> Iterator[str | memoryview]:
    """Yield what determines an object: source code and constants, each once."""
    version = getattr(value, "version", None)
    if isinstance(version, str | int | float):
        yield f"version {version}"
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key)
            yield from _parts(value[key], seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            yield from _parts(inner, seen)
    elif value is None or isinstance(value, str | bytes | int | float | complex):
        yield repr(value)
    elif hasattr(value, "__array__"):
        array = _array(value)
        yield f"{array.dtype} {array.shape}"
        yield repr(array.tolist()) if array.dtype == object else array.reshape(-1).view(np.uint8).data
    elif isinstance(value, ModuleType):
        yield value.__name__
    elif id(value) in seen:
        return
    else:
        seen.add(id(value))
        yield from _code_parts(value, seen)


def _array(value: Any) -> np.ndarray:
    if not hasattr(value, "detach"):
        return np.ascontiguousarray(value)
    tensor = value.detach().cpu()
    try:
        return np.ascontiguousarray(tensor)
    except TypeError:  # bfloat16
        return np.ascontiguousarray(tensor.float())


def _code_parts(value: Any, seen: set[int]) -> Iterator[str | memoryview]:
    """Yield the parts of a class, a function, or an object with attributes."""
    if isinstance(value, functools.partial):
        for part in (value.func, value.args, value.keywords):
            yield from _parts(part, seen)
    elif isinstance(value, property):
        for accessor in (value.fget, value.fset):
            yield from _parts(accessor, seen)
    elif isinstance(value, staticmethod | classmethod):
        yield from _parts(value.__func__, seen)
    elif inspect.isclass(value):
        yield f"class {value.__qualname__}"
        for base in value.__bases__:
            yield from _used(base, value.__module__, seen)
        for name, member in sorted(vars(value).items()):
            is_code = isinstance(member, FunctionType | property | staticmethod | classmethod)
            if is_code or not (name.startswith("__") and name.endswith("__")):
                yield name
                yield from _parts(member, seen)
    elif isinstance(value, FunctionType):
        yield _source(value)
        yield from _parts((value.__defaults__, value.__kwdefaults__), seen)
        for cell in value.__closure__ or ():
            yield from _used(cell.cell_contents, value.__module__, seen)
        for name in sorted(_names(value.__code__)):
            if name in value.__globals__:
                yield name
                yield from _used(value.__globals__[name], value.__module__, seen)
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}"
        yield from _parts(dict(getattr(value, "__dict__", {})), seen)


def _used(value: Any, module: str, seen: set[int]) -> Iterator[str | memoryview]:
    """Yield the parts of what code of a module uses; of code from elsewhere only where it comes from."""
    if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__ != module:
        yield f"{value.__module__}.{value.__qualname__}"
    else:
        yield from _parts(value, seen)


def _source(function: FunctionType) -> str:
    """Return the source of a function without comments and formatting; its bytecode if there is no source."""
    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError, IndentationError):  # code of an interactive session; a lambda in a call
        return _bytecode(function.__code__)


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names} {code.co_varnames}"


def _constant(value: Any) -> str:
    return f"set {sorted(map(repr, value))}" if isinstance(value, frozenset) else repr(value)


def _names(code: CodeType) -> set[str]:
    """Return the global names that code and the functions within it look up."""
    within = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    own = {str(each.argval) for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*within)
