"""Errors of the library as its caller sees them."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sweep import errors

P = ParamSpec("P")
R = TypeVar("R")


def plainly(call: Callable[P, R]) -> Callable[P, R]:
    """Let the errors of `sweep.errors` leave a public function without the frames and causes below it.

    Those are of Hydra, OmegaConf, SQLAlchemy and of this package, hundreds of lines in a notebook. Where code of the
    user's has raised an error, its frames are in the text. Any other error is a mistake of this package, and keeps all
    its frames.
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
