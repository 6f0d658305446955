"""Objects that a user gives in Python instead of by an import path: a class of models, a function of data, a schedule.

A configuration names such an object by a target as it names other code: `python.Net_1f0a3b5c`. The end of the target is
a digest of the object's code, so that studies of different code have different identities.
"""

import dis
import functools
import hashlib
import inspect
import pickle
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import cloudpickle
import numpy as np

from sweep.errors import InvalidValueError
from sweep.targets import PACKAGE, name_of

OURS = ("sweep", "models")

BUILTIN = (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
)
"""Functions and methods that are written in C."""

LONG = 1000
"""Elements from which on a sequence of numbers is read as an array, which is faster."""

_LOCK = threading.Lock()


@dataclass
class _Known:
    """An object that is registered.

    Args:
        users: contexts that registered it.
        code: it, pickled for another process; None until it is needed.
    """

    value: Any
    users: int = 0
    code: bytes | None = None


_known: dict[str, _Known] = {}
"""By target, of this process."""


@contextmanager
def registered(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let the targets of these objects be found for as long as the context lasts.

    Args:
        objects: target -> object.
    """
    with _LOCK:
        for target, value in objects.items():
            _known.setdefault(target, _Known(value)).users += 1
    try:
        yield
    finally:
        with _LOCK:
            for target in objects:
                _known[target].users -= 1
                if not _known[target].users:
                    del _known[target]


def keep(target: str, value: Any) -> None:
    """Let the target of an object be found for the rest of the process."""
    with _LOCK:
        _known.setdefault(target, _Known(value)).users += 1


def find(key: str, target: str) -> Any:
    """Return the object of a target.

    Raises:
        InvalidValueError: names the key if the object was not given to this command or call.
    """
    if target not in _known:
        group, name = _keyword(key), name_of(target)
        rule = f"was given in Python; give it again there: {group}={name}"
        raise InvalidValueError(key, target, rule)
    return _known[target].value


def pickled(key: str, target: str) -> bytes:
    """Return the object of a target, pickled for another process; what is defined in a notebook or script, by value.

    Raises:
        InvalidValueError: names the key if the object cannot be pickled.
    """
    value = find(key, target)
    known = _known[target]
    if known.code is None:
        try:
            with _by_value(getattr(value, "__module__", None)):
                known.code = bytes(cloudpickle.dumps(value))
        except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
            rule = f"cannot be sent to the process that trains: {error}"
            raise InvalidValueError(_keyword(key), name_of(target), rule) from error
    return known.code


def _keyword(key: str) -> str:
    """Return the argument of a call that gives an object, of the key of the object or of its target."""
    return key.removesuffix("._target_").rpartition(".")[2]


def restore(target: str, code: bytes) -> None:
    """Let a target be found for the rest of the process, with the object that another process pickled."""
    if target not in _known:
        _known[target] = _Known(cloudpickle.loads(code), users=1, code=code)


@contextmanager
def _by_value(name: str | None) -> Iterator[None]:
    """Let a module that another process could not import be pickled by value within the context."""
    module, top = sys.modules.get(name or ""), str(name).partition(".")[0]
    importable = module is None or top == "__main__" or any(finder.find_spec(top, None) for finder in sys.meta_path)
    if importable or name in cloudpickle.list_registry_pickle_by_value():
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def target_of(key: str, value: Any) -> str:
    """Return the target of an object: its name and a digest of what it does.

    The digest covers the compiled code of functions and of the methods of classes, and what this code uses: functions,
    classes and constants of the user's own modules. What comes from an installed package counts by its name alone. An
    attribute `version` of the object replaces all that. Comments, docstrings and formatting do not count; a new minor
    version of Python compiles to other code.

    Raises:
        InvalidValueError: names the key if there is no digest of the object.
    """
    walk = _Walk()
    try:
        walk.add(value)
    except Exception as error:  # whatever an object of the user's raises when it is looked at
        rule = f"cannot be told from other code ({type(error).__name__}: {error}); give it an attribute version = 1"
        raise InvalidValueError(key, _name(value), rule) from error
    return f"{PACKAGE}.{_name(value)}_{walk.digest.hexdigest()[:8]}"


def _name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return _name(value.func)
    if isinstance(value, Mapping):
        return "arrays"
    name = getattr(value, "__name__", type(value).__name__)
    return name if name.isidentifier() else "function"  # <lambda>


class _Walk:
    """Visits all that determines an object, each part once, and computes a digest of it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []
        """All visited objects, so that no other one gets the id of one of them."""

    def add(self, value: Any) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            self._say(type(value).__name__, repr(value))
        elif isinstance(value, ModuleType):
            self._say("module", value.__name__)
        elif id(value) in self._seen:
            self._say("again", self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._add_object(value)

    def _say(self, *parts: Any) -> None:
        self.digest.update("\0".join([*map(str, parts), ""]).encode())

    def _add_object(self, value: Any) -> None:
        version = getattr(value, "__dict__", {}).get("version")
        if isinstance(version, str | int | float):
            self._say("version", version)
        elif isinstance(value, Mapping):
            self._say("mapping", type(value).__name__, len(value))
            for key in sorted(value, key=repr):
                self.add(key)
                self.add(value[key])
        elif isinstance(value, list | tuple) and (numbers := _numbers(value)) is not None:
            self._add_array(numbers)
        elif isinstance(value, list | tuple):
            self._say("sequence", type(value).__name__, len(value))
            for inner in value:
                self.add(inner)
        elif isinstance(value, set | frozenset):
            self._say("set", type(value).__name__, sorted(map(_digest_of, value)))
        elif inspect.isclass(value):
            self._add_class(value)
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, MethodType):
            self._say("method")
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, staticmethod | classmethod):
            self._say(type(value).__name__)
            self.add(value.__func__)
        elif isinstance(value, property):
            self._say("property")
            for accessor in (value.fget, value.fset):
                self.add(accessor)
        elif isinstance(value, BUILTIN):
            self._say("builtin", getattr(value, "__module__", ""), getattr(value, "__qualname__", ""))
            self.add(getattr(value, "__self__", None))
        elif hasattr(value, "__array__"):
            self._add_array(value)
        else:
            self._add_instance(value)

    def _add_class(self, value: type) -> None:
        self._say("class", value.__module__ if not _is_own(value.__module__) else "", value.__qualname__)
        if not _is_own(value.__module__):
            return
        for base in value.__bases__:
            self.add(base)
        for name, member in sorted(vars(value).items()):
            is_code = isinstance(member, FunctionType | property | staticmethod | classmethod)
            if is_code or not (name.startswith("__") and name.endswith("__")):
                self._say("member", name)
                self.add(member)

    def _add_function(self, value: FunctionType) -> None:
        if not _is_own_file(value.__code__.co_filename):
            self._say("function", value.__module__, value.__qualname__)
            self.add(getattr(value, "__wrapped__", None))  # a decorator of a package around a function of the user's
            return
        self._say("function")
        self._add_code(value.__code__)
        self.add(value.__defaults__)
        self.add(value.__kwdefaults__)
        if "n_draws" in vars(value):  # of an augmentation: which numbers it gets
            self.add(value.n_draws)  # type: ignore[attr-defined]
        for cell in value.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # an empty cell
                self._say("empty")
        names = _names(value.__code__)
        for name in sorted(_global_names(value.__code__)):
            if name not in value.__globals__:  # of builtins
                continue
            used = value.__globals__[name]
            self._say("global", name)
            self.add(used)
            if isinstance(used, ModuleType) and _is_own(used.__name__):
                for attribute in sorted(names & vars(used).keys()):
                    self._say("attribute", attribute)
                    self.add(vars(used)[attribute])

    def _add_code(self, code: CodeType) -> None:
        """Visit instructions and constants. No instruction uses a docstring, or depends on a line number."""
        self._say("code", code.co_varnames, code.co_exceptiontable.hex())
        for instruction in dis.get_instructions(code):
            self._say(instruction.opname)
            if isinstance(instruction.argval, CodeType):
                self._add_code(instruction.argval)
            else:
                self.add(instruction.argval)

    def _add_array(self, value: Any) -> None:
        array = value if isinstance(value, np.ndarray) else _as_array(value)
        narrow = "bfloat16" if str(getattr(value, "dtype", "")) == "torch.bfloat16" else ""  # read as float32
        self._say("array", narrow, list(getattr(value, "columns", [])))
        self._say(array.dtype, array.shape)
        if isinstance(array, np.ma.MaskedArray):
            self.add(np.ma.getmaskarray(array))
            array = array.filled(0)
        if array.dtype == object:
            self.add(array.tolist())
        else:
            self.digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _add_instance(self, value: Any) -> None:
        """Visit the class and the state of an object, as pickle sees it."""
        self._say("instance")
        self.add(type(value))
        self.add(getattr(value, "__wrapped__", None))  # functools.lru_cache
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # whatever refuses to be pickled
            self.add(getattr(value, "__dict__", None))
            return
        if isinstance(reduced, str):
            self._say("global", reduced)
            return
        make, arguments, *state = reduced
        self.add(make)
        self.add(arguments)
        for part in state[:1]:
            self.add(part)
        for items in state[1:3]:  # of a list or a mapping
            self.add(None if items is None else list(items))


def _numbers(value: Sequence[Any]) -> np.ndarray | None:
    """Return a long sequence of numbers, perhaps nested, as an array; None if it is something else."""
    if len(value) < LONG:
        return None
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _digest_of(value: Any) -> str:
    walk = _Walk()
    walk.add(value)
    return walk.digest.hexdigest()


def _as_array(value: Any) -> np.ndarray:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    if "sparse" in str(tensor.layout):
        tensor = tensor.to_dense()
    try:
        return np.asarray(tensor)
    except TypeError:  # bfloat16
        return np.asarray(tensor.float())


def _is_own(module: str) -> bool:
    """Return whether a module is the user's own, and neither installed nor a part of this project or of Python."""
    if module.partition(".")[0] in OURS:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return module == "__main__" or (_is_own_file(file) if file else module not in sys.builtin_module_names)


@functools.lru_cache(10_000)
def _is_own_file(name: str) -> bool:
    """Return whether code of this file is the user's own. Code of an interactive session has no file."""
    if name.startswith("<"):
        return not name.startswith("<frozen")
    path = Path(name)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not path.is_relative_to(sysconfig.get_path("stdlib")) and not _is_ours(path)


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(Path(__file__).absolute().parent)


def _names(code: CodeType) -> set[str]:
    """Return all names of globals and attributes that code and the functions within it use."""
    within = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*within)


def _global_names(code: CodeType) -> set[str]:
    """Return the global names that code and the functions within it look up."""
    within = [_global_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    own = {str(each.argval) for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*within)
