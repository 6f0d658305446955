"""Show the progress of trainings as text: a line for each trial that ends, and the trials in training."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sweep.app.front import Watched
from sweep.core import Progress, Result, Status, Trial
from sweep.report.describe import short
from sweep.report.text import measured, number, warnings
from sweep.schedules import Event

QUIET = 10.0
"""Seconds between two plain lines about the same trial."""


class Bar(AbstractContextManager["Bar"], Protocol):
    """Shows the trials in training in a place that is redrawn."""

    def show(self, covered: int, total: int, training: str, state: str, left: str) -> None:
        """Redraw.

        Args:
            covered: completed updates.
            total: updates of all trainings together.
            training: the trial in training, or how many there are.
            state: its step and losses.
            left: the remaining time, `0:17`; empty while there is no estimate.
        """


class Display:
    """Shows trials as they start, progress and end.

    Args:
        say: shows lines.
        bar: None if nothing can be redrawn; then a line about the trials in training appears every QUIET seconds.
    """

    def __init__(self, watched: Watched, say: Callable[[str], None], bar: Bar | None) -> None:
        self.say, self._bar = say, bar
        self.metric, self.total = watched.metric, watched.total
        self.done, self.steps = watched.done, watched.steps
        self._sign, self._best, self._single = 1 if watched.minimize else -1, watched.best, watched.single
        self._finals, self._later = watched.finals, watched.later
        self._noun = "seed" if watched.finals else "trial"
        self._metrics: Mapping[str, float] = {}
        self._steps: dict[int, int] = {}
        """Completed updates of each trial in training."""
        self._begun: dict[int, int] = {}
        """Completed updates of each trial when this command started it."""
        self._duplicate_of: int | None = None
        self._losses: dict[str, float] = {}
        """The last loss of each optimizer."""
        self.events: dict[int, Sequence[Event]] = {}
        """The events of each trial so far."""
        self._span, self._first, self._before = watched.steps - watched.first, watched.first, 0
        self._said = time.monotonic()
        self._began: float | None = None
        """When the first trial made progress. The time before, of starting up, is left out of the estimate."""
        self._ended = 0
        self._doing, self._at = "starting", ""

    def __enter__(self) -> "Display":
        if self._bar is not None:
            self._bar.__enter__()
        self._draw()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def started(self, trial: Trial) -> None:
        self._begun[trial.number] = self._first if trial.state is None else trial.state.step
        if trial.state is not None and not self._single:
            self.say(f"{self._noun} {trial.number:3d}  resumes at step {trial.state.step}")
        for warning in warnings(trial.config):
            self.say(f"warning: {warning}" if self._single else f"{self._noun} {trial.number:3d}  warning: {warning}")
        self._losses = {}
        self._show(trial, 0)

    def progressed(self, trial: Trial, progress: Progress) -> None:
        before, self._duplicate_of = self._steps.get(trial.number, self._begun[trial.number]), progress.duplicate_of
        step = self._steps[trial.number] = before
        for rows in progress.rows:
            if rows.series != "D_":  # a critic's steps are not those of the horizon
                step = self._steps[trial.number] = int(rows.steps[-1]) + 1
            self._losses[f"{rows.series}loss"] = float(rows.loss[-1])
        if self._began is None:
            self._began, self._before = time.monotonic(), self._covered
        if self._single:
            for event in (event for event in progress.events if event.step > before):
                self.say(f"{event.name.replace('_', ' ')} at step {event.step}")
        self.events[trial.number] = progress.events
        if progress.evaluation is not None:
            self._metrics = progress.evaluation.metrics
        self._show(trial, step)
        if self._bar is None and progress.status is None and time.monotonic() - self._said >= QUIET:
            self._said = time.monotonic()
            self.say(f"{self._training(trial)}  {self._state(step)}{self._left_text()}")

    def ended(self, trial: Trial, result: Result) -> None:
        if self._finals or self._single or result.status is not Status.FAILED:  # a search replaces failed trials
            self.done += 1
            self._ended += 1
        self._said = time.monotonic()
        step = self._steps.pop(trial.number, self._begun.pop(trial.number))
        if self._single:
            at = ", recorded up to" if result.status is Status.FAILED else " at"
            self.say(f"{result.status.value}{at} step {step}  {self._measured()}".rstrip())
            if self._warming(trial):
                self.say("warning: the warmup has not ended: the training error stayed above warmup.until_error")
        else:
            self._say_trial(trial, result, step)
        self._draw()

    def _say_trial(self, trial: Trial, result: Result, step: int) -> None:
        drawn = "" if self._finals else " ".join(short(key, value) for key, value in trial.values.items())
        value, mark = f"at step {step}" if result.failure is None else "", ""
        if result.value is not None:
            value = f"{self.metric} {measured(result.value)}"
            if not self._finals and self._improves(result.value):
                self._best, mark = (result.value, trial.number), "  best"
        duplicate = "" if self._duplicate_of is None else f"  as trial {self._duplicate_of}"
        events = "".join(f"  {event}" for event in self.events.get(trial.number, ()))
        events += "  warmup did not end" if result.status is Status.COMPLETE and self._warming(trial) else ""
        line = f"{self._noun} {trial.number:3d}  {result.status.value:9s} {value:16s}  {drawn}{events}{duplicate}{mark}"
        line = line.rstrip()
        self.say(line if self._bar is not None else f"{line}  [{self.done}/{self.total}{self._left_text()}]")
        if result.failure is not None:
            self.say(f"  {result.failure.reason}")

    def _warming(self, trial: Trial) -> bool:
        """Return whether a warmup that ends on a condition has not ended."""
        return trial.config.schedule.after(*self.events.get(trial.number, ())).warm_at > trial.last

    def _measured(self) -> str:
        return "  ".join(f"{name} {measured(value)}" for name, value in self._metrics.items() if not _counts(name))

    def _improves(self, value: float) -> bool:
        return self._best is None or self._sign * value < self._sign * self._best[0]

    def _show(self, trial: Trial, step: int) -> None:
        self._doing = "training" if self._single else f"{self.done}/{self.total} done  {self._training(trial)}"
        self._at = self._state(step)
        self._draw()

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.show(self._covered, self._covered + self._uncovered, self._doing, self._at, self._left())

    def _training(self, trial: Trial) -> str:
        """Name the trial in training, or say how many there are."""
        return f"{len(self._steps)} at once" if len(self._steps) > 1 else f"{self._noun} {trial.number}"

    def _state(self, step: int) -> str:
        low = min(self._steps.values(), default=step)
        parts = [f"step {step}/{self.steps}" if low == step else f"steps {low} to {max(self._steps.values())}"]
        if len(self._steps) <= 1:
            parts += [f"{name} {number(loss)}" for name, loss in self._losses.items()]
        if self._best is not None:
            parts.append(f"best {measured(self._best[0])}")
        return "  ".join(parts)

    def _left(self) -> str:
        """Return the remaining time at the pace so far; an empty text before half a training is completed."""
        covered = self._covered - self._before
        if self._began is None or not self._uncovered or covered < self._span / 2:
            return ""
        seconds = round((time.monotonic() - self._began) / covered * self._uncovered)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def _left_text(self) -> str:
        left = self._left()
        return f", {left} left" if left else ""

    @property
    def _covered(self) -> int:
        """Updates that this command has completed; a trial that ended early counts in full."""
        return self._ended * self._span + sum(step - self._first for step in self._steps.values())

    @property
    def _uncovered(self) -> int:
        begun = sum(step - self._first for step in self._steps.values())
        return (max(self.total - self.done, 0) + self._later) * self._span - begun


def _counts(metric: str) -> bool:
    """Return whether a metric is the global step of an optimizer."""
    return metric.endswith("global_step")
