"""Pure functions of the global step: decay families, warmups and their composition."""

from sweep.schedules.decay import DECAYS, Decay
from sweep.schedules.schedule import KeyFigures, Schedule, key_figures
from sweep.schedules.warmup import WARMUPS, Warmup

__all__ = ["DECAYS", "WARMUPS", "Decay", "KeyFigures", "Schedule", "Warmup", "key_figures"]
