"""Learning-rate schedules, which are functions of the global step: decay families, warmups and reactions.

Each family registers itself under its name in conf. Importing this package imports all its modules.
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

DECAYS: dict[str, type[Decay]] = dict(sorted(decay.REGISTERED_DECAYS.items()))
"""Maps the names in conf/schedule to the decay families."""
WARMUPS: dict[str, type[Warmup]] = dict(sorted(warmup.REGISTERED_WARMUPS.items()))
"""Maps the names in conf/warmup to the warmups."""

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
