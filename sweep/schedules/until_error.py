"""Defines the warmup that ends when the training error is small enough."""

from dataclasses import dataclass

from sweep.errors import InvalidValueError
from sweep.schedules.family import UpdatesFromZero
from sweep.schedules.reaction import NEVER, Memory, Reaction
from sweep.schedules.warmup import ConstantWarmup, Counting, Warmup
from sweep.validation import PositiveFraction


@dataclass(frozen=True)
class UntilError(ConstantWarmup, Reaction, name="until_error"):
    """Keeps the factor start_factor until the training error is below `until_error`; then the factor is 1.

    The training error is 1 - accuracy on the training batches since the last evaluation. It is the recipe of ResNet-110
    (1512.03385), which trains with a tenth of the rate until the training error is below 0.8, for about 400 updates.

    Args:
        steps: must be 0, because the end is not known in advance.
        start_factor: 0 < start_factor <= 1.
        counting: "overlap" if the decay counts from step 0, "prefix" if it counts from the end of warmup.
        until_error: 0 < until_error <= 1.
    """

    steps: UpdatesFromZero = 0
    start_factor: PositiveFraction = 0.1  # at rate 0 the error would never fall
    counting: Counting = "overlap"
    until_error: PositiveFraction = 0.8

    name = "warmup_end"
    condition = "until_error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps != 0:
            raise InvalidValueError("steps", self.steps, "must be 0: the training error ends this warmup")

    @property
    def watches(self) -> str:
        return "train_error"

    def memory(self) -> Memory:
        """Return an empty memory."""
        return ()

    def react(self, memory: Memory, value: float) -> tuple[Memory, bool]:
        return memory, value < self.until_error

    def after(self, ends: tuple[int, ...]) -> Warmup:
        """Return the warmup that ended at the first of these steps; if there are none, one that never ends."""
        return ConstantWarmup(ends[0] if ends else NEVER, self.start_factor, self.counting, self.inclusive)
