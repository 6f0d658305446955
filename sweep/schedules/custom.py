"""Defines the schedule that calls a function of the user."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.schedules.decay import Factor
from sweep.schedules.family import Floats


@dataclass(frozen=True)
class Custom(Factor):
    """Calls a function of yours for the factors: `(steps, horizon, **keys) -> factors`.

    `steps` is a float64 array [n] of whole numbers >= 0. They are counted as those of any other schedule: from the end
    of warmup, or from step 0 with `warmup.counting=overlap`. `horizon` is the number of updates that the schedule has:
    what the warmup leaves of `train.steps`, so that the last update of a training is at step horizon - 1. It is
    `train.steps` with `counting=overlap` and with a warmup whose end is not known in advance; in `joined` it is the
    length of the piece. A training that is continued with `train.more_steps` has steps >= horizon. With
    `schedule.per_worker` steps and horizon are in updates of one worker, `train.workers` times as many.

    The function returns an array [n] of finite numbers >= 0: the factor on `optimizer.lr` at each step. Each factor
    must depend on its step, the horizon and the keys only; this is checked when the schedule is built. The other
    parameters of the function are keys of the schedule. The coordinator imports the module of the function, which
    should not import torch, because that takes seconds.

    Args:
        function: the function, which belongs to a trusted package, and its keys.
        horizon: updates of all workers together, >= 1.
        workers: the function counts updates of one worker, `workers` times as many as those of all together.
    """

    function: Component
    horizon: int
    workers: int = 1
    planned: Floats = field(init=False, repr=False, compare=False)
    """Factors of the steps 0..horizon-1."""

    def __post_init__(self) -> None:
        steps = np.arange(self.horizon, dtype=np.float64)
        planned = self._factors(steps)
        if not _are_close(self._factors(steps), planned):
            raise self._refused("must return the same for the same arguments; a second call returned other factors")
        third = slice(self.horizon // 3, max(2 * self.horizon // 3, self.horizon // 3 + 1))
        if not _are_close(self._factors(steps[third]), planned[third]):
            rule = "must compute each factor from its step, horizon and keys alone; called with the steps"
            rule = f"{rule} {third.start} to {third.stop - 1} only, it returned other factors for them"
            raise self._refused(rule)
        object.__setattr__(self, "planned", planned)

    def factor(self, s: Floats) -> Floats:
        steps = np.reshape(s, -1)
        inside = steps < self.horizon
        factors = np.empty(len(steps))
        factors[inside] = self.planned[steps[inside].astype(np.int64)]
        if not inside.all():
            factors[~inside] = self._factors(steps[~inside])
        return factors.reshape(np.shape(s))

    def per_worker(self, workers: int) -> Self:
        return replace(self, workers=workers)

    @property
    def functions(self) -> Sequence[Component]:
        return (self.function,)

    def _factors(self, steps: Floats) -> Floats:
        """Call the function, and return its factors for the steps, float64 [n].

        Raises:
            InvalidValueError: names `_target_` if the function returned something else or raised an error.
        """
        counted = steps * self.workers  # a new array, in which the function may write
        found: Any = self.function.build(counted, self.horizon * self.workers)
        try:
            factors = np.array(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._refused(f"{SHAPE_RULE}; it returned a {type(found).__name__}: {error}") from error
        if factors.dtype.kind not in "fiub":
            raise self._refused(f"{SHAPE_RULE}; it returned a {type(found).__name__} of {factors.dtype}")
        if factors.shape != steps.shape:
            kind = f"an array of shape {list(factors.shape)}" if factors.shape else f"a single {type(found).__name__}"
            raise self._refused(f"{SHAPE_RULE}; it returned {kind} for {len(steps)} steps")
        wrong = np.flatnonzero(~(np.isfinite(factors) & (factors >= 0)))
        if wrong.size:
            step, horizon = int(steps[wrong[0]] * self.workers), self.horizon * self.workers
            at = f"step {step}" if step < horizon else f"step {step}, which is beyond the horizon {horizon}"
            raise self._refused(f"must return finite factors >= 0; it returned {factors[wrong[0]]:g} for {at}")
        return factors.astype(np.float64)

    def _refused(self, rule: str) -> InvalidValueError:
        return InvalidValueError(f"{self.function.key}._target_", self.function.target, rule)


def _are_close(one: Floats, other: Floats) -> bool:
    """Return whether factors are equal up to rounding, which may depend on the position of an element in its array."""
    return np.allclose(one, other, rtol=1e-9, atol=1e-12)


SHAPE_RULE = "must return an array with one number for each step"
