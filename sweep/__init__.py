"""Searches for learning-rate schedules, with exact, comparable and fully recorded trainings.

>>> import sweep
>>> study = sweep.search(["schedule=cosine", "train.steps=200"])
>>> study.best.values, study.best.metrics["val_loss"]

Each name below is imported when it is first used, so that `import sweep` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.api.calls import compare, load, search, train
    from sweep.api.preview import Preview, preview
    from sweep.api.results import Comparison, Study, Trial
    from sweep.api.schedule import schedule
    from sweep.api.values import choice, interval, loguniform
    from sweep.tasks import Task

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Preview",
    "Study",
    "Task",
    "Trial",
    "choice",
    "compare",
    "interval",
    "load",
    "loguniform",
    "preview",
    "schedule",
    "search",
    "train",
]

_MODULES = {
    "api.calls": ("compare", "load", "search", "train"),
    "api.preview": ("Preview", "preview"),
    "api.results": ("Comparison", "Study", "Trial"),
    "api.schedule": ("schedule",),
    "api.values": ("choice", "interval", "loguniform"),
    "tasks": ("Task",),
}
"""Maps a module of this package to the public names that it defines."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"sweep.{module}"), name)
    if name == "errors":
        return import_module("sweep.errors")
    raise AttributeError(f"module 'sweep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "errors"]
