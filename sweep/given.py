"""Registers objects that a user gives in Python instead of an import path: models, data, schedules, ...

A configuration names such an object by a target, `python.Net_1f0a3b5c`. The target ends with a digest of the object's
code, so that studies with different code have different identities.
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
from sweep.targets import GIVEN_PACKAGE, name_of

PROJECT_PACKAGES = ("sweep", "models")

C_FUNCTION_TYPES = (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
)
"""Types of functions and methods that are written in C."""

MIN_ARRAY_ELEMENTS = 1000
"""A sequence of at least so many numbers is converted to an array, which is faster to digest."""

_LOCK = threading.Lock()


@dataclass
class _Registered:
    """A registered object.

    Args:
        users: number of contexts that have registered it.
        code: the pickled object; None until it is needed.
    """

    value: Any
    users: int = 0
    code: bytes | None = None


_registry: dict[str, _Registered] = {}
"""Maps targets to the objects that are registered in this process."""


@contextmanager
def registered(objects: Mapping[str, Any]) -> Iterator[None]:
    """Register objects within the context.

    Args:
        objects: target -> object.
    """
    with _LOCK:
        for target, value in objects.items():
            _registry.setdefault(target, _Registered(value)).users += 1
    try:
        yield
    finally:
        with _LOCK:
            for target in objects:
                _registry[target].users -= 1
                if not _registry[target].users:
                    del _registry[target]


def register(target: str, value: Any) -> None:
    """Register an object for the rest of the process."""
    with _LOCK:
        _registry.setdefault(target, _Registered(value)).users += 1


def lookup(key: str, target: str) -> Any:
    """Return the object that is registered for a target.

    Raises:
        InvalidValueError: names the key if no object is registered for it.
    """
    if target not in _registry:
        group, name = _argument_name(key), name_of(target)
        rule = f"was given in Python, and must be given there again: {group}={name}"
        raise InvalidValueError(key, target, rule)
    return _registry[target].value


def pickled(key: str, target: str) -> bytes:
    """Return the pickled object of a target. What a notebook or script defines is pickled by value.

    Raises:
        InvalidValueError: names the key if the object cannot be pickled.
    """
    value = lookup(key, target)
    known = _registry[target]
    if known.code is None:
        try:
            with _pickled_by_value(getattr(value, "__module__", None)):
                known.code = bytes(cloudpickle.dumps(value))
        except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
            rule = f"cannot be sent to the process that trains: {error}"
            raise InvalidValueError(_argument_name(key), name_of(target), rule) from error
    return known.code


def _argument_name(key: str) -> str:
    """Return the name of the function argument for an object, given the key of the object or of its target."""
    return key.removesuffix("._target_").rpartition(".")[2]


def restore(target: str, code: bytes) -> None:
    """Register an object that another process has pickled, for the rest of the process."""
    if target not in _registry:
        _registry[target] = _Registered(cloudpickle.loads(code), users=1, code=code)


@contextmanager
def _pickled_by_value(name: str | None) -> Iterator[None]:
    """Within the context, pickle objects of a module by value if another process could not import the module."""
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
    """Return the target of an object, which has its name and a digest of its code.

    The digest covers the compiled code of functions and methods, and everything of the user's own modules that this
    code uses: functions, classes and constants. Code of an installed package is represented by its name. If the object
    has an attribute `version`, the digest covers that instead. Comments, docstrings and formatting do not change the
    digest; a different minor version of Python does, because it compiles to different code.

    Raises:
        InvalidValueError: names the key if no digest of the object can be computed.
    """
    walk = _ObjectDigest()
    try:
        walk.add(value)
    except Exception as error:  # an attribute or method of the user's object may raise anything
        rule = f"has no digest ({type(error).__name__}: {error}); give it an attribute version = 1"
        raise InvalidValueError(key, _object_name(value), rule) from error
    return f"{GIVEN_PACKAGE}.{_object_name(value)}_{walk.digest.hexdigest()[:8]}"


def _object_name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return _object_name(value.func)
    if isinstance(value, Mapping):
        return "arrays"
    name = getattr(value, "__name__", type(value).__name__)
    return name if name.isidentifier() else "function"  # <lambda>


class _ObjectDigest:
    """Computes a digest of an object, its code, and everything that the code uses."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._index_of_id: dict[int, int] = {}
        self._visited: list[Any] = []
        """References to the visited objects, so that their ids are not reused."""

    def add(self, value: Any) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            self._update(type(value).__name__, repr(value))
        elif isinstance(value, ModuleType):
            self._update("module", value.__name__)
        elif id(value) in self._index_of_id:
            self._update("again", self._index_of_id[id(value)])
        else:
            self._index_of_id[id(value)] = len(self._index_of_id)
            self._visited.append(value)
            self._add_object(value)

    def _update(self, *parts: Any) -> None:
        self.digest.update("\0".join([*map(str, parts), ""]).encode())

    def _add_object(self, value: Any) -> None:
        version = getattr(value, "__dict__", {}).get("version")
        if isinstance(version, str | int | float):
            self._update("version", version)
        elif isinstance(value, Mapping):
            self._update("mapping", type(value).__name__, len(value))
            for key in sorted(value, key=repr):
                self.add(key)
                self.add(value[key])
        elif isinstance(value, list | tuple) and (numbers := _number_array(value)) is not None:
            self._add_array(numbers)
        elif isinstance(value, list | tuple):
            self._update("sequence", type(value).__name__, len(value))
            for inner in value:
                self.add(inner)
        elif isinstance(value, set | frozenset):
            self._update("set", type(value).__name__, sorted(map(_digest_of, value)))
        elif inspect.isclass(value):
            self._add_class(value)
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, MethodType):
            self._update("method")
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, staticmethod | classmethod):
            self._update(type(value).__name__)
            self.add(value.__func__)
        elif isinstance(value, property):
            self._update("property")
            for accessor in (value.fget, value.fset):
                self.add(accessor)
        elif isinstance(value, C_FUNCTION_TYPES):
            self._update("builtin", getattr(value, "__module__", ""), getattr(value, "__qualname__", ""))
            self.add(getattr(value, "__self__", None))
        elif hasattr(value, "__array__"):
            self._add_array(value)
        else:
            self._add_instance(value)

    def _add_class(self, value: type) -> None:
        self._update("class", value.__module__ if not _is_own(value.__module__) else "", value.__qualname__)
        if not _is_own(value.__module__):
            return
        for base in value.__bases__:
            self.add(base)
        for name, member in sorted(vars(value).items()):
            is_code = isinstance(member, FunctionType | property | staticmethod | classmethod)
            if is_code or not (name.startswith("__") and name.endswith("__")):
                self._update("member", name)
                self.add(member)

    def _add_function(self, value: FunctionType) -> None:
        if not _is_own_file(value.__code__.co_filename):
            self._update("function", value.__module__, value.__qualname__)
            self.add(getattr(value, "__wrapped__", None))  # a package's decorator of a user's function
            return
        self._update("function")
        self._add_code(value.__code__)
        self.add(value.__defaults__)
        self.add(value.__kwdefaults__)
        if "n_draws" in vars(value):  # an augmentation gets so many random numbers
            self.add(value.n_draws)  # type: ignore[attr-defined]
        for cell in value.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # an empty cell
                self._update("empty")
        names = _names(value.__code__)
        for name in sorted(_global_names(value.__code__)):
            if name not in value.__globals__:  # a builtin
                continue
            used = value.__globals__[name]
            self._update("global", name)
            self.add(used)
            if isinstance(used, ModuleType) and _is_own(used.__name__):
                for attribute in sorted(names & vars(used).keys()):
                    self._update("attribute", attribute)
                    self.add(vars(used)[attribute])

    def _add_code(self, code: CodeType) -> None:
        """Add instructions and constants. Docstrings and line numbers are not part of any instruction."""
        self._update("code", code.co_varnames, code.co_exceptiontable.hex())
        for instruction in dis.get_instructions(code):
            self._update(instruction.opname)
            if isinstance(instruction.argval, CodeType):
                self._add_code(instruction.argval)
            else:
                self.add(instruction.argval)

    def _add_array(self, value: Any) -> None:
        array = value if isinstance(value, np.ndarray) else _as_array(value)
        narrow = "bfloat16" if str(getattr(value, "dtype", "")) == "torch.bfloat16" else ""  # read as float32
        self._update("array", narrow, list(getattr(value, "columns", [])))
        self._update(array.dtype, array.shape)
        if isinstance(array, np.ma.MaskedArray):
            self.add(np.ma.getmaskarray(array))
            array = array.filled(0)
        if array.dtype == object:
            self.add(array.tolist())
        else:
            self.digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _add_instance(self, value: Any) -> None:
        """Add the class and the state of an object as pickle would store them."""
        self._update("instance")
        self.add(type(value))
        self.add(getattr(value, "__wrapped__", None))  # functools.lru_cache
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # the object cannot be pickled
            self.add(getattr(value, "__dict__", None))
            return
        if isinstance(reduced, str):
            self._update("global", reduced)
            return
        make, arguments, *state = reduced
        self.add(make)
        self.add(arguments)
        for part in state[:1]:
            self.add(part)
        for items in state[1:3]:  # the elements of a list or mapping
            self.add(None if items is None else list(items))


def _number_array(value: Sequence[Any]) -> np.ndarray | None:
    """Return a long, possibly nested sequence of numbers as an array; None for any other sequence."""
    if len(value) < MIN_ARRAY_ELEMENTS:
        return None
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _digest_of(value: Any) -> str:
    walk = _ObjectDigest()
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
    """Return whether a module is the user's own: not installed, and not part of this project or of Python."""
    if module.partition(".")[0] in PROJECT_PACKAGES:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return module == "__main__" or (_is_own_file(file) if file else module not in sys.builtin_module_names)


@functools.lru_cache(10_000)
def _is_own_file(name: str) -> bool:
    """Return whether the code of a file is the user's own. Code of an interactive session has no file."""
    if name.startswith("<"):
        return not name.startswith("<frozen")
    path = Path(name)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    places = (sysconfig.get_path("stdlib"), Path(__file__).absolute().parent)
    return not installed and not any(path.is_relative_to(place) for place in places)


def _names(code: CodeType) -> set[str]:
    """Return the names of all globals and attributes that code and its nested functions use."""
    within = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*within)


def _global_names(code: CodeType) -> set[str]:
    """Return the names of the globals that code and its nested functions use."""
    within = [_global_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    own = {str(each.argval) for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*within)
