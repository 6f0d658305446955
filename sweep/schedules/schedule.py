"""Combines a base rate, a warmup and a decay into one function of the global step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from sweep.errors import InvalidValueError
from sweep.schedules.decay import Decay
from sweep.schedules.family import Floats
from sweep.schedules.plateau import Plateau
from sweep.schedules.reaction import NEVER, Event, Memory, Reaction
from sweep.schedules.until_error import UntilError
from sweep.schedules.warmup import NoWarmup, Warmup
from sweep.validation import check_number

NO_WARMUP = NoWarmup()


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the global step: lr * warmup factor during warmup, then the decay's rate.

    Args:
        lr: base rate, > 0.
        decay: the decay; `warmup.counting` decides whether it counts from the end of warmup or from step 0.
        warmup: the warmup, which determines the rates of the first updates.
        events: events of its reactions so far; given these, the schedule is a pure function of the step.
    """

    lr: float
    decay: Decay
    warmup: Warmup = NO_WARMUP
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        check_number("lr", self.lr, above=0)
        self.decay.check_rate(self.lr)

    @overload
    def __call__(self, step: int) -> float: ...
    @overload
    def __call__(self, step: np.ndarray) -> Floats: ...
    def __call__(self, step: int | np.ndarray) -> float | Floats:
        """Return the rate at `step` >= 0: a float for an int, float64 of the same shape for an array."""
        if isinstance(step, np.ndarray):
            return self._rate(step.astype(np.float64))
        if step < 0:
            raise InvalidValueError("step", step, "must be >= 0")
        return float(self._rate(np.asarray(step, dtype=np.float64)))

    def _rate(self, s: Floats) -> Floats:
        pure = self._without_reactions()
        warmup, decay = pure.warmup, pure.decay
        counted = np.maximum(s - warmup.steps, 0.0) if warmup.counting == "prefix" else s
        return np.where(warmup.replaces(s), pure.lr * warmup.factor(s), decay.rate(counted, pure.lr))

    def curve(self, steps: int) -> Floats:
        """Return the rates of the updates 0..steps-1: float64, shape [steps]."""
        return self(np.arange(steps))

    @property
    def warm_at(self) -> int:
        """Return the first step after warmup: W, or the step of the first peak of a decay that warms up by itself."""
        warmup, decay = self._without_reactions().warmup, self.decay
        return max(warmup.steps, (warmup.steps if warmup.counting == "prefix" else 0) + decay.rises_for)

    @property
    def constant_half_life(self) -> float | None:
        """Return the number of updates in which the decay halves the rate; None if it is not the same at all steps."""
        return None if self.warm_at >= NEVER else self.decay.constant_half_life

    @property
    def reactions(self) -> tuple[Reaction, ...]:
        """Return the parts that depend on evaluations; none if the schedule is a pure function of the step."""
        return tuple(part for part in (self.warmup, self.decay) if isinstance(part, Reaction))

    def react(
        self, memories: Mapping[str, Memory], step: int, metrics: Mapping[str, float]
    ) -> tuple[dict[str, Memory], tuple[Event, ...]]:
        """Pass an evaluation to the reactions; return their new memories, and the events that happened.

        Args:
            memories: reaction's name -> memory; empty before the first evaluation.
            step: completed updates at the evaluation.
            metrics: name -> evaluated value.
        """
        remembered, happened = dict(memories), []
        for reaction in self.reactions:
            if not self._needs_evaluation(reaction, step):
                continue
            memory = memories.get(reaction.name, reaction.memory())
            remembered[reaction.name], seen = reaction.react(memory, metrics[reaction.watches])
            event = Event(step, reaction.name)
            if seen and not (isinstance(reaction, Plateau) and self.after(event)(step) == self(step)):
                happened.append(event)  # a cut that min_lr or eps prevents is not an event
        return remembered, tuple(happened)

    def after(self, *events: Event) -> "Schedule":
        """Return the schedule with further events."""
        return replace(self, events=(*self.events, *events))

    def _needs_evaluation(self, reaction: Reaction, step: int) -> bool:
        """Return whether a reaction gets this evaluation: a warmup until it ends, a decay after the end of warmup."""
        if isinstance(reaction, UntilError):
            return not any(event.name == reaction.name for event in self.events)
        return step > self._without_reactions().warmup.steps

    def _without_reactions(self) -> "Schedule":
        """Return the schedule with its reactions replaced by what their events made of them: a pure function."""
        warmup, decay = self.warmup, self.decay
        if isinstance(warmup, UntilError):
            warmup = warmup.after(self._steps(warmup))
        if isinstance(decay, Plateau):
            start = warmup.steps if warmup.counting == "prefix" else 0
            decay = decay.after(tuple(step - start for step in self._steps(decay)))
        return Schedule(self.lr, decay, warmup)

    def _steps(self, reaction: Reaction) -> tuple[int, ...]:
        return tuple(event.step for event in self.events if event.name == reaction.name)
