"""Defines the typed configuration of `dataset.augment`, which changes training batches before a model gets them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from sweep.components import Component
from sweep.targets import is_given, name_of
from sweep.validation import Integer, check_keys

AUGMENT_KEY = "dataset.augment"


@dataclass(frozen=True)
class NoAugment:
    """Leaves training batches unchanged."""


@dataclass(frozen=True)
class CropFlip:
    """Crops images at random positions after padding them with zeros, and flips half of them.

    Images are [n, C, H, W] or [n, H, W] and keep their size. The padding is added after standardization: with
    `dataset.standardize=true` a zero is the mean of its feature.

    Args:
        pad: pixels on each side, >= 0. An image is shifted by -pad..pad pixels (both included) in each direction.
        flip: whether to mirror an image left to right with probability 1/2.
    """

    pad: Annotated[int, Integer(at_least=0)] = 4
    flip: bool = True

    def __post_init__(self) -> None:
        check_keys(self)


NO_AUGMENT = NoAugment()

Augment = NoAugment | CropFlip | Component
"""The configuration of an augmentation: an option of AUGMENTS, or the user's code."""

AUGMENTS: Mapping[str, type[NoAugment] | type[CropFlip]] = {"none": NoAugment, "crop_flip": CropFlip}
"""Maps the values of `dataset.augment.name` to their configurations."""


def with_defaults(given: Any) -> Any:
    """Return a value of `dataset.augment` as a mapping with the `name` and all keys of the option.

    Args:
        given: null, the name of an option, or a mapping. Anything else is returned unchanged.
    """
    if given is None or isinstance(given, str):
        given = {"name": given or "none"}
    if not isinstance(given, Mapping):
        return given
    values, target = dict(given), given.get("_target_")
    if isinstance(target, str):
        if values.get("name") in (None, *AUGMENTS):
            values["name"] = name_of(target) if is_given(target) else target.rpartition(".")[2]
        return values
    option = AUGMENTS.get(str(values.get("name")))
    defaults = {} if option is None else {field.name: field.default for field in fields(option)}
    return {"name": values.get("name"), **defaults, **values}


def key_and_value(augment: Augment) -> tuple[str, str]:
    """Return the key and the value that name an augmentation, for messages."""
    if isinstance(augment, Component):
        return f"{AUGMENT_KEY}._target_", augment.target
    return AUGMENT_KEY, next(name for name, option in AUGMENTS.items() if isinstance(augment, option))
