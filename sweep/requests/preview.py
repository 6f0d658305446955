"""Turn a command line with mode=preview into a plan."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from sweep.app.preview import PreviewPlan
from sweep.config import RunConfig
from sweep.errors import InvalidValueError
from sweep.report.text import heading
from sweep.requests import build, spaces
from sweep.requests.command import Command
from sweep.requests.current_trainer import current_trainer


def make_preview(command: Command) -> PreviewPlan:
    """Return the plan of a preview: one configuration for each combination of the lists (a,b,c) that are given.

    Raises:
        InvalidValueError: names what cannot be drawn: an interval, or curves of different lengths.
    """
    config, request = command.compose(), command.request
    build.engine_config(config)
    path = Path(build.preview_config(config).path)
    lists: dict[str, Sequence[str]] = dict(request.groups)
    for key, override in request.sweeps.items():
        if override.is_interval_sweep():
            rule = "mode=preview draws the values of a list (a,b,c) or range; an interval is for mode=search"
            raise InvalidValueError(key, request.searched[key], rule)
        lists[key] = spaces.listed(config, override)
    runs: dict[str, RunConfig] = {}
    for values in product(*lists.values()):
        chosen = {key: f"{key}={value}" for key, value in zip(lists, values, strict=True)}
        label = " ".join(_label(key, value) for key, value in zip(lists, values, strict=True))
        runs[label] = build.run_config(command.composer.compose([*chosen.values(), *request.plain]))
    if len(runs) == 1:
        runs = dict(zip([""], runs.values(), strict=True))
    for run in runs.values():
        if command.names_code:  # others are known
            current_trainer().check_components(run.components)
        if run.train.steps != next(iter(runs.values())).train.steps:
            raise InvalidValueError("train.steps", run.train.steps, "must be the same for all that is drawn")
    return PreviewPlan(runs, path)


def _label(key: str, value: str) -> str:
    """Return a choice as a legend shows it: a schedule by its name, anything else with its key."""
    return value if key == "schedule" else f"{heading(key)}={value}".replace("\\", "")  # Hydra escapes interpolations
