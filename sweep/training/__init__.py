"""Train models: state, data order and engines. This package does not depend on searches or on the record."""

from sweep.training.autotune import check, refuse_unstackable
from sweep.training.base_engine import largest_checkpoint
from sweep.training.device import CPU, choose_device
from sweep.training.fused import FusedEngine, NotStackableError
from sweep.training.serial import SerialEngine

__all__ = [
    "CPU",
    "FusedEngine",
    "NotStackableError",
    "SerialEngine",
    "check",
    "choose_device",
    "largest_checkpoint",
    "refuse_unstackable",
]
