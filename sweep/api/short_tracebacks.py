"""Shortens the tracebacks of errors that public functions raise."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sweep import errors

P = ParamSpec("P")
R = TypeVar("R")


def short_tracebacks(call: Callable[P, R]) -> Callable[P, R]:
    """Remove the traceback and the causes from errors of `sweep.errors` that a public function raises.

    They would be hundreds of lines about Hydra, OmegaConf, SQLAlchemy and this package. The text has the stack frames
    of the user's code, if that raised the error. Any other error is a bug of this package, and keeps its traceback.
    """

    @functools.wraps(call)
    def called(*arguments: P.args, **keywords: P.kwargs) -> R:
        try:
            return call(*arguments, **keywords)
        except Exception as error:
            if type(error).__module__ != errors.__name__:
                raise
            raise error.with_traceback(None) from None

    return called
