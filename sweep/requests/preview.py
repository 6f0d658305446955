"""Converts a command with mode=preview to a plan."""

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
    """Return the plan of a preview, with one configuration for each combination of the listed values (a,b,c).

    Raises:
        InvalidValueError: names an interval, or train.steps if the curves have different lengths.
    """
    config, request = command.compose(), command.request
    build.engine_config(config)
    path = Path(build.preview_config(config).path)
    lists: dict[str, Sequence[str]] = dict(request.groups)
    for key, override in request.sweeps.items():
        if override.is_interval_sweep():
            rule = "must be a list (a,b,c) or a range with mode=preview; an interval needs mode=search"
            raise InvalidValueError(key, request.searched[key], rule)
        lists[key] = spaces.listed_values(config, override)
    runs: dict[str, RunConfig] = {}
    for values in product(*lists.values()):
        chosen = {key: f"{key}={value}" for key, value in zip(lists, values, strict=True)}
        label = " ".join(_legend_label(key, value) for key, value in zip(lists, values, strict=True))
        runs[label] = build.run_config(command.composer.compose([*chosen.values(), *request.plain]))
    if len(runs) == 1:
        runs = dict(zip([""], runs.values(), strict=True))
    for run in runs.values():
        if command.names_code:  # other code is known to be valid
            current_trainer().check_components(run.components)
        if run.train.steps != next(iter(runs.values())).train.steps:
            raise InvalidValueError("train.steps", run.train.steps, "must be the same for all curves")
    return PreviewPlan(runs, path)


def _legend_label(key: str, value: str) -> str:
    """Return the label of a value in a legend: the name of a schedule, or any other value with its key."""
    return value if key == "schedule" else f"{heading(key)}={value}".replace("\\", "")  # Hydra escapes interpolations
