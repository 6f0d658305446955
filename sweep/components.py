"""Finds models, optimizers, data sets and functions by import path, checks that they are allowed, and calls them."""

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from sweep import given
from sweep.errors import InvalidValueError
from sweep.targets import is_given, name_of
from sweep.tracebacks import refusal, summary

OWN_MODELS = "sweep.models"
"""The import name of the project's package `models`, which cannot clash with a user's package. A `_target_` may also
write `models`."""

OWN_PACKAGES = (
    "models", "sweep.data.sources", "torch.nn", "torch.optim", "schedulefree",
    "sweep.training.optimizers", "sweep.training.commands", OWN_MODELS,
)  # fmt: skip
"""Packages whose classes and functions a `_target_` may name without `trusted`."""

REQUIRED_BASES = {
    "torch": ("torch.nn.modules.module.Module", "torch.optim.optimizer.Optimizer"),
    "schedulefree": ("torch.optim.optimizer.Optimizer",),
}
"""Maps an external package to the base classes that a `_target_` in it must have: its functions could run any code."""

OPTIONAL_PACKAGES = ("schedulefree",)
"""Members of OWN_PACKAGES that are optional dependencies."""


@dataclass(frozen=True)
class Component:
    """An import path with arguments, for a model, an optimizer, a data set, a function, ...

    Nothing is imported before a method needs the target.

    Args:
        key: the configuration key, for messages.
        target: import path of a class or function in OWN_PACKAGES or a trusted package.
        arguments: keyword arguments; a mapping with a `_target_` is replaced by the result of calling it.
        trusted: further packages whose code may be called.

    Raises:
        InvalidValueError: names `key`._target_ if the target is in none of these packages.
    """

    key: str
    target: str
    arguments: Mapping[str, Any]
    trusted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_package(f"{self.key}._target_", self.target, OWN_PACKAGES + self.trusted)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the component with the code of an object that was given in Python."""
        return _restore, (self.key, self.target, self.arguments, self.trusted, self._code())

    def check(self) -> None:
        """Import the target; refuse unknown arguments, and an object that cannot be sent to another process.

        Raises:
            InvalidValueError: names `key`._target_ or the argument.
        """
        self._code()
        self.refuse_unknown_arguments()

    def refuse_unknown_arguments(self, further: Collection[str] = ()) -> None:
        """Refuse arguments that the target has no parameters for.

        Args:
            further: keys of the group that are not arguments of the target.

        Raises:
            InvalidValueError: names the argument.
        """
        known = [*further, *self._parameters()]
        for name, value in self.arguments.items():
            if not self.accepts(name):
                near = get_close_matches(name, known, n=1, cutoff=0.7)
                hint = f" (did you mean {near[0]}?)" if near else ""
                rule = f"is not a key of {self.target}{hint}, which has {', '.join(known) or 'no arguments'}"
                raise InvalidValueError(f"{self.key}.{name}", value, rule)

    def _code(self) -> bytes | None:
        """Return the pickled object if it was given in Python; None for a data set, whose arrays are sent instead.

        Raises:
            InvalidValueError: names the key if the object cannot be pickled.
        """
        if self.key == "dataset" or not is_given(self.target):
            return None
        return given.pickled(self.key, self.target)

    def has_parameter(self, name: str) -> bool:
        """Return whether the target has a parameter of that name."""
        return name in self._parameters()

    def accepts(self, name: str) -> bool:
        """Return whether the target can be called with a keyword argument of that name."""
        parameters = self._parameters()
        return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())

    @property
    def is_trusted(self) -> bool:
        """Return whether the target is the user's code: in a trusted package, or given in Python."""
        return is_given(self.target) or _is_user_code(self.key, self.target, self.trusted)

    @property
    def own_target(self) -> str:
        """Return the import path of the target, with `sweep.models` instead of `models` for a model of the project."""
        if _is_in(self.target, ("models",)) and not self.is_trusted:
            return f"sweep.{self.target}"
        return self.target

    def build(self, *positional: Any, **provided: Any) -> Any:
        """Call the target with its arguments and with those of `provided` that it has parameters for.

        The target gets copies of the arguments, so that it cannot change the arguments of a later call.

        Raises:
            InvalidValueError: if `check` refuses it, or the target raises another error than MemoryError.
            MemoryError: if the target does, because the arguments are not the cause.
        """
        call, arguments = self.target_and_arguments()
        accepted = {name: value for name, value in provided.items() if self.has_parameter(name)}
        try:
            return call(*positional, **accepted, **arguments)
        except InvalidValueError as error:
            raise error.under(self.key) from error
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            if is_given(self.target):
                raise InvalidValueError(self.key, _call_text(self), f"raised {summary(error)}") from error
            rule = f"was refused by {self.target}: {refusal(error)}"
            raise InvalidValueError(self.key, _call_text(self), rule) from error

    def function(self) -> Any:
        """Return the function at the target with its arguments bound, or a new object if the target is a class.

        Raises:
            InvalidValueError: if `check` refuses it, or the class cannot be called.
        """
        found = locate(self.key, self.target, self.trusted)
        if inspect.isclass(found):
            return self.build()
        self.check()
        return functools.partial(found, **self.arguments) if self.arguments else found

    def target_and_arguments(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the target and copies of its arguments, for a caller that handles its errors.

        Raises:
            InvalidValueError: if `check` refuses it.
        """
        self.check()
        arguments = {name: self._nested(name, _copy_nested(value)) for name, value in self.arguments.items()}
        return locate(self.key, self.target, self.trusted), arguments

    def check_call(self, *positional: str) -> None:
        """Refuse a call for which an argument is missing or given twice.

        Args:
            positional: names of the positional arguments of the call.

        Raises:
            InvalidValueError: names the `_target_`.
        """
        self.check()
        found = locate(self.key, self.target, self.trusted)
        try:
            inspect.signature(found).bind(*positional, **self.arguments)
        except TypeError as error:
            keys = ", ".join([*positional, *self.arguments])
            rule = f"cannot be called with ({keys}): {error}"
            raise InvalidValueError(f"{self.key}._target_", self.target, rule) from error

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        found = locate(self.key, self.target, self.trusted)
        if is_given(self.target) and not callable(found):  # an instance, such as a task
            return {}
        try:
            return inspect.signature(found).parameters
        except (ValueError, TypeError) as error:  # some classes written in C have no signature
            rule = f"cannot be called, because its parameters are not known: {error}"
            raise InvalidValueError(f"{self.key}._target_", self.target, rule) from error

    def _nested(self, name: str, value: Any) -> Any:
        if not (isinstance(value, Mapping) and "_target_" in value):
            return value
        arguments = {key: inner for key, inner in value.items() if key != "_target_"}
        return Component(f"{self.key}.{name}", value["_target_"], arguments, self.trusted).build()


def trusted_function(key: str, target: Any, arguments: Mapping[str, Any], trusted: tuple[str, ...]) -> Component:
    """Return a component for the user's code: a target in a trusted package, or one given in Python.

    Raises:
        InvalidValueError: names `key`._target_ if the target is other code, or an argument that has a `_target_`.
    """
    for name, value in arguments.items():
        if isinstance(value, Mapping) and "_target_" in value:
            rule = f"must be plain data: {target} can build further objects itself"
            raise InvalidValueError(f"{key}.{name}._target_", value["_target_"], rule)
    if isinstance(target, str) and (_is_in(target, trusted) or is_given(target)):
        component = Component(key, target, arguments, trusted)
        if component.is_trusted:
            return component
    rule = "must be a function of your own package, which the command line trusts: trusted=[mylab]"
    raise InvalidValueError(f"{key}._target_", target, rule)


def _restore(
    key: str, target: str, arguments: Mapping[str, Any], trusted: tuple[str, ...], code: bytes | None
) -> Component:
    if code is not None:
        given.restore(target, code)
    return Component(key, target, arguments, trusted)


def _copy_nested(value: Any) -> Any:
    """Return a copy of nested mappings and lists; other objects are not copied."""
    if isinstance(value, Mapping):
        return {key: _copy_nested(inner) for key, inner in value.items()}
    return [_copy_nested(inner) for inner in value] if isinstance(value, list) else value


def _call_text(component: Component) -> str:
    """Return a call for a message: `{width: 3}`, or `Net(width=3)` for an object that was given in Python."""
    arguments = component.arguments.items()
    if not is_given(component.target):
        return "{" + ", ".join(f"{name}: {value}" for name, value in arguments) + "}"
    text = ", ".join(f"{name}={value}" for name, value in arguments)
    return name_of(component.target) + (f"({text})" if text else "")


def own_folder(name: str) -> Path:
    """Return the project's folder `conf` or `models`: in this package in a wheel, beside it in a clone."""
    package = Path(__file__).absolute().parent
    return next(folder for folder in (package / name, package.parent / name) if folder.is_dir())


def locate(key: str, target: Any, trusted: tuple[str, ...] = ()) -> Any:
    """Return the class or function at an import path, or the object that was given in Python for a target.

    The path must be in OWN_PACKAGES or a trusted package; no other package is imported. A name that a trusted module
    has merely imported from elsewhere is not found. If a path exists both in OWN_PACKAGES and in a trusted package, it
    means the trusted one.

    Raises:
        InvalidValueError: names `key`._target_.
    """
    return _find(key, target, trusted)[0]


def shadowing(targets: Mapping[str, str], trusted: tuple[str, ...]) -> list[str]:
    """Return the keys whose targets are the user's code although OWN_PACKAGES may have the same import path.

    Args:
        targets: configuration key -> import path.
    """
    return [
        key for key, target in targets.items() if _is_in(target, OWN_PACKAGES) and _is_user_code(key, target, trusted)
    ]


def recorded_target(target: str) -> str:
    """Return the import path by which a model is recorded and identified: `models` for the project's package."""
    return target.removeprefix("sweep.") if _is_in(target, (OWN_MODELS,)) else target


def _find(key: str, target: Any, trusted: tuple[str, ...]) -> tuple[Any, bool]:
    """Return what `locate` returns, and whether it is the user's code."""
    key = f"{key}._target_"
    _check_package(key, target, OWN_PACKAGES + trusted)
    if is_given(target):
        return given.lookup(key, target), True
    first = None
    for packages, import_module in ((trusted, _import_trusted), (OWN_PACKAGES, _import_own)):
        if not _is_in(target, packages):
            continue
        module_name, names, found = _import_longest(key, target, import_module)
        is_trusted = packages is trusted and _is_trusted(found, trusted)
        if is_trusted or (len(names) == 1 and _is_own(found)):
            return found, is_trusted
        top = target.partition(".")[0]
        if module_name is not None and len(names) > 1 and not hasattr(sys.modules[module_name], names[0]):
            rule = f"could not be imported: there is no module {module_name}.{names[0]}"
        elif module_name is not None:
            rule = f"is not a class or function of {module_name}"
            if packages is trusted and callable(found) and (home := _module_of(found)) and not _is_in(home, trusted):
                rule += f"; {module_name} imports it from {home}, whose package must be trusted too"
        elif top in OPTIONAL_PACKAGES:
            rule = f"is not installed; pip install {top}"
        else:
            rule = "could not be imported: there is no such module"
        first = first or InvalidValueError(key, target, rule)
    assert first is not None
    raise first


def _is_user_code(key: str, target: str, trusted: tuple[str, ...]) -> bool:
    """Return whether a target is code of a trusted package. It is imported only if OWN_PACKAGES may have it too."""
    if not _is_in(target, trusted):
        return False
    return not _is_in(target, OWN_PACKAGES) or _find(key, target, trusted)[1]


def _check_package(key: str, target: Any, packages: tuple[str, ...]) -> None:
    """Refuse anything but an import path in the packages, or the target of an object that was given in Python."""
    if not isinstance(target, str) or not (_is_in(target, packages) or is_given(target)):
        raise InvalidValueError(key, target, f"must be in {', '.join(packages)}; trusted=[package] adds one")


def _import_longest(
    key: str, target: str, import_module: Callable[[str], ModuleType]
) -> tuple[str | None, list[str], Any]:
    """Import the longest prefix of a path that is a module; return its name, the names after it, and what they denote.

    The name is None if no prefix is a module.
    """
    path = target.split(".")
    for length in range(len(path) - 1, 0, -1):
        module_name, names = ".".join(path[:length]), path[length:]
        try:
            found: Any = import_module(module_name)
        except ModuleNotFoundError as error:
            missing = (f"{error.name}.", f"{str(error.name).removeprefix('sweep.')}.")  # models is sweep.models
            if error.name and f"{module_name}.".startswith(missing):
                continue
            raise InvalidValueError(key, target, f"could not be imported: {refusal(error)}") from error
        except (Exception, SystemExit) as error:  # raised by the code of the module
            raise InvalidValueError(key, target, f"could not be imported: {refusal(error)}") from error
        for name in names:
            found = getattr(found, name, None)
        return module_name, names, found
    return None, path, None


def _import_own(name: str) -> ModuleType:
    """Import a module of OWN_PACKAGES; import the project's models from their folder."""
    if not _is_in(name, ("models", OWN_MODELS)):
        return importlib.import_module(name)
    short, folder = name.removeprefix("sweep."), own_folder("models")
    _rename_own_models()
    if f"sweep.{short}" in sys.modules:
        return sys.modules[f"sweep.{short}"]
    found = sys.modules["models"].__spec__ if "models" in sys.modules else PathFinder.find_spec("models")
    if found is not None and found.origin == str(folder / "__init__.py"):
        importlib.import_module(short)  # a clone in sys.path: `import models` gets the same classes
        _rename_own_models()
    elif OWN_MODELS not in sys.modules:
        spec = importlib.util.spec_from_file_location(OWN_MODELS, folder / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[OWN_MODELS] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[OWN_MODELS])
    return importlib.import_module(f"sweep.{short}")


def _import_trusted(name: str) -> ModuleType:
    """Import a module of the user's package, even if its name is that of a folder in a clone of this project.

    Raises:
        ModuleNotFoundError: if there is no such module, or only the project's.
    """
    for own_name in _rename_own_models():
        del sys.modules[own_name]
    top, clone = name.partition(".")[0], own_folder("models").parent
    if top not in sys.modules and (clone / top).is_dir():  # the clone may come first in sys.path
        elsewhere = [place for place in sys.path if Path(place).absolute() != clone]
        spec = PathFinder.find_spec(top, elsewhere)
        if spec is not None:
            sys.modules[top] = importlib.util.module_from_spec(spec)
            try:
                if spec.loader is not None:  # a folder without __init__.py has no loader
                    spec.loader.exec_module(sys.modules[top])
            except BaseException:
                del sys.modules[top]
                raise
    module = importlib.import_module(name)
    if name in _rename_own_models():
        raise ModuleNotFoundError(name=name)
    return module


def _rename_own_models() -> list[str]:
    """Register the project's models as OWN_MODELS if they were imported as `models`, which is possible in a clone.

    Returns:
        The names under which they were imported.
    """
    if "models" not in sys.modules:
        return []
    folder = own_folder("models")
    loaded = [(name, module) for name, module in sys.modules.items() if _is_in(name, ("models",))]
    own = [(n, m) for n, m in loaded if Path(getattr(m, "__file__", None) or "/").is_relative_to(folder)]
    for name, module in own:
        sys.modules.setdefault(f"sweep.{name}", module)
    return [name for name, _ in own]


def _is_trusted(found: Any, trusted: tuple[str, ...]) -> bool:
    """Return whether an object is code of a trusted package."""
    return callable(found) and _is_in(_module_of(found), trusted)


def _is_own(found: Any) -> bool:
    """Return whether an object is a class or function of OWN_PACKAGES, with one of REQUIRED_BASES in those it lists."""
    module = _module_of(found)
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not _is_in(module, OWN_PACKAGES):
        return False
    if _is_in(module, ("models",)):
        return getattr(sys.modules.get(f"sweep.{module}"), "__name__", None) == module  # renamed above, not the user's
    bases = REQUIRED_BASES.get(module.partition(".")[0])
    return bases is None or any(f"{c.__module__}.{c.__qualname__}" in bases for c in getattr(found, "__mro__", ()))


def _module_of(found: Any) -> str:
    return str(getattr(found, "__module__", None) or "")


def _is_in(path: str, packages: tuple[str, ...]) -> bool:
    return any(path == package or path.startswith(package + ".") for package in packages)
