"""Buffer the points of a trial in training that are not recorded yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sweep import container
from sweep.schedules import Event
from sweep.tracking.bulk import Points, joined


@dataclass
class OpenRun:
    """Collects the points, tags and events of an open trial until they are recorded.

    Args:
        run_id: the MLflow run of the trial.
        training: its tag `sweep.training`.
        clock: time of the last rows, milliseconds since 1970.
        known: key -> steps >= `recorded` that the run of a resumed trial already has.
        parts: key -> points, in the order of their arrival.
        last: key -> the last point, if `tracking.every` leaves it out unless the trial ends there.
        tags: tags that are set when the trial ends.
        events: all events so far.
        recorded: key -> the step below which all points are recorded; points that are taken again are not below it.
        flushed: whether points may have been recorded.
    """

    run_id: str
    training: str | None
    clock: int
    known: Mapping[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, list[Points]] = field(default_factory=dict)
    last: dict[str, Points] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    events: Sequence[Event] = ()
    recorded: dict[str, int] = field(default_factory=dict)
    flushed: bool = False

    def take(self, points: Points) -> None:
        """Add points of one metric."""
        self.parts.setdefault(points.key, []).append(points)

    def take_every(self, points: Points, every: int) -> None:
        """Add the points of one metric whose step is a multiple of `every`; keep the last one, as the trial may end."""
        kept = points.steps % every == 0
        self.take(points.at(kept))
        self.last.pop(points.key, None)
        if not kept[-1]:
            self.last[points.key] = points.at(slice(-1, None))

    def points(self, ended: bool) -> list[Points]:
        """Return the points that are not recorded yet, one object for each metric.

        Args:
            ended: whether no other points follow.
        """
        last = self.last if ended else {}
        keys = [key for key in {**self.parts, **last} if self.parts.get(key) or key in last]
        every = [joined([*self.parts.get(key, []), *([last[key]] if key in last else [])]) for key in keys]
        return [one.at(~np.isin(one.steps, self.known[one.key])) if one.key in self.known else one for one in every]

    def forget(self) -> None:
        """Discard the points that `points` returned, after they were recorded."""
        for key, parts in self.parts.items():
            steps = [part.steps.max() for part in parts if len(part)]
            if steps:
                self.recorded[key] = int(max(steps)) + 1
        self.parts.clear()

    def packed(self) -> bytes:
        """Return the buffer as bytes, which `unpacked` reads."""
        parts = [(part, False) for parts in self.parts.values() for part in parts]
        parts += [(part, True) for part in self.last.values()]
        about = {
            "run_id": self.run_id,
            "clock": self.clock,
            "tags": self.tags,
            "events": [str(event) for event in self.events],
            "recorded": self.recorded,
            "parts": [[part.key, is_last] for part, is_last in parts],
        }
        return container.encode(about, [column for part, _ in parts for column in part.columns])

    @classmethod
    def unpacked(cls, content: bytes) -> "OpenRun":
        """Return the buffer that was packed. `training` and `known` are not set."""
        about, columns = container.decode(content)
        opened = cls(about["run_id"], None, about["clock"], tags=about["tags"], recorded=about["recorded"])
        opened.events = [Event.parse(text) for text in about["events"]]
        for i, (key, is_last) in enumerate(about["parts"]):
            part = Points(key, *columns[3 * i : 3 * i + 3])
            if is_last:
                opened.last[key] = part
            else:
                opened.take(part)
        return opened


def recorded_run(record: bytes) -> str:
    """Return the run id in a packed buffer."""
    return OpenRun.unpacked(record).run_id
