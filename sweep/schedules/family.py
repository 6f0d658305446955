"""What decays and warmups have in common: frozen parameters that any array library can compute with."""

from dataclasses import fields
from typing import Any, Self

import numpy as np
from array_api_compat import array_namespace, device

OTHER_COUNTS = ("patience", "cooldown", "count_from", "noise_seed")
"""Keys that are integers, but count no updates."""


class Family:
    """A frozen dataclass whose fields are the keys of a configuration.

    Each number may be a NumPy array instead, one value per trial: it broadcasts against the steps. Two of one
    class with equal fields are equal.
    """

    def on(self, s: Any) -> Self:
        """The same with every number as a float64 array of the library, and on the device, of the steps s."""
        converted = object.__new__(type(self))
        for field in fields(self):  # type: ignore[arg-type]
            object.__setattr__(converted, field.name, _on(getattr(self, field.name), s))
        return converted

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return tuple((v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in values)


def _on(value: Any, s: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_on(entry, s) for entry in value)
    if isinstance(value, Family):
        return value.on(s)
    if isinstance(value, (int, float, np.ndarray)) and not isinstance(value, bool):
        xp = array_namespace(s)
        return xp.asarray(value, dtype=xp.float64, device=device(s))
    return value
