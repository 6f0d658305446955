"""Functions of batches: nested structures of tensors whose first axis counts examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

TARGETS = ("labels", "label", "y")
"""Names of the target in a mapping, in order of precedence. In a mapping with both x and y, y is the target."""


def mapped(function: Callable[[Any], Any], batch: Any) -> Any:
    """Apply a function to each tensor or array of a batch, and return the results in the same structure."""
    if isinstance(batch, Mapping):
        return {name: mapped(function, inner) for name, inner in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(mapped(function, inner) for inner in batch)
    return function(batch)


def leaves(batch: Any) -> list[Any]:
    """Return the tensors or arrays of a batch, in the order of its structure."""
    if isinstance(batch, Mapping):
        return [leaf for inner in batch.values() for leaf in leaves(inner)]
    if isinstance(batch, tuple | list):
        return [leaf for inner in batch for leaf in leaves(inner)]
    return [batch]


def size(batch: Any) -> int:
    """Return the number of examples in a batch. If possible use the target, because a model may change its inputs."""
    target = target_of(batch)
    return len(leaves(batch if target is None else target)[0])


def rebuilt(structure: Any, values: Sequence[Any]) -> Any:
    """Return tensors or arrays in the structure of a batch. This is the inverse of `leaves`."""
    following = iter(values)
    return mapped(lambda _: next(following), structure)


def divided(batch: Any, parts: int) -> list[Any]:
    """Divide a batch into `parts` batches along the first axis, as torch.Tensor.tensor_split does."""
    columns = [leaf.tensor_split(parts) for leaf in leaves(batch)]
    return [rebuilt(batch, part) for part in zip(*columns, strict=True)]


def target_name(names: Sequence[str]) -> str | None:
    """Return the name of the target in a mapping; None if it has none."""
    if "x" in names and "y" in names:
        return "y"
    return next((name for name in TARGETS if name in names), None)


def target_of(batch: Any) -> Any:
    """Return the target of a batch: `labels` or `y` of a mapping, the last entry of a tuple; None if it has none."""
    if isinstance(batch, Mapping):
        name = target_name(list(batch))
        return None if name is None else batch[name]
    return batch[-1] if isinstance(batch, tuple) and len(batch) > 1 else None


def inputs_of(batch: Any) -> Any:
    """Return the batch without its target. If one entry of a mapping or tuple remains, return that entry itself."""
    if isinstance(batch, Mapping):
        target = target_name(list(batch))
        names = [name for name in batch if name != target]
        return batch[names[0]] if len(names) == 1 else {name: batch[name] for name in names}
    if isinstance(batch, tuple) and len(batch) > 1:
        return batch[0] if len(batch) == 2 else batch[:-1]
    return batch


def replaced(batch: Any, inputs: Any, target: Any) -> Any:
    """Return the batch with new inputs and a new target. This is the inverse of `inputs_of` and `target_of`."""
    if isinstance(batch, Mapping):
        name = target_name(list(batch))
        names = [other for other in batch if other != name]
        columns = {names[0]: inputs} if len(names) == 1 else inputs
        return {key: target if key == name else columns[key] for key in batch}
    if isinstance(batch, tuple) and len(batch) > 1:
        return (inputs, target) if len(batch) == 2 else (*inputs, target)
    return inputs
