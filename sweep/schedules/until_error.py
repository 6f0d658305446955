"""A warmup that ends when the training error is small enough."""

from dataclasses import dataclass

from sweep.errors import InvalidValueError
from sweep.schedules.family import UpdatesFromZero
from sweep.schedules.reaction import NEVER, Memory, Reaction
from sweep.schedules.warmup import ConstantWarmup, Counting, Warmup
from sweep.validation import PositivePart


@dataclass(frozen=True)
class UntilError(ConstantWarmup, Reaction, name="until_error"):
    """Holds start_factor until the training error is below `until_error`, then jumps to 1.

    The training error is 1 - accuracy on the training batches since the last evaluation. The ResNet-110 recipe
    (1512.03385): a tenth of the rate until the training error is below 0.8, about 400 updates.

    Args:
        steps: 0; the end is not known before.
        start_factor: 0 < start_factor <= 1.
        counting: "overlap": boundaries of the decay count from step 0; "prefix": from the end of warmup.
        until_error: 0 < until_error <= 1.
    """

    steps: UpdatesFromZero = 0
    start_factor: PositivePart = 0.1  # at rate 0 no error falls
    counting: Counting = "overlap"
    until_error: PositivePart = 0.8

    name = "warmup_end"
    condition = "until_error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps != 0:
            raise InvalidValueError("steps", self.steps, "are not known before: the training error ends this warmup")

    @property
    def watches(self) -> str:
        return "train_error"

    def memory(self) -> Memory:
        """Nothing."""
        return ()

    def react(self, memory: Memory, value: float) -> tuple[Memory, bool]:
        return memory, value < self.until_error

    def after(self, ends: tuple[int, ...]) -> Warmup:
        """The warmup that ended at the first of these steps; one without end where there is none."""
        return ConstantWarmup(ends[0] if ends else NEVER, self.start_factor, self.counting, self.inclusive)
