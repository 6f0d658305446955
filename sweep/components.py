"""Models, optimizers and data sets by import path: check that the code may be called, import it, and call it."""

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
"""The import name of our package models, which no package of a user's has. In a `_target_`, `models` means it too."""

OWN_PACKAGES = (
    "models", "sweep.data.sources", "torch.nn", "torch.optim", "schedulefree",
    "sweep.training.optimizers", "sweep.training.commands", OWN_MODELS,
)  # fmt: skip
"""Packages whose classes and functions a `_target_` may name without `trusted`."""

FOREIGN = {
    "torch": ("torch.nn.modules.module.Module", "torch.optim.optimizer.Optimizer"),
    "schedulefree": ("torch.optim.optimizer.Optimizer",),
}
"""Base classes that a `_target_` of these packages must have. Their functions could run arbitrary code."""

EXTRAS = ("schedulefree",)
"""Packages among OWN_PACKAGES that are optional dependencies."""


@dataclass(frozen=True)
class Component:
    """Something named by its import path, and the arguments to call it with: a model, an optimizer, a data set.

    Args:
        key: the configuration group, for messages.
        target: import path of a class or function, inside OWN_PACKAGES or a trusted package.
        arguments: keyword arguments; a mapping with a `_target_` of its own becomes what that gives.
        trusted: further packages whose code may be called.

    Nothing is imported before the target is checked, called or asked for its parameters.

    Raises:
        InvalidValueError: names `key`._target_ if the target is outside of these packages.
    """

    key: str
    target: str
    arguments: Mapping[str, Any]
    trusted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_place(f"{self.key}._target_", self.target, OWN_PACKAGES + self.trusted)

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the code of an object that was given in Python along to another process."""
        return _unpickled, (self.key, self.target, self.arguments, self.trusted, self._code())

    def check(self) -> None:
        """Import the target; refuse arguments that it has no parameters for, and what another process cannot get.

        Raises:
            InvalidValueError: names `key`._target_ or the argument.
        """
        self._code()
        self.refuse_unknown()

    def refuse_unknown(self, further: Collection[str] = ()) -> None:
        """Refuse arguments that the target has no parameters for.

        Args:
            further: keys of the group that are no arguments of the target.

        Raises:
            InvalidValueError: names the argument.
        """
        known = [*further, *self._parameters()]
        for name, value in self.arguments.items():
            if not self.takes(name):
                near = get_close_matches(name, known, n=1, cutoff=0.7)
                hint = f" (did you mean {near[0]}?)" if near else ""
                rule = f"is not a key of {self.target}{hint}, which has {', '.join(known) or 'no arguments'}"
                raise InvalidValueError(f"{self.key}.{name}", value, rule)

    def _code(self) -> bytes | None:
        """Return the code of an object that was given in Python; None of a data set, whose arrays are sent instead.

        Raises:
            InvalidValueError: names the key if the object cannot be pickled.
        """
        if self.key == "dataset" or not is_given(self.target):
            return None
        return given.pickled(self.key, self.target)

    def accepts(self, name: str) -> bool:
        """Return whether the target has a parameter of that name."""
        return name in self._parameters()

    def takes(self, name: str) -> bool:
        """Return whether the target can be called with a keyword argument of that name."""
        parameters = self._parameters()
        return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())

    @property
    def is_trusted(self) -> bool:
        """Return whether the target is code of a trusted package or was given in Python, and is not of OWN_PACKAGES."""
        return is_given(self.target) or _is_theirs(self.key, self.target, self.trusted)

    @property
    def own_target(self) -> str:
        """Return the import path of the target; of our models the one that no package of a user's has."""
        if _within(self.target, ("models",)) and not self.is_trusted:
            return f"sweep.{self.target}"
        return self.target

    def build(self, *positional: Any, **provided: Any) -> Any:
        """Call the target with its arguments and with those `provided` that it has parameters for.

        The target gets copies of the arguments, because the next call gets the same ones, whatever this one does with
        its lists and mappings.

        Raises:
            InvalidValueError: if `check` refuses it, or the target raises an error.
            MemoryError: if it does: that is no fault of the arguments.
        """
        call, arguments = self.prepared()
        accepted = {name: value for name, value in provided.items() if self.accepts(name)}
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
        """Return the function at the target with its arguments bound; if the target is a class, an object of it.

        Raises:
            InvalidValueError: if `check` refuses it, or the class raises an error.
        """
        found = locate(self.key, self.target, self.trusted)
        if inspect.isclass(found):
            return self.build()
        self.check()
        return functools.partial(found, **self.arguments) if self.arguments else found

    def prepared(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the target and copies of its arguments, for a caller that explains its errors itself.

        Raises:
            InvalidValueError: if `check` refuses it.
        """
        self.check()
        arguments = {name: self._nested(name, _copied(value)) for name, value in self.arguments.items()}
        return locate(self.key, self.target, self.trusted), arguments

    def check_call(self, *positional: str) -> None:
        """Refuse a call that the target cannot take, because an argument is missing or given twice.

        Args:
            positional: names of the positional arguments, for the message.

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
        if is_given(self.target) and not callable(found):  # an object, such as a task
            return {}
        try:
            return inspect.signature(found).parameters
        except (ValueError, TypeError) as error:  # of some classes that are written in C
            rule = f"cannot be called: its parameters are not known ({error})"
            raise InvalidValueError(f"{self.key}._target_", self.target, rule) from error

    def _nested(self, name: str, value: Any) -> Any:
        if not (isinstance(value, Mapping) and "_target_" in value):
            return value
        arguments = {key: inner for key, inner in value.items() if key != "_target_"}
        return Component(f"{self.key}.{name}", value["_target_"], arguments, self.trusted).build()


def trusted_function(key: str, target: Any, arguments: Mapping[str, Any], trusted: tuple[str, ...]) -> Component:
    """Return a component whose target is code of a trusted package or was given in Python, and nothing else.

    Raises:
        InvalidValueError: names `key`._target_ if the target is something else, and an argument with a `_target_`.
    """
    for name, value in arguments.items():
        if isinstance(value, Mapping) and "_target_" in value:
            rule = f"must be plain data; the code of {target} can build what it needs"
            raise InvalidValueError(f"{key}.{name}._target_", value["_target_"], rule)
    if isinstance(target, str) and (_within(target, trusted) or is_given(target)):
        component = Component(key, target, arguments, trusted)
        if component.is_trusted:
            return component
    rule = "must be a function of a package of yours that the command line trusts: trusted=[mylab]"
    raise InvalidValueError(f"{key}._target_", target, rule)


def _unpickled(
    key: str, target: str, arguments: Mapping[str, Any], trusted: tuple[str, ...], code: bytes | None
) -> Component:
    if code is not None:
        given.restore(target, code)
    return Component(key, target, arguments, trusted)


def _copied(value: Any) -> Any:
    """Return a copy of nested mappings and lists; anything else is the same object."""
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _call_text(component: Component) -> str:
    """Return what was called, for a message: `{width: 3}`; of an object that was given in Python, `Net(width=3)`."""
    arguments = component.arguments.items()
    if not is_given(component.target):
        return "{" + ", ".join(f"{name}: {value}" for name, value in arguments) + "}"
    text = ", ".join(f"{name}={value}" for name, value in arguments)
    return name_of(component.target) + (f"({text})" if text else "")


def own_folder(name: str) -> Path:
    """Return our folder `conf` or `models`. In a wheel it is below this package, in a clone beside it."""
    package = Path(__file__).absolute().parent
    return next(folder for folder in (package / name, package.parent / name) if folder.is_dir())


def locate(key: str, target: Any, trusted: tuple[str, ...] = ()) -> Any:
    """Return the class or function at an import path, if it belongs to OWN_PACKAGES or a trusted package.

    Nothing else is imported on the way, and what a trusted module merely imported is not reached through it. The target
    of an object that was given in Python leads to the object. A path
    that exists both in OWN_PACKAGES and in a trusted package means the trusted one.

    Raises:
        InvalidValueError: names `key`._target_.
    """
    return _find(key, target, trusted)[0]


def shadowing(targets: Mapping[str, str], trusted: tuple[str, ...]) -> list[str]:
    """Return the keys of the targets that are code of a trusted package although their import path is one of ours.

    Args:
        targets: configuration group -> import path.
    """
    return [
        key for key, target in targets.items() if _within(target, OWN_PACKAGES) and _is_theirs(key, target, trusted)
    ]


def recorded_target(target: str) -> str:
    """Return the import path by which a model is recorded and identified: our models are `models`."""
    return target.removeprefix("sweep.") if _within(target, (OWN_MODELS,)) else target


def _find(key: str, target: Any, trusted: tuple[str, ...]) -> tuple[Any, bool]:
    """Return what `locate` returns, and whether it belongs to a trusted package."""
    key = f"{key}._target_"
    _check_place(key, target, OWN_PACKAGES + trusted)
    if is_given(target):
        return given.find(key, target), True
    first = None
    for packages, import_module in ((trusted, _import_trusted), (OWN_PACKAGES, _import_own)):
        if not _within(target, packages):
            continue
        module_name, names, found = _attribute(key, target, import_module)
        is_trusted = packages is trusted and _is_trusted(found, trusted)
        if is_trusted or (len(names) == 1 and _is_own(found)):
            return found, is_trusted
        top = target.partition(".")[0]
        if module_name is not None and len(names) > 1 and not hasattr(sys.modules[module_name], names[0]):
            rule = f"could not be imported: there is no module {module_name}.{names[0]}"
        elif module_name is not None:
            rule = f"is no class or function of {module_name}"
            if packages is trusted and callable(found) and (home := _module_of(found)) and not _within(home, trusted):
                rule += f"; {module_name} imports it from {home}, whose package must be trusted too"
        elif top in EXTRAS:
            rule = f"is not installed; pip install {top}"
        else:
            rule = "could not be imported: there is no such module"
        first = first or InvalidValueError(key, target, rule)
    assert first is not None
    raise first


def _is_theirs(key: str, target: str, trusted: tuple[str, ...]) -> bool:
    """Return whether a target is code of a trusted package. It is imported only if it may be one of ours as well."""
    if not _within(target, trusted):
        return False
    return not _within(target, OWN_PACKAGES) or _find(key, target, trusted)[1]


def _check_place(key: str, target: Any, packages: tuple[str, ...]) -> None:
    """Refuse what is no import path within the packages."""
    if not isinstance(target, str) or not (_within(target, packages) or is_given(target)):
        raise InvalidValueError(key, target, f"must be in {', '.join(packages)}; trusted=[package] adds one")


def _attribute(key: str, target: str, import_module: Callable[[str], ModuleType]) -> tuple[str | None, list[str], Any]:
    """Return the longest part of an import path that is a module, the names after it, and what they lead to.

    The module is None if there is none.
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
    """Import a module of OWN_PACKAGES; our models from their folder."""
    if not _within(name, ("models", OWN_MODELS)):
        return importlib.import_module(name)
    short, folder = name.removeprefix("sweep."), own_folder("models")
    _rename_own_models()
    if f"sweep.{short}" in sys.modules:
        return sys.modules[f"sweep.{short}"]
    found = sys.modules["models"].__spec__ if "models" in sys.modules else PathFinder.find_spec("models")
    if found is not None and found.origin == str(folder / "__init__.py"):
        importlib.import_module(short)  # a clone in sys.path: who imports it by that name gets the same classes
        _rename_own_models()
    elif OWN_MODELS not in sys.modules:
        spec = importlib.util.spec_from_file_location(OWN_MODELS, folder / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[OWN_MODELS] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[OWN_MODELS])
    return importlib.import_module(f"sweep.{short}")


def _import_trusted(name: str) -> ModuleType:
    """Import a module of a user's package, which may be called models, or as another folder of a clone of ours.

    Raises:
        ModuleNotFoundError: if there is no such module, or only ours.
    """
    for own_name in _rename_own_models():
        del sys.modules[own_name]
    top, clone = name.partition(".")[0], own_folder("models").parent
    if top not in sys.modules and (clone / top).is_dir():  # our folder may come first in sys.path
        elsewhere = [place for place in sys.path if Path(place).absolute() != clone]
        spec = PathFinder.find_spec(top, elsewhere)
        if spec is not None:
            sys.modules[top] = importlib.util.module_from_spec(spec)
            try:
                if spec.loader is not None:  # a folder without __init__.py has none
                    spec.loader.exec_module(sys.modules[top])
            except BaseException:
                del sys.modules[top]
                raise
    module = importlib.import_module(name)
    if name in _rename_own_models():
        raise ModuleNotFoundError(name=name)
    return module


def _rename_own_models() -> list[str]:
    """Let our models be known as OWN_MODELS if they were imported as `models`, as is possible in a clone.

    Returns:
        The names of those modules.
    """
    if "models" not in sys.modules:
        return []
    folder = own_folder("models")
    loaded = [(name, module) for name, module in sys.modules.items() if _within(name, ("models",))]
    own = [(n, m) for n, m in loaded if Path(getattr(m, "__file__", None) or "/").is_relative_to(folder)]
    for name, module in own:
        sys.modules.setdefault(f"sweep.{name}", module)
    return [name for name, _ in own]


def _is_trusted(found: Any, trusted: tuple[str, ...]) -> bool:
    """Whether code of a trusted package was found."""
    return callable(found) and _within(_module_of(found), trusted)


def _is_own(found: Any) -> bool:
    """Whether a class or function of OWN_PACKAGES was found; of others than ours, a layer or an optimizer."""
    module = _module_of(found)
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not _within(module, OWN_PACKAGES):
        return False
    if _within(module, ("models",)):
        return getattr(sys.modules.get(f"sweep.{module}"), "__name__", None) == module  # renamed, not a user's
    bases = FOREIGN.get(module.partition(".")[0])
    return bases is None or any(f"{c.__module__}.{c.__qualname__}" in bases for c in getattr(found, "__mro__", ()))


def _module_of(found: Any) -> str:
    return str(getattr(found, "__module__", None) or "")


def _within(path: str, packages: tuple[str, ...]) -> bool:
    return any(path == package or path.startswith(package + ".") for package in packages)
