"""Control training processes from the coordinator. This package does not import torch."""

from sweep.pool.engine import PooledEngine
from sweep.pool.trainer import Trainer, begin_workers

__all__ = ["PooledEngine", "Trainer", "begin_workers"]
