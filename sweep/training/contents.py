"""Encode and restore the state of a training that is not in a `state_dict`, as tensors and plain data.

A `state_dict` contains the parameters and the persistent buffers. Training may also change buffers that are not
persistent, attributes of the model or the optimizer (numbers, tensors, arrays, containers of these, random generators,
and dataclass instances of these, such as configurations), and the result of `get_extra_state`. `contents` encodes all
of it in a form that `torch.load(weights_only=True)` reads, and `restore` restores it.

An encoded value is plain (PLAIN_TYPES) or a list whose first element names its kind. An object that two attributes
share is encoded once, and the two share it again after `restore`.
"""

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cached_property
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sweep.training.dropout import SeededDropout

PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
SEQUENCES: dict[str, type] = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
MAPPINGS: dict[str, type] = {kind.__name__: kind for kind in (dict, OrderedDict, Counter, defaultdict)}
FACTORIES: dict[str, type] = {kind.__name__: kind for kind in (int, float, list, dict, set)}
"""Name -> default factory of a defaultdict that can be stored."""
COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
NEW_OBJECT = object().__reduce_ex__(4)[0]
"""The function with which copy and pickle re-create an object from its class and its attributes only."""
STATELESS_TYPES = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
"""Objects without a state that training could change."""

MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
"""Attributes of every module: parameters, buffers, modules and hooks."""
OPTIMIZER_ATTRIBUTES = frozenset({"state", "param_groups", "defaults"})
"""Attributes of every optimizer, which its state_dict contains or its constructor sets."""

Key = tuple[str, str, str]
"""Kind, name of the owner, name of the value in its owner.

The kinds are buffer, attribute, extra (result of get_extra_state), trained (requires_grad of a parameter), tensor
(attribute of a parameter or buffer), optimizer (its owner is the index of the optimizer), and class (attribute of a
class of the model).
"""
Contents = dict[Key, Any]


class Unstorable:
    """Stands for a value that cannot be loaded without running code.

    Args:
        parts: name of its class, and its encoded state for comparisons.
    """

    def __init__(self, *parts: Any) -> None:
        self.parts = parts


def contents(model: nn.Module, optimizers: Sequence[Any] = (), describe: bool = False) -> Contents:
    """Encode the state of a model and its optimizers that is neither in parameters nor in a state_dict.

    Tensors are not copied.

    Args:
        describe: whether to encode also the state of values that cannot be stored, so that `changes` compares it.
    """
    encoder, entries = _Encoder(model, describe), Contents()
    for name, module in _modules(model):
        entries |= {("buffer", name, key): encoder.buffer(buffer) for key, buffer in module._buffers.items()}
        entries |= {("attribute", name, key): encoder(value) for key, value in _attributes(module, MODULE_ATTRIBUTES)}
        entries |= {("trained", name, key): p.requires_grad for key, p in module._parameters.items() if p is not None}
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            entries["extra", name, ""] = encoder(module.get_extra_state())
    for name, tensor in _tensors(model).items():
        entries |= {("tensor", name, key): encoder(value) for key, value in _attributes(tensor)}
    for number, optimizer in enumerate(optimizers):
        own = _attributes(optimizer, OPTIMIZER_ATTRIBUTES)
        entries |= {("optimizer", str(number), key): encoder(value) for key, value in own}
    return entries


def restore(
    entries: Contents,
    model: nn.Module,
    device: torch.device,
    optimizers: Sequence[Any] = (),
    parameters: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Restore contents in a model of the same configuration and in its optimizers.

    Existing objects are changed in place, so that other references to them stay valid. A value that could not be stored
    is left unchanged.

    Args:
        parameters: name -> stored parameter or persistent buffer, which has been copied into the model already.

    Raises:
        AttributeError, KeyError, RuntimeError, TypeError, ValueError: if the contents belong to a different model.
    """
    decoder, modules = _Decoder(model, device), dict(_modules(model))
    for name, parameter in model.named_parameters():
        if name in parameters:
            decoder.share(parameters[name], parameter)
    owners: dict[tuple[str, str], Any] = {("optimizer", str(n)): optimizer for n, optimizer in enumerate(optimizers)}
    for name, module in modules.items():
        owners["attribute", name] = module
        for key in [key for key, _ in module._buffers.items() if ("buffer", name, key) not in entries]:
            del module._buffers[key]
    stored = {key: value for key, value in entries.items() if value != UNSTORED and unstorable_in(value) is None}
    for (kind, name, key), value in stored.items():
        if kind == "buffer":
            buffers = modules[name]._buffers
            restored = decoder(value, buffers.get(key))
            if key in buffers:
                buffers[key] = restored
            else:
                modules[name].register_buffer(key, restored, persistent=_full(name, key) in parameters)
        elif kind == "trained":
            modules[name]._parameters[key].requires_grad_(value)  # type: ignore[union-attr]
    owners |= {("tensor", name): tensor for name, tensor in _tensors(model).items()}
    internal = {"attribute": MODULE_ATTRIBUTES, "optimizer": OPTIMIZER_ATTRIBUTES}
    for (kind, name), owner in owners.items():
        for key, _ in _attributes(owner, internal.get(kind, frozenset())):
            if (kind, name, key) not in entries:
                del owner.__dict__[key]
    for (kind, name, key), value in stored.items():
        if (kind, name) in owners:
            own = owners[kind, name].__dict__
            own[key] = decoder(value, own.get(key))
    for (kind, name, _), value in stored.items():
        if kind == "extra" and _takes_extra_state(modules[name]):
            modules[name].set_extra_state(decoder(value, None))


def described(model: nn.Module) -> Contents:
    """Return a copy of the contents of a model, for comparison with later contents.

    It includes the numbers and tensors of the model's classes, which `restore` ignores.
    """
    entries = contents(model, describe=True)
    for kind in {kind for module in model.modules() for kind in type(module).__mro__}:
        name = f"{kind.__module__}.{kind.__qualname__}"
        values = {key: value for key, value in vars(kind).items() if isinstance(value, int | float | complex | Tensor)}
        entries |= {("class", name, key): value for key, value in values.items()}
    return _copied(entries)


UNSTORED = ["unstored"]
"""Stands for a value that cannot be stored."""


def storable(entries: Contents) -> Contents:
    """Replace every value that cannot be stored by UNSTORED."""
    return {key: value if unstorable_in(value) is None else UNSTORED for key, value in entries.items()}


def changes(before: Contents, after: Contents) -> list[Key]:
    """Return the keys of the values that differ in any bit between two contents of a model."""
    return [
        key for key in {**before, **after} if key not in before or key not in after or not same(before[key], after[key])
    ]


def named(keys: Sequence[Key]) -> str:
    """Format keys for a message, as in `layers.0.calls, scale.get_extra_state()`."""
    return ", ".join(_full(name, "get_extra_state()" if kind == "extra" else key) for kind, name, key in keys)


def _full(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the contents of a model after a context, such as an evaluation, if the context has changed them."""
    before = _copied(contents(model))
    yield
    if changes(before, contents(model)):
        restore(before, model, device)


def _copied(entries: Contents) -> Contents:
    """Return a copy of contents. Numbers, which are most of the values, are not copied, to make evaluations fast."""
    memo: dict[int, Any] = {}
    return {key: value if type(value) in PLAIN_TYPES else copy.deepcopy(value, memo) for key, value in entries.items()}


def same(one: Any, other: Any, within: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Return whether two encoded values, or two values of a state_dict, have equal types and equal bits."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return _same_tensors(one, other)
    if isinstance(one, float | complex):
        return repr(one) == repr(other)  # 0.0 differs from -0.0, and nan equals nan
    if (id(one), id(other)) in within:  # a container within itself
        return True
    within |= {(id(one), id(other))}
    if isinstance(one, Unstorable):
        return same(list(one.parts), list(other.parts), within)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key], within) for key, value in one.items())
    if isinstance(one, list | tuple):
        if len(one) == 2 and one[0] in ("set", "frozenset") and other[0] == one[0]:  # sets have no order
            return sorted(map(repr, one[1])) == sorted(map(repr, other[1]))
        return len(one) == len(other) and all(same(a, b, within) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _same_tensors(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape, one.layout, one.device) != (other.dtype, other.shape, other.layout, other.device):
        return False
    if one.layout != torch.strided:
        parts = zip(_parts(one), _parts(other), strict=True)
        return all(_same_tensors(a, b) for a, b in parts)
    a, b = (t.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(a, b)


def _parts(sparse: Tensor) -> tuple[Tensor, ...]:
    """Return the strided tensors that a sparse tensor consists of."""
    if sparse.layout == torch.sparse_coo:
        return sparse._indices(), sparse._values()
    if sparse.layout in (torch.sparse_csr, torch.sparse_bsr):
        return sparse.crow_indices(), sparse.col_indices(), sparse.values()
    return sparse.ccol_indices(), sparse.row_indices(), sparse.values()


def _modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return names and modules, without SeededDropout, whose counters are set before every use."""
    return [(name, module) for name, module in model.named_modules() if not isinstance(module, SeededDropout)]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _attributes(owner: Any, internal: frozenset[str] = frozenset()) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in getattr(owner, "__dict__", {}).items() if key not in internal]


def _takes_extra_state(module: nn.Module) -> bool:
    return type(module).set_extra_state is not nn.Module.set_extra_state


def unstorable_in(value: Any, seen: set[int] | None = None) -> str | None:
    """Return the class of an object in an encoded value that cannot be stored; None if there is none."""
    seen = set() if seen is None else seen
    if isinstance(value, Unstorable):
        return str(value.parts[0])
    if not isinstance(value, list) or id(value) in seen:
        return None
    seen.add(id(value))
    return next((found for inner in value if (found := unstorable_in(inner, seen)) is not None), None)


class _Encoder:
    """Encodes values. An object that occurs several times is encoded once."""

    def __init__(self, model: nn.Module, describe: bool) -> None:
        self.model, self.describe = model, describe
        self.known: dict[int, tuple[Any, Any]] = {}
        """Id of an object -> the object and its encoded value. The reference keeps the id from being reused."""

    @cached_property
    def registered(self) -> dict[int, str]:
        """Map the ids of modules, parameters and buffers to their names."""
        model = self.model
        parts = (*model.named_modules(), *model.named_parameters(), *model.named_buffers())
        return {id(part): name for name, part in parts}

    def buffer(self, buffer: Tensor | None) -> Any:
        """Encode a registered buffer."""
        if buffer is None:
            return None
        return self._tensor(buffer) if _is_plain_tensor(buffer) else Unstorable(type(buffer).__name__)

    def __call__(self, value: Any) -> Any:
        if type(value) in PLAIN_TYPES:
            return value
        if id(value) in self.registered:
            return ["registered", self.registered[id(value)]]
        if id(value) in self.known:
            return self.known[id(value)][1]
        kind = type(value).__name__
        if type(value) in SEQUENCES.values() or type(value) in MAPPINGS.values():
            encoded: list[Any] = [kind]
            self.known[id(value)] = value, encoded  # before its elements, because it may contain itself
            encoded += self._elements(value)
            return encoded
        if _is_record(value):
            encoded = ["dataclass", f"{type(value).__module__}.{type(value).__qualname__}"]
            self.known[id(value)] = value, encoded
            encoded.append([[key, self(inner)] for key, inner in vars(value).items()])
            return encoded
        found = self._leaf(value)
        self.known[id(value)] = value, found
        return found

    def _elements(self, value: Any) -> list[Any]:
        if type(value) in MAPPINGS.values():
            pairs = [[self(key), self(inner)] for key, inner in value.items()]
            if not isinstance(value, defaultdict):
                return [pairs]
            factory = value.default_factory
            name = getattr(factory, "__name__", None)
            return [pairs, name if name is None or FACTORIES.get(name) is factory else self(factory)]
        elements = [self(inner) for inner in value]
        return [elements, value.maxlen] if isinstance(value, deque) else [elements]

    def _leaf(self, value: Any) -> Any:
        if _is_plain_tensor(value):
            return self._tensor(value)
        if type(value) is np.ndarray and value.dtype.kind in "biufcSUmM":
            order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            return ["ndarray", value.dtype.str, list(value.shape), order, _as_bytes(value.tobytes(order="A"))]
        if isinstance(value, np.generic) and value.dtype.kind in "biufcSUmM":
            return ["numpy", value.dtype.str, _as_bytes(value.tobytes())]
        if type(value) is torch.Generator:
            return ["torch.Generator", value.get_state()]
        if type(value) is np.random.Generator:
            return ["numpy.random.Generator", self(value.bit_generator.state)]
        if type(value) is np.random.RandomState:
            return ["numpy.random.RandomState", self(value.get_state(legacy=False))]
        if type(value) is random.Random:
            return ["random.Random", self(value.getstate())]
        return self._unstorable(value)

    def _tensor(self, tensor: Tensor) -> Any:
        known = self.known.get(id(tensor))
        if known is None:
            leaf = tensor.is_leaf and tensor.requires_grad
            given, moves = tensor.detach(), tensor.device.type != "cpu"
            if tensor.layout == torch.strided:
                known = tensor, ["tensor", given, isinstance(tensor, nn.Parameter), leaf, moves]
            else:
                layout, coalesced = str(tensor.layout), tensor.layout == torch.sparse_coo and tensor.is_coalesced()
                known = tensor, ["sparse", layout, list(tensor.shape), coalesced, moves, *_parts(given)]
            self.known[id(tensor)] = known
        return known[1]

    def _unstorable(self, value: Any) -> Unstorable:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        found = Unstorable(name)
        if isinstance(value, STATELESS_TYPES):
            found.parts = name, getattr(value, "__qualname__", name)
        elif self.describe:
            self.known[id(value)] = value, found  # before its parts, because they may refer to it
            try:
                reduced = value.__reduce_ex__(4)
                if isinstance(reduced, tuple):
                    reduced = [self(list(part) if isinstance(part, Iterator) else part) for part in reduced[1:5]]
            except Exception:  # a file, a lock, a generator, ...
                reduced = id(value)
            found.parts = name, reduced
        return found


class _Decoder:
    """Decodes values. Each encoded object is decoded once."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.done: dict[int, tuple[Any, Any]] = {}
        """Id of an encoded value -> the encoded value and the decoded one."""
        self.used: set[int] = set()
        """Ids of the existing objects that were changed in place, each for one encoded value."""
        self.live: dict[int, Tensor] = {}
        """Address of a stored storage -> tensor of the model that it was copied into."""
        self.sources: dict[int, int] = {}
        """Address of a storage of the model -> address of the stored storage that was copied into it."""

    def share(self, given: Tensor, current: Tensor) -> None:
        """Record that a stored tensor was copied into a tensor of the model, so that its views become views of that."""
        if given.layout == current.layout == torch.strided and given.numel():
            self.sources[_address(current)] = _address(given)
            alike = (current.stride(), current.storage_offset()) == (given.stride(), given.storage_offset())
            if alike and current.untyped_storage().nbytes() == given.untyped_storage().nbytes():
                self.live[_address(given)] = current

    def __call__(self, value: Any, current: Any) -> Any:
        """Decode a value. Change the object `current` in place if it is suitable."""
        if not isinstance(value, list):
            return value
        if id(value) not in self.done:
            kind, *rest = value
            if kind == "tensor":
                self.done[id(value)] = value, self._tensor(rest[0], *rest[1:], current=current)
            elif kind in SEQUENCES or kind in MAPPINGS:
                self._container(value, kind, rest, current)
            elif kind == "dataclass":
                self._record(value, rest, current)
            else:
                self.done[id(value)] = value, self._leaf(kind, rest, current)
        return self.done[id(value)][1]

    def _container(self, value: Any, kind: str, rest: list[Any], current: Any) -> None:
        whole = SEQUENCES.get(kind) or MAPPINGS[kind]
        if kind in ("tuple", "frozenset"):
            inner = list(current) if type(current) is tuple and len(current) == len(rest[0]) else [None] * len(rest[0])
            made = whole(self(v, c) for v, c in zip(rest[0], inner, strict=True))
            self.done[id(value)] = value, made
            return
        target = current if self._free(whole, current) else whole()
        if kind == "deque" and target.maxlen != rest[1]:
            target = deque(maxlen=rest[1])
        if kind == "defaultdict":
            target.default_factory = FACTORIES.get(rest[1]) if isinstance(rest[1], str) else None
        self.done[id(value)] = value, target
        if kind in MAPPINGS:
            old = dict(target)
            target.clear()
            for encoded_key, inner in rest[0]:
                key = self(encoded_key, None)
                target[key] = self(inner, old.get(key))
            return
        old_elements = list(target) if kind != "set" else []
        target.clear()
        for place, inner in enumerate(rest[0]):
            decoded = self(inner, old_elements[place] if place < len(old_elements) else None)
            target.add(decoded) if kind == "set" else target.append(decoded)

    def _record(self, value: Any, rest: list[Any], current: Any) -> None:
        """Set the attributes of a dataclass instance that the constructor of the model has created."""
        name, attributes = rest
        if f"{type(current).__module__}.{type(current).__qualname__}" != name or not self._free(type(current), current):
            raise ValueError(f"contains a {name} that the constructor of the model does not create")
        self.done[id(value)] = value, current
        own = vars(current)
        for key in own.keys() - {key for key, _ in attributes}:
            del own[key]
        for key, inner in attributes:
            own[key] = self(inner, own.get(key))

    def _free(self, kind: type, current: Any) -> bool:
        """Return whether an object has this type and is not used for another value yet; mark it as used."""
        free = type(current) is kind and id(current) not in self.used
        self.used.add(id(current))
        return free

    @torch.no_grad()
    def _tensor(self, given: Tensor, parameter: bool, leaf: bool, moves: bool, *, current: Any) -> Tensor:
        base = self.live.get(_address(given)) if given.numel() else None
        if base is not None and base.dtype == given.dtype:
            return base.detach().as_strided(given.shape, given.stride(), given.storage_offset())
        moved = given.to(self.device) if moves else given
        if (
            given.numel()
            and _is_plain_tensor(current)
            and isinstance(current, nn.Parameter) == parameter
            and (current.dtype, current.shape, current.device) == (moved.dtype, moved.shape, moved.device)
            and current.layout == torch.strided
            and current.is_leaf
            and current.is_contiguous()
            and self.sources.get(_address(current), _address(given)) == _address(given)
        ):
            current.copy_(moved)
            self.share(given, current)
            current.requires_grad_(leaf)
            return current  # type: ignore[no-any-return]
        if parameter:
            return nn.Parameter(moved, requires_grad=leaf)
        return moved.requires_grad_(leaf) if leaf else moved

    def _sparse(self, name: str, shape: list[int], coalesced: bool, moves: bool, *parts: Tensor) -> Tensor:
        *indices, values = (part.to(self.device) if moves else part for part in parts)
        if name == str(torch.sparse_coo):
            (places,) = indices
            return torch.sparse_coo_tensor(places, values, shape, is_coalesced=coalesced, check_invariants=True)
        (layout,) = (layout for layout in COMPRESSED if str(layout) == name)
        compressed, plain = indices
        return torch.sparse_compressed_tensor(compressed, plain, values, shape, layout=layout, check_invariants=True)

    def _leaf(self, kind: str, rest: list[Any], current: Any) -> Any:
        if kind == "sparse":
            return self._sparse(*rest)
        if kind == "registered":
            return _registered(self.model, rest[0])
        if kind == "ndarray":
            dtype, shape, order, raw = rest
            made = np.frombuffer(bytearray(raw.numpy().tobytes()), dtype).reshape(shape, order=order)
            if (
                self._free(np.ndarray, current)
                and current.flags.writeable
                and (current.dtype, current.shape, current.strides) == (made.dtype, made.shape, made.strides)
            ):
                current[...] = made
                return current
            return made
        if kind == "numpy":
            return np.frombuffer(rest[1].numpy().tobytes(), rest[0])[0]
        return self._generator(kind, rest[0], current)

    def _generator(self, kind: str, state: Any, current: Any) -> Any:
        """Return a random generator with a stored state: `current` if its type is right, otherwise a new one."""
        if kind == "torch.Generator":
            made = current if self._free(torch.Generator, current) else torch.Generator()
            made.set_state(state)
        elif kind == "numpy.random.RandomState":
            made = current if self._free(np.random.RandomState, current) else np.random.RandomState()
            made.set_state(self(state, None))
        elif kind == "random.Random":
            made = current if self._free(random.Random, current) else random.Random()
            made.setstate(self(state, None))
        elif kind == "numpy.random.Generator":
            plain = self(state, None)
            own = self._free(np.random.Generator, current)
            name = plain["bit_generator"]
            if not own or type(current.bit_generator).__name__ != name:
                if name not in BIT_GENERATORS:
                    raise ValueError(f"contains the unknown random generator {name}")
                current = np.random.Generator(getattr(np.random, name)())
            made = current
            made.bit_generator.state = plain
        else:
            raise ValueError(f"contains a value of the unknown kind {kind}")
        return made


def _is_record(value: Any) -> bool:
    """Return whether an object is a dataclass instance that its attributes describe completely."""
    if not is_dataclass(value) or isinstance(value, type) or type(value).__reduce_ex__ is not object.__reduce_ex__:
        return False
    try:
        create, arguments, state, *elements = (*value.__reduce_ex__(4), None, None)[:5]
    except Exception:  # it cannot be copied
        return False
    plain = isinstance(state, dict) and state.keys() == vars(value).keys()
    return plain and create is NEW_OBJECT and arguments == (type(value),) and not any(elements)


def _is_plain_tensor(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _registered(model: nn.Module, name: str) -> Any:
    """Return the module, parameter or buffer with this full name."""
    owner, _, key = name.rpartition(".")
    if name == "":
        return model
    return getattr(model.get_submodule(owner), key)


def _as_bytes(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
