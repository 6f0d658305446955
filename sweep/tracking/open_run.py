"""Buffer what is not recorded yet of a trial in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sweep import container
from sweep.schedules import Event
from sweep.tracking.bulk import Points, joined


@dataclass
class OpenRun:
    """What is to be written of an open trial.

    Args:
        run_id: of its run.
        training: its tag `sweep.training`.
        clock: milliseconds since 1970, of the last rows taken.
        known: key -> steps that are recorded already of a trial that goes on, from those of `recorded` on.
        parts: key -> points, in the order of their arrival.
        last: key -> the last point, where it is not among the parts: its step is not one that is recorded.
        tags: beside those that it was opened with.
        events: all so far.
        recorded: key -> the step below which all that was taken is recorded: what is taken again is not below it.
        flushed: whether some of it may be recorded.
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
        """Take points of one metric."""
        self.parts.setdefault(points.key, []).append(points)

    def take_every(self, points: Points, every: int) -> None:
        """Take points of one metric whose step `every` divides; and the last one, unless others follow it."""
        kept = points.steps % every == 0
        self.take(points.at(kept))
        self.last.pop(points.key, None)
        if not kept[-1]:
            self.last[points.key] = points.at(slice(-1, None))

    def points(self, ended: bool) -> list[Points]:
        """What is to be written: for each metric, what is not recorded yet.

        Args:
            ended: whether no other points follow.
        """
        last = self.last if ended else {}
        keys = [key for key in {**self.parts, **last} if self.parts.get(key) or key in last]
        every = [joined([*self.parts.get(key, []), *([last[key]] if key in last else [])]) for key in keys]
        return [one.at(~np.isin(one.steps, self.known[one.key])) if one.key in self.known else one for one in every]

    def forget(self) -> None:
        """What `points` gave of a run that has not ended is recorded."""
        for key, parts in self.parts.items():
            steps = [part.steps.max() for part in parts if len(part)]
            if steps:
                self.recorded[key] = int(max(steps)) + 1
        self.parts.clear()

    def packed(self) -> bytes:
        """Return the run as bytes, from which `unpacked` makes the same one."""
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
        """Return the run that was packed, without its training and what was recorded of it since."""
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
    """The run that an open run was packed of."""
    return OpenRun.unpacked(record).run_id
