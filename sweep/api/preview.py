"""Computes curves without training. It imports neither PyTorch nor MLflow."""

import html
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.api.command import Data, Function, Loop, Objects, command_of
from sweep.api.short_tracebacks import short_tracebacks
from sweep.api.values import Overrides
from sweep.app.preview import PreviewPlan, PreviewResult, picture
from sweep.app.preview import preview as compute_curves
from sweep.requests.preview import make_preview
from sweep.schedules import KeyFigures
from sweep.schedules.family import Floats

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Preview:
    """Curves of configurations that were not trained."""

    _result: PreviewResult

    @property
    def curves(self) -> Mapping[str, Floats]:
        """Return label -> the rates of the updates 0..T-1, float64 [T]. A single configuration has the label `lr`."""
        return self._result.curves

    @property
    def figures(self) -> Mapping[str, KeyFigures]:
        """Return label -> the key figures of the curve: peak, end, half-life, and the step from which on it stalls."""
        return self._result.figures

    def to_frame(self) -> "pd.DataFrame":
        """Return the curves as a table: index `step`, a column for each curve."""
        import pandas as pd

        frame = pd.DataFrame({label: pd.Series(curve) for label, curve in self.curves.items()})
        return frame.rename_axis("step")

    def __repr__(self) -> str:
        return f"<Preview of {', '.join(self.curves)}>"

    def _repr_html_(self) -> str:
        drawn = b64encode(picture(self.curves, self.figures)).decode()
        return f'<img src="data:image/png;base64,{drawn}" alt="{html.escape(repr(self))}">'


@short_tracebacks
def preview(
    overrides: Overrides = (),
    *,
    dataset: Data | None = None,
    schedule: Function | None = None,
    loop: Loop | None = None,
    config_dir: str | Path | None = None,
) -> Preview:
    """Compute the curves of schedules without training; a list (`choice`, `a,b`) gives a curve for each value.

    >>> sweep.preview({"schedule": sweep.choice("cosine", "wsd"), "train.steps": 300}).to_frame().plot()

    Args:
        overrides, dataset, schedule, loop, config_dir: as for `search`. Only the length of an epoch depends on the
            data. Files are written only if `preview.path` is given.

    Raises:
        InvalidValueError: names the invalid key.
    """
    with command_of(
        "preview", overrides, Objects(dataset=dataset, schedule=schedule, loop=loop), config_dir
    ) as command:
        plan = make_preview(command)
        if "preview.path" not in command.request.keys:
            plan = PreviewPlan(plan.runs, None)
        return Preview(compute_curves(plan))
