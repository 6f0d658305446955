"""The trainer that answers questions about data and code while a request is read and carried out.

The resolvers of OmegaConf know the configuration and nothing else, so that the trainer is a variable of the context: of
two calls in two threads each has its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sweep.pool import Trainer

_trainer: ContextVar[Trainer] = ContextVar("trainer")


@contextmanager
def started_trainer() -> Iterator[Trainer]:
    """Let a new trainer answer for as long as the context lasts, and end it then."""
    with Trainer() as trainer:
        token = _trainer.set(trainer)
        try:
            yield trainer
        finally:
            _trainer.reset(token)


def current_trainer() -> Trainer:
    """Return the trainer of this context."""
    return _trainer.get()
