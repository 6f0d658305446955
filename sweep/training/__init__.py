"""Training: state, data order, engines. Knows nothing of searches or of records."""

from sweep.training import checkpoints
from sweep.training.batches import steps_per_epoch
from sweep.training.device import choose_device
from sweep.training.fused import FusedEngine, NotStackableError
from sweep.training.serial import SerialEngine

__all__ = ["FusedEngine", "NotStackableError", "SerialEngine", "checkpoints", "choose_device", "steps_per_epoch"]
