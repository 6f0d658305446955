"""The typed configuration: frozen dataclasses that validate when they are built."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from posixpath import normpath
from typing import Any

from sweep.augmentations import NO_AUGMENT, Augment, named
from sweep.components import Component, shadowing
from sweep.errors import InvalidValueError
from sweep.identity import identity
from sweep.loops import LoopConfig
from sweep.schedules import DECAYS, WARMUPS, Decay, Event, Reaction, Schedule, Warmup
from sweep.schedules.family import Floats
from sweep.targets import is_given, with_names
from sweep.tasks import AUTO, Direction, TaskConfig
from sweep.validation import boolean, one_of, real, whole

ENERGY_DISTANCE = "val_energy_distance"
"""What a GAN is judged by, and nothing else is."""

METRICS: Mapping[str, Direction] = {
    "val_loss": "minimize",
    "val_accuracy": "maximize",
    "val_loss_ema": "minimize",
    "val_accuracy_ema": "maximize",
    ENERGY_DISTANCE: "minimize",
}
"""The metrics that need no option of the task, and their directions. Those with _ema need average=ema, and
val_energy_distance needs a GAN."""


def _option_of(part: object) -> str:
    """Return the name that the family of a schedule or warmup has in conf."""
    return next(name for name, family in {**DECAYS, **WARMUPS}.items() if type(part) is family)


@dataclass(frozen=True)
class GroupSchedule:
    """The schedule of a group of parameters, in place of that of the other parameters.

    Args:
        decay: must not wait for evaluations.
        warmup: must not wait for evaluations; None for the warmup of the other parameters.
    """

    decay: Decay
    warmup: Warmup | None = None

    def __post_init__(self) -> None:
        parts: dict[str, object] = {"schedule": self.decay, "warmup": self.warmup}
        for key, part in parts.items():
            if isinstance(part, Reaction):
                rule = f"waits for {part.watches}, which only the schedule of all parameters can"
                raise InvalidValueError(f"{key}.name", _option_of(part), rule)


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer: base rate, gradient clipping, groups of parameters, and the class with its own arguments.

    Args:
        component: the class; called with the parameters, `lr` and its arguments.
        lr: base rate, > 0.
        clip_norm: largest norm of the whole gradient, > 0; None for no clipping.
        groups: which parameters -> `lr_factor` (>= 0; their rate is lr(s) * lr_factor) and arguments of the optimizer
            that differ for them; None for no groups. "bias_and_norm" are the parameters with at most one dimension,
            any other name is an fnmatch pattern on the names of the parameters; the first that matches counts.
        base_batch_size: examples of the batches that lr is for, >= 1; None for those that are trained with.
        schedules: names of `groups` -> their own schedules.
    """

    component: Component
    lr: float
    clip_norm: float | None = None
    groups: Mapping[str, Mapping[str, Any]] | None = None
    base_batch_size: int | None = None
    schedules: Mapping[str, GroupSchedule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        real("lr", self.lr, above=0)
        if self.base_batch_size is not None:
            whole("base_batch_size", self.base_batch_size, at_least=1)
        if self.clip_norm is not None:
            real("clip_norm", self.clip_norm, above=0)
        groups: Any = {} if self.groups is None else self.groups
        if not isinstance(groups, Mapping):
            raise InvalidValueError("groups", groups, "must be null, or {bias_and_norm: {weight_decay: 0}} or such")
        for name, keys in groups.items():
            if not isinstance(name, str) or not isinstance(keys, Mapping):
                rule = "must be a name or pattern of parameters, with a mapping such as {lr_factor: 2}"
                raise InvalidValueError(f"groups.{name}", keys, rule)
            real(f"groups.{name}.lr_factor", keys.get("lr_factor", 1.0), at_least=0)
            if "lr" in keys:
                raise InvalidValueError(f"groups.{name}.lr", keys["lr"], "is no key of a group, lr_factor is: lr * it")

    def for_batches_of(self, examples: int) -> "OptimizerConfig":
        """With lr * examples / base_batch_size (linear scaling: Goyal et al., 1706.02677); as it is without one."""
        if self.base_batch_size is None:
            return self
        return replace(self, lr=self.lr * examples / self.base_batch_size, base_batch_size=None)


@dataclass(frozen=True)
class DatasetConfig:
    """A data set: the function that gives its examples, and how they are split, scaled and loaded.

    Args:
        component: called without further arguments; gives what `sweep.arrays.as_source` reads.
        val_fraction, test_fraction: parts of all examples, if they are not split already. If train and test are given
            without val, val_fraction is the part of train that becomes val.
        split_seed: of the permutation before splitting, >= 0; None for examples that are split in their order.
        standardize: whether each feature of x is brought to mean 0 and deviation 1 over the training split; "channels"
            does so with each channel of images x [n, C, H, W].
        n_classes: of a classification; None for as many as the labels have.
        block: tokens of one example, >= 1, into which an array of tokens is divided; None if it is none.
        windows: how training examples are cut from tokens: "divided" into windows that do not overlap and are shuffled
            in each epoch, or "drawn" with replacement among the windows that begin at any token.
        collate: makes a batch of a list of examples, where they are loaded one by one; None for stacking and padding.
        num_workers: processes that load examples, where they are loaded one by one; 0 for that of the training.
        ignore_index: the label that the task leaves out; None if it leaves out none.
    """

    component: Component
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    split_seed: int | None = 0
    standardize: bool | str = False
    n_classes: int | None = None
    block: int | None = None
    windows: str = "divided"
    collate: Component | None = None
    num_workers: int = 0
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        if self.block is not None:
            whole("block", self.block, at_least=1)
        one_of("windows", self.windows, ("divided", "drawn"))
        if self.windows == "drawn" and self.block is None:
            raise InvalidValueError("windows", "drawn", "needs dataset.block, the number of tokens of a window")
        whole("num_workers", self.num_workers, at_least=0)
        real("val_fraction", self.val_fraction, above=0, below=1)
        real("test_fraction", self.test_fraction, at_least=0, below=1)
        if self.val_fraction + self.test_fraction >= 1:
            raise InvalidValueError(
                "val_fraction", self.val_fraction, "leaves no training examples beside test_fraction"
            )
        if self.split_seed is not None:
            whole("split_seed", self.split_seed, at_least=0)
        if not isinstance(self.standardize, bool) and self.standardize != "channels":
            raise InvalidValueError("standardize", self.standardize, "must be true, false or channels")
        if self.n_classes is not None:
            whole("n_classes", self.n_classes, at_least=2)


def steps_per_epoch(n_examples: int, batch_size: int, drop_last: bool = False) -> int:
    """Return the number of updates of one epoch, at least 1.

    It is ceil(n_examples / batch_size), and floor(n_examples / batch_size) if the smaller last batch is left out.
    """
    return max(n_examples // batch_size, 1) if drop_last else -(-n_examples // batch_size)


@dataclass(frozen=True)
class TrainConfig:
    """One training: T = `steps` updates of `batch_size` examples, evaluated every `eval_every` and at the end.

    Args:
        compile: whether updates are compiled: True, False, or "auto" where that repays its start-up.
        accumulate: micro-batches of one update (of one worker's part of it), whose gradients are added up,
            1 <= accumulate <= batch_size / workers.
        more_steps: updates of this command, from where the training stands; None for those up to T. Horizon and
            schedule stay those of T; beyond it the schedule goes on.
        checkpoint_dir: folder of checkpoints, and of the states that single trainings ended with.
        checkpoint_seconds: of training between two checkpoints, > 0.
        workers: processes that share each batch, 1 <= workers <= batch_size.
        drop_last: leave out the last batch of an epoch where it has fewer than batch_size examples.
        eval_batch_size: examples of each trial that are evaluated at once, >= 1; None for as many as a micro-batch
            has, so that an evaluation needs no more memory than an update, or as need no more than 32 MiB.
        test: whether a single training is evaluated on the test split too, at its end.
        save: file for the state dict of the training, or of the best trial of a search: it ends in .pt or .pth, in a
            folder that exists; None for no file.
    """

    steps: int
    batch_size: int
    seed: int
    eval_every: int
    device: str = "auto"
    precision: str = "float32"
    accumulate: int = 1
    more_steps: int | None = None
    checkpoint_dir: str = "checkpoints"
    compile: bool | str = "auto"
    checkpoint_seconds: float = 60.0
    workers: int = 1
    drop_last: bool = False
    eval_batch_size: int | None = None
    save: str | None = None
    test: bool = False

    def __post_init__(self) -> None:
        self._check_save()
        boolean("test", self.test)
        if self.eval_batch_size is not None:
            whole("eval_batch_size", self.eval_batch_size, at_least=1)
        whole("steps", self.steps, at_least=1)
        whole("batch_size", self.batch_size, at_least=1)
        whole("seed", self.seed, at_least=0, at_most=2**63 - 1)
        whole("eval_every", self.eval_every, at_least=1)
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", str(self.device)):
            raise InvalidValueError("device", self.device, "must be auto, cpu, cuda, cuda:<index> or mps")
        one_of("precision", self.precision, ("float32", "bf16", "fp16", "float64"))
        whole("workers", self.workers, at_least=1)
        if self.workers > self.batch_size:
            rule = f"must be at most train.batch_size={self.batch_size}, so that every worker has an example"
            raise InvalidValueError("workers", self.workers, rule)
        whole("accumulate", self.accumulate, at_least=1)
        if self.accumulate > self.batch_size // self.workers:
            of = f" / train.workers={self.workers}" if self.workers > 1 else ""
            rule = f"must be at most train.batch_size={self.batch_size}{of}, so that every micro-batch has an example"
            raise InvalidValueError("accumulate", self.accumulate, rule)
        if self.compile != "auto" and not isinstance(self.compile, bool):
            raise InvalidValueError("compile", self.compile, "must be auto, true or false")
        boolean("drop_last", self.drop_last)
        real("checkpoint_seconds", self.checkpoint_seconds, above=0)
        if self.more_steps is not None:
            whole("more_steps", self.more_steps, at_least=1)
        if not isinstance(self.checkpoint_dir, str) or not self.checkpoint_dir or Path(self.checkpoint_dir).is_file():
            raise InvalidValueError("checkpoint_dir", self.checkpoint_dir, "must be a folder, or the name of a new one")

    def _check_save(self) -> None:
        if self.save is None:
            return
        path = Path(str(self.save))
        if not isinstance(self.save, str) or path.suffix not in (".pt", ".pth") or path.is_dir():
            raise InvalidValueError("save", self.save, "must be a file that ends in .pt or .pth")
        folder = path.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InvalidValueError("save", self.save, f"{folder} must be a folder that exists and can be written to")

    @property
    def micro_batch_size(self) -> int:
        """Return how many examples of a trial its model is given at once in an update."""
        return max(self.batch_size // (self.workers * self.accumulate), 1)


@dataclass(frozen=True)
class AverageConfig:
    """A moving average of the weights, evaluated beside them.

    Args:
        name: none or ema.
        decay: of ema, 0 <= decay < 1; update s uses min(decay, (1 + s) / (10 + s)).
    """

    name: str = "none"
    decay: float | None = None

    def __post_init__(self) -> None:
        one_of("name", self.name, ("none", "ema"))
        if self.name == "ema":
            real("decay", self.decay, at_least=0, below=1)
        elif self.decay is not None:
            raise InvalidValueError("decay", self.decay, f"no such key; average={self.name} has none")


@dataclass(frozen=True)
class CriticConfig:
    """The critic of a GAN (1701.07875): how it is trained, and what keeps its slope bounded.

    Args:
        optimizer, decay, warmup: its own; its schedule counts its own updates.
        updates: of the critic before each of the generator, >= 1.
        clip: after each of its updates its weights are brought into [-clip, clip], > 0; None: they are not.
        gradient_penalty: lambda of 1704.00028, > 0; None for no penalty.
    """

    optimizer: OptimizerConfig
    decay: Decay
    warmup: Warmup
    updates: int = 5
    clip: float | None = 0.01
    gradient_penalty: float | None = None

    def __post_init__(self) -> None:
        whole("updates", self.updates, at_least=1)
        for key in ("clip", "gradient_penalty"):
            if getattr(self, key) is not None:
                real(key, getattr(self, key), above=0)


@dataclass(frozen=True)
class Series:
    """The updates of one optimizer.

    Args:
        name: one of core.SERIES, what the names of its rate and loss begin with.
        optimizer: how its parameters are updated.
        schedule: of its own updates.
        horizon: train.steps.
        updates: its updates for each one of the horizon.
        groups: names of the groups of parameters that have a schedule of their own -> that schedule.
    """

    name: str
    optimizer: OptimizerConfig
    schedule: Schedule
    horizon: int
    updates: int = 1
    groups: Mapping[str, Schedule] = field(default_factory=dict)

    def curve(self, events: Sequence[Event] = (), last: int = 0) -> Floats:
        """Return the rates of its updates, float64 [max(horizon, last) * updates]; not to be written to.

        Args:
            events: what the schedule's reactions have seen so far.
            last: the updates of the horizon at the end of a training that goes beyond it.
        """
        if events or last > self.horizon:
            return self._drawn(self.schedule, events, last)
        return self._planned

    def curves(self, events: Sequence[Event] = (), last: int = 0) -> dict[str | None, Floats]:
        """Return `curve` under None, and the rates of each group of parameters that has a schedule of its own.

        A group is updated with `lr_factor` times its rate.
        """
        curves: dict[str | None, Floats] = {None: self.curve(events, last)}
        for name, schedule in self.groups.items():
            curves[name] = self._drawn(schedule, events, last)
        return curves

    def lr_factor(self, group: str) -> float:
        """Return what the rate of a group of parameters is multiplied by."""
        return float((self.optimizer.groups or {})[group].get("lr_factor", 1.0))

    def _drawn(self, schedule: Schedule, events: Sequence[Event], last: int) -> Floats:
        return schedule.after(*events).curve(max(self.horizon, last) * self.updates)

    @cached_property
    def _planned(self) -> Floats:
        return self.schedule.curve(self.horizon * self.updates)


@dataclass(frozen=True)
class RunConfig:
    """Everything that one training depends on.

    Args:
        resolved: the same, as plain nested data: what is recorded.
        options: group -> the option chosen of it, where that is not the group's `name`: the family of a schedule, the
            name that the file of a model has inherited.
        critic: of a GAN; optimizer, decay, warmup and train.steps are its generator's. None where there is none.
        loop: the function of the user's that trains; model, data set and optimizer are not used then. None without one.
        augment: what is done to training batches.
    """

    model: Component
    optimizer: OptimizerConfig
    decay: Decay
    warmup: Warmup
    dataset: DatasetConfig
    train: TrainConfig
    resolved: Mapping[str, Any]
    average: AverageConfig = AverageConfig()
    task: TaskConfig = AUTO
    critic: CriticConfig | None = None
    loop: LoopConfig | None = None
    augment: Augment = NO_AUGMENT
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.warmup.steps >= self.train.steps:
            rule = f"must be below the horizon train.steps={self.train.steps}, so that lr is reached"
            raise InvalidValueError("warmup.steps", self.warmup.steps, rule)
        if self.loop is not None:
            self._check_loop(self.loop)
        if self.critic is not None:
            self._check_critic(self.critic)
        if isinstance(self.warmup, Reaction) and self.train.eval_every >= self.train.steps:
            rule = f"must be below train.steps={self.train.steps}: the warmup ends at an evaluation"
            raise InvalidValueError("train.eval_every", self.train.eval_every, rule)
        try:
            self.decay.check_rate(self.optimizer.lr)
        except InvalidValueError as error:
            raise error.under("optimizer") from error
        self._check_groups()

    def _check_groups(self) -> None:
        """Refuse a schedule of a group of parameters that does not fit the base rate or the horizon."""
        for optimizer in [self.optimizer, *([] if self.critic is None else [self.critic.optimizer])]:
            for name, own in optimizer.schedules.items():
                key, horizon = f"{optimizer.component.key}.groups.{name}", self.train.steps
                if self.critic is not None and optimizer is self.critic.optimizer:
                    horizon *= self.critic.updates
                if own.warmup is not None and own.warmup.steps >= horizon:
                    rule = f"must be below the horizon, which is {horizon} updates, so that lr is reached"
                    raise InvalidValueError(f"{key}.warmup.steps", own.warmup.steps, rule)
                try:
                    own.decay.check_rate(optimizer.lr)
                except InvalidValueError as error:
                    rule = f"{error.rule} with {key}.schedule"
                    raise InvalidValueError(f"{optimizer.component.key}.lr", error.value, rule) from error

    def _check_loop(self, loop: LoopConfig) -> None:
        """Refuse what only a training of ours can have: with a loop it would do nothing."""
        name = with_names(loop.component.target)
        train = self.train
        for key, value, refused, rule in (
            (*named(self.augment), self.augment != NO_AUGMENT, "makes its own batches"),
            ("critic", self.critic and self.label("critic"), self.critic is not None, "trains all its networks itself"),
            ("task", self.task.name, self.task != AUTO, "has its own loss and metrics"),
            ("average", self.average.name, self.average.name != "none", "averages its weights itself"),
            ("train.accumulate", train.accumulate, train.accumulate != 1, "makes its own batches"),
            ("train.workers", train.workers, train.workers != 1, "starts its own processes"),
            ("train.compile", "true", train.compile is True, "compiles its model itself"),
            ("train.save", train.save, train.save is not None, "has the weights, and saves them itself"),
            ("train.eval_batch_size", train.eval_batch_size, train.eval_batch_size is not None, "evaluates itself"),
        ):
            if refused:
                raise InvalidValueError(key, value, f"is not for a loop: {name} {rule}")
        for key, component in (("model", self.model), ("dataset", self.dataset.component)):
            if is_given(component.target):
                raise InvalidValueError(key, component.target, f"is not for a loop: {name} makes its own {key}")
        reactions = self.schedule.reactions
        if loop.runs_program and reactions:
            name = reactions[0].name
            rule = f"is not for loop=command: its curve is written to a file before the program starts; {name}"
            key = "warmup" if isinstance(self.warmup, Reaction) else "schedule"
            raise InvalidValueError(key, self.label(key), f"{rule} would change it")

    def _check_critic(self, critic: CriticConfig) -> None:
        """Refuse what a training with two optimizers cannot have."""
        horizon = self.train.steps * critic.updates
        if critic.warmup.steps >= horizon:
            rule = f"must be below the horizon of the critic, train.steps * critic.updates = {horizon}"
            raise InvalidValueError("critic.warmup.steps", critic.warmup.steps, rule)
        for key, part in (
            ("schedule", self.decay),
            ("warmup", self.warmup),
            ("critic.schedule", critic.decay),
            ("critic.warmup", critic.warmup),
        ):
            if isinstance(part, Reaction):
                raise InvalidValueError(key, _option_of(part), f"waits for {part.watches}, which a GAN does not have")
        if self.train.precision == "fp16":
            rule = "is not offered for a GAN (critic); bf16 needs no loss scale, and is"
            raise InvalidValueError("train.precision", self.train.precision, rule)
        if self.task != AUTO:
            raise InvalidValueError("task", self.task.name, "is not offered for a GAN (critic): its losses are given")
        if self.augment != NO_AUGMENT:
            raise InvalidValueError(*named(self.augment), "is not offered for a GAN (critic)")
        if self.average.name != "none":
            raise InvalidValueError("average", self.average.name, "is not offered for a GAN (critic); average=none is")
        for key in ("accumulate", "workers"):
            if getattr(self.train, key) != 1:
                rule = "is not offered for a GAN (critic): its batches are not divided"
                raise InvalidValueError(f"train.{key}", getattr(self.train, key), rule)
        try:
            critic.decay.check_rate(critic.optimizer.lr)
        except InvalidValueError as error:
            raise error.under("critic.optimizer") from error

    @property
    def identity(self) -> dict[str, Any]:
        """The part of the recorded configuration that changes results; see `identity`."""
        theirs = [c.key for c in self.components if shadowing({c.key: c.target}, c.trusted)]
        return identity(self.resolved, theirs)

    @property
    def components(self) -> tuple[Component, ...]:
        """Return the code that is named by an import path.

        It is that of the model, the optimizers, the data set, the loss and the metrics, or the loop; and of schedules.
        """
        schedules = [schedule for series in self.series for schedule in (series.schedule, *series.groups.values())]
        functions = [function for schedule in schedules for function in schedule.decay.functions]
        if self.loop is not None:
            return self.loop.component, *functions
        optimizers = [series.optimizer.component for series in self.series]
        collate = () if self.dataset.collate is None else (self.dataset.collate,)
        augment = (self.augment,) if isinstance(self.augment, Component) else ()
        return self.model, *optimizers, self.dataset.component, *collate, *augment, *self.task.components, *functions

    @property
    def naming(self) -> tuple[str, ...]:
        """Return the groups whose options name a training, the first of which says what is trained on."""
        return ("dataset", "model", "optimizer", "schedule") if self.loop is None else ("loop", "schedule")

    def directions(self, labels: bool) -> dict[str, Direction | None]:
        """Return the metrics of an evaluation on the validation split, and whether each is minimized or maximized.

        Args:
            labels: whether the targets of the data set are labels.
        """
        if self.critic is not None:
            return {ENERGY_DISTANCE: "minimize"}
        own = {f"val_{name}": direction for name, direction in self.task.directions(labels).items()}
        return own | ({f"{name}_ema": d for name, d in own.items()} if self.average.name == "ema" else {})

    def label(self, group: str) -> str:
        """Return the option that was chosen of a group, also of `critic.schedule` and the like."""
        values: Any = self.resolved
        for key in group.split("."):
            values = values[key]
        return self.options.get(group, str(values["name"]))

    @property
    def schedule(self) -> Schedule:
        """The rate of every update."""
        return Schedule(self.optimizer.lr, self.decay, self.warmup)

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """Return the optimizers: one, or the generator's and the critic's. Their curves are computed once."""
        if self.critic is None:
            return (self._series("", self.optimizer, self.schedule),)
        critic = self.critic
        own = Schedule(critic.optimizer.lr, critic.decay, critic.warmup)
        generator = self._series("G_", self.optimizer, self.schedule)
        return generator, self._series("D_", critic.optimizer, own, critic.updates)

    def _series(self, name: str, optimizer: OptimizerConfig, schedule: Schedule, updates: int = 1) -> Series:
        groups = {
            pattern: Schedule(optimizer.lr, own.decay, own.warmup or schedule.warmup)
            for pattern, own in optimizer.schedules.items()
        }
        return Series(name, optimizer, schedule, self.train.steps, updates, groups)

    def with_seed(self, seed: int) -> "RunConfig":
        """The same on another seed."""
        resolved = {**self.resolved, "train": {**self.resolved["train"], "seed": seed}}
        return replace(self, train=replace(self.train, seed=seed), resolved=resolved)


@dataclass(frozen=True)
class StudyConfig:
    """A study: its name, when it ends, where it is kept, what it is judged by.

    Args:
        name: None for one made of the configuration.
        n_trials: the total of trials told, >= 1.
        timeout: seconds after which no trial is begun; None for none.
        storage: Optuna storage URI.
        metric: judged at the end of the horizon.
        direction: minimize or maximize; None for the metric's own.
        max_retries: how often a trial whose process was lost is begun again.
    """

    name: str | None
    n_trials: int
    timeout: float | None
    storage: str
    metric: str
    direction: Direction | None
    max_retries: int

    def __post_init__(self) -> None:
        if self.name is not None and not (isinstance(self.name, str) and self.name.strip()):
            raise InvalidValueError("name", self.name, "must be a text, or null")
        whole("n_trials", self.n_trials, at_least=1)
        if self.timeout is not None:
            real("timeout", self.timeout, above=0)
        if not isinstance(self.metric, str) or not re.fullmatch(r"val_[A-Za-z]\w*", self.metric):
            rule = f"must be one of {', '.join(METRICS)}, or val_ and the name of another metric of the task"
            raise InvalidValueError("metric", self.metric, rule)
        if self.direction is not None:
            one_of("direction", self.direction, ("minimize", "maximize"))
            if self.direction != METRICS.get(self.metric, self.direction):
                raise InvalidValueError("direction", self.direction, f"{self.metric} is to {METRICS[self.metric]}")
        whole("max_retries", self.max_retries, at_least=0)

    @property
    def direction_of_metric(self) -> Direction:
        """Return whether the metric is minimized or maximized. For a metric of the task, call `judging` first."""
        return self.direction or METRICS[self.metric]

    @property
    def minimize(self) -> bool:
        return self.direction_of_metric == "minimize"

    def _direction_of_loop(self) -> Direction:
        """Return the direction of the metric of a loop, which may have any name.

        Raises:
            InvalidValueError: names study.metric if no direction is given or known.
        """
        direction = self.direction or METRICS.get(self.metric)
        if direction is None:
            rule = "has no direction that is known: give study.direction=minimize or maximize"
            raise InvalidValueError("study.metric", self.metric, rule)
        return direction

    def judging(self, config: RunConfig, classification: bool) -> "StudyConfig":
        """Return the study with the direction of its metric.

        Args:
            classification: whether the data set is one.

        Raises:
            InvalidValueError: names study.metric if such a training does not have it, or cannot be judged by it.
        """
        if config.loop is not None:
            return replace(self, direction=self._direction_of_loop())
        if (self.metric == ENERGY_DISTANCE) != (config.critic is not None):
            rule = "is of a GAN; others have val_loss" if config.critic is None else f"a GAN has {ENERGY_DISTANCE}"
            raise InvalidValueError("study.metric", self.metric, rule)
        if self.metric.removesuffix("_ema") == "val_accuracy" and not classification:
            raise InvalidValueError("study.metric", self.metric, "a regression has no accuracy; val_loss is its metric")
        if self.metric.endswith("_ema") and config.average.name != "ema":
            raise InvalidValueError("study.metric", self.metric, f"needs average=ema, not {config.average.name}")
        known = config.directions(classification)
        if self.metric not in known:
            rule = f"is not measured by such a training, which has {', '.join(known)}; task.metrics adds others"
            raise InvalidValueError("study.metric", self.metric, rule)
        direction = known[self.metric] or self.direction
        if direction is None:
            name = self.metric.removeprefix("val_").removesuffix("_ema")
            rule = f"has no direction: give study.direction, or task.metrics.{name}.direction (minimize or maximize)"
            raise InvalidValueError("study.metric", self.metric, rule)
        if self.direction not in (None, direction):
            raise InvalidValueError("study.direction", self.direction, f"{self.metric} is to {direction}")
        return replace(self, direction=direction)


@dataclass(frozen=True)
class CompareConfig:
    """A comparison: schedules tuned alike, each on its own; the best of each trained again on the same fresh seeds.

    Args:
        schedules: two or more options of the group schedule.
        trials: tuning trials of each schedule, >= 1.
        seeds: final runs of each schedule, >= 1; three are the fewest that can show a difference.
        confidence: of the intervals, between 0 and 1; 1 - confidence is the level of the tests.
        target: of study.metric, to which updates and seconds are counted; None for the median of the first schedule's
            final runs.
        test: of paired differences, t (Student) or wilcoxon (signed ranks).
    """

    schedules: Sequence[str]
    trials: int
    seeds: int
    confidence: float
    target: float | None
    test: str

    def __post_init__(self) -> None:
        names = self.schedules
        listed = isinstance(names, Sequence) and not isinstance(names, str)
        if not listed or len(names) < 2 or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
            rule = "must be a list of two or more different schedules: compare.schedules=[exponential,cosine]"
            raise InvalidValueError("schedules", names, rule)
        whole("trials", self.trials, at_least=1)
        whole("seeds", self.seeds, at_least=1)
        real("confidence", self.confidence, above=0, below=1)
        if self.target is not None:
            real("target", self.target)
        one_of("test", self.test, ("t", "wilcoxon"))


@dataclass(frozen=True)
class EngineConfig:
    """How trials are trained.

    Args:
        name: serial (one after another), fused (many in one step), or auto for what suits model and machine.
        slots: trials at once, >= 1, not of serial; None for as many as are fastest.
    """

    name: str
    slots: int | None = None

    def __post_init__(self) -> None:
        one_of("name", self.name, ("auto", "serial", "fused"))
        if self.slots is not None:
            whole("slots", self.slots, at_least=1)
            if self.name == "serial":
                raise InvalidValueError("slots", self.slots, "engine=serial trains one trial at a time")


@dataclass(frozen=True)
class Choice:
    """A sampler or pruner by its name, with its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS = ("tpe", "random", "grid", "qmc", "cmaes", "gp")
CONDITIONAL = ("tpe", "random")
"""Samplers that can search a space in which a choice decides which parameters there are."""


@dataclass(frozen=True)
class SamplerConfig(Choice):
    """A sampler, one of SAMPLERS, and the seed of its proposals, >= 0."""

    seed: int = 0

    def __post_init__(self) -> None:
        one_of("name", self.name, SAMPLERS)
        whole("seed", self.seed, at_least=0)


TAG_NAME, TAG_VALUE = 250, 8000
"""The most characters of an MLflow tag; longer values would be cut off silently."""
LONGEST_EXPERIMENT = 500
"""Characters of the longest name of an experiment in MLflow."""


@dataclass(frozen=True)
class TrackingConfig:
    """MLflow: tracking URI and experiment name, how much of a training is recorded, and tags of the user's.

    Args:
        every: learning rate and loss are recorded of the updates whose step it divides, and of the last one.
        tags: of every run that is created; name -> text. Numbers, true and false become text; None means no tags.
    """

    uri: str
    experiment: str
    every: int = 1
    tags: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", _tags(self.tags))
        for key in ("uri", "experiment"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key):
                raise InvalidValueError(key, getattr(self, key), "must be a text")
        if len(self.experiment) > LONGEST_EXPERIMENT:
            rule = f"has {len(self.experiment)} characters; MLflow accepts at most {LONGEST_EXPERIMENT}"
            raise InvalidValueError("experiment", self.experiment, rule)
        whole("every", self.every, at_least=1)


def _tags(given: Any) -> dict[str, str]:
    """Check the tags of the user's, and make their values text.

    Raises:
        InvalidValueError: names the tag that MLflow would refuse or cut off, or whose name is reserved.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InvalidValueError("tags", given, "must be a mapping of names to texts: {team: vision}")
    tags: dict[str, str] = {}
    for name, value in ((str(name), value) for name, value in (given or {}).items()):
        key = f"tags.{name}"
        valid = len(name) <= TAG_NAME and re.fullmatch(r"[\w.\-: /]+", name)
        if not valid or name != normpath(name) or name == "." or name.startswith(("/", "..")):
            rule = f"a name has 1 to {TAG_NAME} letters, digits, spaces and _-.:/ and is no path such as a//b or ../a"
            raise InvalidValueError(key, value, rule)
        if name.startswith(("sweep.", "mlflow.")):
            raise InvalidValueError(key, value, "names that begin with sweep. or mlflow. are reserved")
        if not isinstance(value, (str, bool, int, float)):
            raise InvalidValueError(key, value, "must be a text")
        tags[name] = value if isinstance(value, str) else json.dumps(value)
        if len(tags[name]) > TAG_VALUE:
            raise InvalidValueError(key, f"{tags[name][:20]}...", f"must have at most {TAG_VALUE} characters")
    return tags


@dataclass(frozen=True)
class PreviewConfig:
    """Where the previewed curve is written: a .csv file in a folder that exists."""

    path: str

    def __post_init__(self) -> None:
        path = Path(str(self.path))
        if path.suffix != ".csv" or not path.absolute().parent.is_dir() or path.is_dir():
            raise InvalidValueError("path", self.path, "must end in .csv, in a folder that exists")


@dataclass(frozen=True)
class ReportConfig:
    """The folder below which reports are written, one folder each; made where there is none."""

    dir: str

    def __post_init__(self) -> None:
        above = (Path(self.dir), *Path(self.dir).parents) if isinstance(self.dir, str) and self.dir else ()
        if not above or any(path.is_file() for path in above):
            raise InvalidValueError("dir", self.dir, "must be a folder, or the name of a new one")


@dataclass(frozen=True)
class UiConfig:
    """How pages of MLflow are served and shown.

    Args:
        port: on which mode=ui serves MLflow.
        links: "auto" prints the titles of pages as hyperlinks if the terminal supports them, "plain" always prints
            their addresses.
        open: whether mode=ui opens the first page in a browser; "auto" if a person can see it.
    """

    port: int
    links: str = "auto"
    open: bool | str = "auto"

    def __post_init__(self) -> None:
        whole("port", self.port, at_least=1, at_most=65535)
        one_of("links", self.links, ("auto", "plain"))
        if self.open != "auto" and not isinstance(self.open, bool):
            raise InvalidValueError("open", self.open, "must be auto, true or false")
