"""Functions of the global step: decay families, warmups, their composition, and reactions.

Each family registers itself under the name that it has in conf. Importing this package imports all its modules.
"""

from importlib import import_module
from pkgutil import iter_modules

from sweep.schedules import decay, warmup
from sweep.schedules.custom import Custom
from sweep.schedules.decay import Decay
from sweep.schedules.joined import Joined, Piece
from sweep.schedules.key_figures import KeyFigures, key_figures
from sweep.schedules.plateau import Plateau
from sweep.schedules.reaction import Event, Memory, Reaction
from sweep.schedules.schedule import Schedule
from sweep.schedules.warmup import Warmup

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")

DECAYS: dict[str, type[Decay]] = dict(sorted(decay.FAMILIES.items()))
"""The decay families by their names in conf/schedule."""
WARMUPS: dict[str, type[Warmup]] = dict(sorted(warmup.FAMILIES.items()))
"""The warmups by their names in conf/warmup."""

__all__ = [
    "DECAYS",
    "WARMUPS",
    "Custom",
    "Decay",
    "Event",
    "Joined",
    "KeyFigures",
    "Memory",
    "Piece",
    "Plateau",
    "Reaction",
    "Schedule",
    "Warmup",
    "key_figures",
]
