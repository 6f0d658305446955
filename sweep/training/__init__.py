"""Training: state, data order, engines. Knows nothing of searches or of records."""

from sweep.training.apart import EngineProcess
from sweep.training.base_engine import largest_checkpoint
from sweep.training.batches import steps_per_epoch
from sweep.training.choice import Measured, Work, check, refuse_unstackable
from sweep.training.device import CPU, choose_device
from sweep.training.fused import FusedEngine, NotStackableError
from sweep.training.serial import SerialEngine
from sweep.training.served import Account

__all__ = [
    "CPU",
    "Account",
    "EngineProcess",
    "FusedEngine",
    "Measured",
    "NotStackableError",
    "SerialEngine",
    "Work",
    "check",
    "choose_device",
    "largest_checkpoint",
    "refuse_unstackable",
    "steps_per_epoch",
]
