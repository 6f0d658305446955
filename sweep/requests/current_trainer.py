"""Provides the trainer that answers questions about data and code while a request is carried out.

The trainer is a context variable, because OmegaConf passes nothing but the configuration to resolvers. Two calls in two
threads have different trainers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sweep.pool import Trainer

_trainer: ContextVar[Trainer] = ContextVar("trainer")


@contextmanager
def started_trainer() -> Iterator[Trainer]:
    """Start a trainer, make it the current one within the context, and end it."""
    with Trainer() as trainer:
        token = _trainer.set(trainer)
        try:
            yield trainer
        finally:
            _trainer.reset(token)


def current_trainer() -> Trainer:
    """Return the trainer of the current context."""
    return _trainer.get()
