"""Defines the typed configuration: frozen dataclasses that check their values when they are created."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from posixpath import normpath
from typing import Any

from sweep.augmentations import NO_AUGMENT, Augment, key_and_value
from sweep.components import Component, shadowing
from sweep.errors import InvalidValueError
from sweep.identity import identity
from sweep.loops import LoopConfig
from sweep.schedules import DECAYS, WARMUPS, Decay, Event, Reaction, Schedule, Warmup
from sweep.schedules.family import Floats
from sweep.targets import is_given, with_names
from sweep.tasks import AUTO_TASK, Direction, TaskConfig
from sweep.validation import check_boolean, check_integer, check_number, check_one_of

ENERGY_DISTANCE = "val_energy_distance"
"""The only metric of a GAN."""

METRICS: Mapping[str, Direction] = {
    "val_loss": "minimize",
    "val_accuracy": "maximize",
    "val_loss_ema": "minimize",
    "val_accuracy_ema": "maximize",
    ENERGY_DISTANCE: "minimize",
}
"""Metrics that need no option of the task, and their directions. Names with _ema need average=ema, and
val_energy_distance needs a GAN."""


def _option_of(part: object) -> str:
    """Return the name in conf of the family of a schedule or warmup."""
    return next(name for name, family in {**DECAYS, **WARMUPS}.items() if type(part) is family)


@dataclass(frozen=True)
class GroupSchedule:
    """The schedule of a group of parameters that has its own.

    Args:
        decay: a decay that does not depend on evaluations.
        warmup: a warmup that does not depend on evaluations; None for the warmup of the other parameters.
    """

    decay: Decay
    warmup: Warmup | None = None

    def __post_init__(self) -> None:
        parts: dict[str, object] = {"schedule": self.decay, "warmup": self.warmup}
        for key, part in parts.items():
            if isinstance(part, Reaction):
                rule = f"depends on {part.watches}, which is possible for the schedule of all parameters only"
                raise InvalidValueError(f"{key}.name", _option_of(part), rule)


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer with its base rate, gradient clipping and groups of parameters.

    Args:
        component: the class, which is called with the parameters, `lr` and its arguments.
        lr: base rate, > 0.
        clip_norm: largest norm of the gradient of all parameters, > 0; None for no clipping.
        groups: group -> `lr_factor` (>= 0; the group's rate is lr(s) * lr_factor) and the group's own values of the
            optimizer's arguments; None for no groups. The group "bias_and_norm" has the parameters with at most one
            dimension; any other name is an fnmatch pattern for names of parameters. A parameter belongs to the first
            group that matches.
        base_batch_size: batch size for which `lr` is given, >= 1; None for the batch size of the training.
        schedules: group -> its own schedule, for those that have one.
    """

    component: Component
    lr: float
    clip_norm: float | None = None
    groups: Mapping[str, Mapping[str, Any]] | None = None
    base_batch_size: int | None = None
    schedules: Mapping[str, GroupSchedule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("lr", self.lr, above=0)
        if self.base_batch_size is not None:
            check_integer("base_batch_size", self.base_batch_size, at_least=1)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        groups: Any = {} if self.groups is None else self.groups
        if not isinstance(groups, Mapping):
            raise InvalidValueError(
                "groups", groups, "must be null or a mapping such as {bias_and_norm: {weight_decay: 0}}"
            )
        for name, keys in groups.items():
            if not isinstance(name, str) or not isinstance(keys, Mapping):
                rule = "must be a name or pattern of parameters, with a mapping such as {lr_factor: 2}"
                raise InvalidValueError(f"groups.{name}", keys, rule)
            check_number(f"groups.{name}.lr_factor", keys.get("lr_factor", 1.0), at_least=0)
            if "lr" in keys:
                raise InvalidValueError(
                    f"groups.{name}.lr", keys["lr"], "must be given as lr_factor: the group's rate is lr * lr_factor"
                )

    def for_batches_of(self, examples: int) -> "OptimizerConfig":
        """Return the optimizer with lr * examples / base_batch_size, if that is given (Goyal et al., 1706.02677)."""
        if self.base_batch_size is None:
            return self
        return replace(self, lr=self.lr * examples / self.base_batch_size, base_batch_size=None)


@dataclass(frozen=True)
class DatasetConfig:
    """A data set: the function that returns its examples, and how they are split, scaled and loaded.

    Args:
        component: a function without further arguments; `sweep.arrays.as_source` reads what it returns.
        val_fraction, test_fraction: fractions of all examples, if they are not split already. If train and test are
            given without val, val_fraction is the fraction of train that becomes val.
        split_seed: seed of the permutation before splitting, >= 0; None to split the examples in their order.
        standardize: whether to scale each feature of x to mean 0 and standard deviation 1 over the training split;
            "channels" scales each channel of images x [n, C, H, W].
        n_classes: number of classes of a classification; None for the number in the labels.
        block: tokens of one example, >= 1, if the data set is an array of tokens; None if it is not.
        windows: how training examples are cut from tokens: "divided" into windows that do not overlap and are shuffled
            in each epoch, or "drawn" with replacement among the windows that begin at any token.
        collate: makes a batch from a list of examples, if they are loaded one by one; None for stacking and padding.
        num_workers: processes that load examples, if they are loaded one by one; 0 to load them in the trainer.
        ignore_index: the label that the task ignores; None if it ignores none.
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
            check_integer("block", self.block, at_least=1)
        check_one_of("windows", self.windows, ("divided", "drawn"))
        if self.windows == "drawn" and self.block is None:
            raise InvalidValueError("windows", "drawn", "needs dataset.block, the number of tokens of a window")
        check_integer("num_workers", self.num_workers, at_least=0)
        check_number("val_fraction", self.val_fraction, above=0, below=1)
        check_number("test_fraction", self.test_fraction, at_least=0, below=1)
        if self.val_fraction + self.test_fraction >= 1:
            raise InvalidValueError(
                "val_fraction", self.val_fraction, f"and test_fraction={self.test_fraction} leave no training examples"
            )
        if self.split_seed is not None:
            check_integer("split_seed", self.split_seed, at_least=0)
        if not isinstance(self.standardize, bool) and self.standardize != "channels":
            raise InvalidValueError("standardize", self.standardize, "must be true, false or channels")
        if self.n_classes is not None:
            check_integer("n_classes", self.n_classes, at_least=2)


def steps_per_epoch(n_examples: int, batch_size: int, drop_last: bool = False) -> int:
    """Return the number of updates of one epoch, at least 1.

    It is ceil(n_examples / batch_size), and floor(n_examples / batch_size) if the smaller last batch is left out.
    """
    return max(n_examples // batch_size, 1) if drop_last else -(-n_examples // batch_size)


@dataclass(frozen=True)
class TrainConfig:
    """One training of T = `steps` updates, each with `batch_size` examples.

    Args:
        seed: determines everything random in a training, 0 <= seed < 2**63.
        eval_every: the training is evaluated after each multiple of so many updates, and at the end, >= 1.
        compile: whether to compile the updates; "auto" compiles them if that saves more time than it takes.
        accumulate: micro-batches of one update in each worker, 1 <= accumulate <= batch_size / workers.
        more_steps: updates of this command, from the current step on; None for those up to T. Horizon and schedule
            remain those of T; the schedule continues beyond T.
        checkpoint_dir: folder of checkpoints, and of the final states of single trainings.
        checkpoint_seconds: seconds of training between two checkpoints, > 0.
        workers: processes that share each batch, 1 <= workers <= batch_size.
        drop_last: whether to leave out the last batch of an epoch if it has fewer than batch_size examples.
        eval_batch_size: examples of each trial that are evaluated together, >= 1; None for the size of a micro-batch,
            so that an evaluation needs no more memory than an update, or a larger one that needs at most 32 MiB.
        test: whether to evaluate a single training on the test split, too, at its end.
        save: file for the state dict of the training, or of the best trial of a search. It ends in .pt or .pth, and its
            folder exists. None for no file.
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
        check_boolean("test", self.test)
        if self.eval_batch_size is not None:
            check_integer("eval_batch_size", self.eval_batch_size, at_least=1)
        check_integer("steps", self.steps, at_least=1)
        check_integer("batch_size", self.batch_size, at_least=1)
        check_integer("seed", self.seed, at_least=0, at_most=2**63 - 1)
        check_integer("eval_every", self.eval_every, at_least=1)
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", str(self.device)):
            raise InvalidValueError("device", self.device, "must be auto, cpu, cuda, cuda:<index> or mps")
        check_one_of("precision", self.precision, ("float32", "bf16", "fp16", "float64"))
        check_integer("workers", self.workers, at_least=1)
        if self.workers > self.batch_size:
            rule = f"must be at most train.batch_size={self.batch_size}, so that every worker has an example"
            raise InvalidValueError("workers", self.workers, rule)
        check_integer("accumulate", self.accumulate, at_least=1)
        if self.accumulate > self.batch_size // self.workers:
            of = f" / train.workers={self.workers}" if self.workers > 1 else ""
            rule = f"must be at most train.batch_size={self.batch_size}{of}, so that every micro-batch has an example"
            raise InvalidValueError("accumulate", self.accumulate, rule)
        if self.compile != "auto" and not isinstance(self.compile, bool):
            raise InvalidValueError("compile", self.compile, "must be auto, true or false")
        check_boolean("drop_last", self.drop_last)
        check_number("checkpoint_seconds", self.checkpoint_seconds, above=0)
        if self.more_steps is not None:
            check_integer("more_steps", self.more_steps, at_least=1)
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
        """Return the number of examples of a micro-batch in one worker."""
        return max(self.batch_size // (self.workers * self.accumulate), 1)


@dataclass(frozen=True)
class AverageConfig:
    """A moving average of the weights, which is evaluated in addition to the weights.

    Args:
        name: none, or ema, the exponential moving average.
        decay: decay of ema, 0 <= decay < 1; update s uses min(decay, (1 + s) / (10 + s)).
    """

    name: str = "none"
    decay: float | None = None

    def __post_init__(self) -> None:
        check_one_of("name", self.name, ("none", "ema"))
        if self.name == "ema":
            check_number("decay", self.decay, at_least=0, below=1)
        elif self.decay is not None:
            raise InvalidValueError("decay", self.decay, f"no such key; average={self.name} has none")


@dataclass(frozen=True)
class CriticConfig:
    """The critic of a GAN (1701.07875): its training, and the bound on its gradient.

    Args:
        optimizer, decay, warmup: those of the critic; the schedule counts updates of the critic.
        updates: updates of the critic before each update of the generator, >= 1.
        clip: bound of the weights, which are clipped to [-clip, clip] after each update, > 0; None for no clipping.
        gradient_penalty: lambda of 1704.00028, > 0; None for no penalty.
    """

    optimizer: OptimizerConfig
    decay: Decay
    warmup: Warmup
    updates: int = 5
    clip: float | None = 0.01
    gradient_penalty: float | None = None

    def __post_init__(self) -> None:
        check_integer("updates", self.updates, at_least=1)
        for key in ("clip", "gradient_penalty"):
            if getattr(self, key) is not None:
                check_number(key, getattr(self, key), above=0)


@dataclass(frozen=True)
class Series:
    """One optimizer of a training, with its schedules.

    Args:
        name: prefix of the names of its rate and loss, one of core.SERIES.
        optimizer: its configuration.
        schedule: its schedule, which counts its own updates.
        horizon: train.steps.
        updates: its updates for each update of the horizon.
        groups: group of parameters -> the group's own schedule, for those that have one.
    """

    name: str
    optimizer: OptimizerConfig
    schedule: Schedule
    horizon: int
    updates: int = 1
    groups: Mapping[str, Schedule] = field(default_factory=dict)

    def curve(self, events: Sequence[Event] = (), last: int = 0) -> Floats:
        """Return the rates of its updates, float64 [max(horizon, last) * updates], an array that must not be changed.

        Args:
            events: events of the schedule's reactions so far.
            last: the last step of a training that continues beyond the horizon.
        """
        if events or last > self.horizon:
            return self._rates(self.schedule, events, last)
        return self._planned_rates

    def curves(self, events: Sequence[Event] = (), last: int = 0) -> dict[str | None, Floats]:
        """Return `curve` under the key None, and the rates of each group with its own schedule under its name.

        A group is updated with `lr_factor` times these rates.
        """
        curves: dict[str | None, Floats] = {None: self.curve(events, last)}
        for name, schedule in self.groups.items():
            curves[name] = self._rates(schedule, events, last)
        return curves

    def lr_factor(self, group: str) -> float:
        """Return the factor on the rate of a group of parameters."""
        return float((self.optimizer.groups or {})[group].get("lr_factor", 1.0))

    def _rates(self, schedule: Schedule, events: Sequence[Event], last: int) -> Floats:
        return schedule.after(*events).curve(max(self.horizon, last) * self.updates)

    @cached_property
    def _planned_rates(self) -> Floats:
        return self.schedule.curve(self.horizon * self.updates)


@dataclass(frozen=True)
class RunConfig:
    """Everything that one training depends on.

    Args:
        resolved: the recorded configuration, as plain nested data.
        options: group -> its chosen option, if that differs from the group's `name`, which is the family of a schedule
            or a name that the file of a model has inherited.
        critic: the critic of a GAN, whose generator has optimizer, decay, warmup and train.steps; None without a GAN.
        loop: the user's training loop, with which model, data set and optimizer are not used; None without one.
        augment: the augmentation of training batches.
    """

    model: Component
    optimizer: OptimizerConfig
    decay: Decay
    warmup: Warmup
    dataset: DatasetConfig
    train: TrainConfig
    resolved: Mapping[str, Any]
    average: AverageConfig = AverageConfig()
    task: TaskConfig = AUTO_TASK
    critic: CriticConfig | None = None
    loop: LoopConfig | None = None
    augment: Augment = NO_AUGMENT
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.warmup.steps >= self.train.steps:
            rule = f"must be less than the horizon train.steps={self.train.steps}, so that the rate reaches lr"
            raise InvalidValueError("warmup.steps", self.warmup.steps, rule)
        if self.loop is not None:
            self._check_loop(self.loop)
        if self.critic is not None:
            self._check_critic(self.critic)
        if isinstance(self.warmup, Reaction) and self.train.eval_every >= self.train.steps:
            rule = f"must be less than train.steps={self.train.steps}, because the warmup ends at an evaluation"
            raise InvalidValueError("train.eval_every", self.train.eval_every, rule)
        try:
            self.decay.check_rate(self.optimizer.lr)
        except InvalidValueError as error:
            raise error.under("optimizer") from error
        self._check_groups()

    def _check_groups(self) -> None:
        """Refuse a schedule of a group of parameters that is invalid for the base rate or the horizon."""
        for optimizer in [self.optimizer, *([] if self.critic is None else [self.critic.optimizer])]:
            for name, own in optimizer.schedules.items():
                key, horizon = f"{optimizer.component.key}.groups.{name}", self.train.steps
                if self.critic is not None and optimizer is self.critic.optimizer:
                    horizon *= self.critic.updates
                if own.warmup is not None and own.warmup.steps >= horizon:
                    rule = f"must be less than the horizon of {horizon} updates, so that the rate reaches lr"
                    raise InvalidValueError(f"{key}.warmup.steps", own.warmup.steps, rule)
                try:
                    own.decay.check_rate(optimizer.lr)
                except InvalidValueError as error:
                    rule = f"{error.rule} with {key}.schedule"
                    raise InvalidValueError(f"{optimizer.component.key}.lr", error.value, rule) from error

    def _check_loop(self, loop: LoopConfig) -> None:
        """Refuse options that have no effect with a loop."""
        name = with_names(loop.component.target)
        train = self.train
        for key, value, refused, rule in (
            (*key_and_value(self.augment), self.augment != NO_AUGMENT, "makes its own batches"),
            ("critic", self.critic and self.label("critic"), self.critic is not None, "trains all its networks itself"),
            ("task", self.task.name, self.task != AUTO_TASK, "has its own loss and metrics"),
            ("average", self.average.name, self.average.name != "none", "averages its weights itself"),
            ("train.accumulate", train.accumulate, train.accumulate != 1, "makes its own batches"),
            ("train.workers", train.workers, train.workers != 1, "starts its own processes"),
            ("train.compile", "true", train.compile is True, "compiles its model itself"),
            ("train.save", train.save, train.save is not None, "has the weights, and saves them itself"),
            ("train.eval_batch_size", train.eval_batch_size, train.eval_batch_size is not None, "evaluates itself"),
        ):
            if refused:
                raise InvalidValueError(key, value, f"has no effect with a loop: {name} {rule}")
        for key, component in (("model", self.model), ("dataset", self.dataset.component)):
            if is_given(component.target):
                raise InvalidValueError(
                    key, component.target, f"has no effect with a loop: {name} creates its own {key}"
                )
        reactions = self.schedule.reactions
        if loop.runs_program and reactions:
            name = reactions[0].name
            rule = (
                f"is not possible with loop=command: the curve is written to a file before the program starts; {name}"
            )
            key = "warmup" if isinstance(self.warmup, Reaction) else "schedule"
            raise InvalidValueError(key, self.label(key), f"{rule} would change it")

    def _check_critic(self, critic: CriticConfig) -> None:
        """Refuse options that the training of a GAN does not support."""
        horizon = self.train.steps * critic.updates
        if critic.warmup.steps >= horizon:
            rule = f"must be less than the horizon of the critic, train.steps * critic.updates = {horizon}"
            raise InvalidValueError("critic.warmup.steps", critic.warmup.steps, rule)
        for key, part in (
            ("schedule", self.decay),
            ("warmup", self.warmup),
            ("critic.schedule", critic.decay),
            ("critic.warmup", critic.warmup),
        ):
            if isinstance(part, Reaction):
                raise InvalidValueError(key, _option_of(part), f"depends on {part.watches}, which a GAN does not have")
        if self.train.precision == "fp16":
            rule = "is not supported for a GAN (critic); use bf16, which needs no loss scale"
            raise InvalidValueError("train.precision", self.train.precision, rule)
        if self.task != AUTO_TASK:
            raise InvalidValueError(
                "task", self.task.name, "is not supported for a GAN (critic), which has its own losses"
            )
        if self.augment != NO_AUGMENT:
            raise InvalidValueError(*key_and_value(self.augment), "is not supported for a GAN (critic)")
        if self.average.name != "none":
            raise InvalidValueError(
                "average", self.average.name, "is not supported for a GAN (critic); use average=none"
            )
        for key in ("accumulate", "workers"):
            if getattr(self.train, key) != 1:
                rule = "must be 1 for a GAN (critic), whose batches are not divided"
                raise InvalidValueError(f"train.{key}", getattr(self.train, key), rule)
        try:
            critic.decay.check_rate(critic.optimizer.lr)
        except InvalidValueError as error:
            raise error.under("critic.optimizer") from error

    @property
    def identity(self) -> dict[str, Any]:
        """Return the part of the recorded configuration that changes results; see `sweep.identity`."""
        theirs = [c.key for c in self.components if shadowing({c.key: c.target}, c.trusted)]
        return identity(self.resolved, theirs)

    @property
    def components(self) -> tuple[Component, ...]:
        """Return the components of model, optimizers, data set and task, or of the loop, and those of the schedules."""
        schedules = [schedule for series in self.series for schedule in (series.schedule, *series.groups.values())]
        functions = [function for schedule in schedules for function in schedule.decay.functions]
        if self.loop is not None:
            return self.loop.component, *functions
        optimizers = [series.optimizer.component for series in self.series]
        collate = () if self.dataset.collate is None else (self.dataset.collate,)
        augment = (self.augment,) if isinstance(self.augment, Component) else ()
        return self.model, *optimizers, self.dataset.component, *collate, *augment, *self.task.components, *functions

    @property
    def naming_groups(self) -> tuple[str, ...]:
        """Return the groups whose options make up the name of a training; the first one is the data set or the loop."""
        return ("dataset", "model", "optimizer", "schedule") if self.loop is None else ("loop", "schedule")

    def directions(self, labels: bool) -> dict[str, Direction | None]:
        """Return the metrics of an evaluation on the validation split, and their directions (None if not declared).

        Args:
            labels: whether the targets of the data set are labels.
        """
        if self.critic is not None:
            return {ENERGY_DISTANCE: "minimize"}
        own = {f"val_{name}": direction for name, direction in self.task.directions(labels).items()}
        return own | ({f"{name}_ema": d for name, d in own.items()} if self.average.name == "ema" else {})

    def label(self, group: str) -> str:
        """Return the chosen option of a group, which may be a nested one such as `critic.schedule`."""
        values: Any = self.resolved
        for key in group.split("."):
            values = values[key]
        return self.options.get(group, str(values["name"]))

    @property
    def schedule(self) -> Schedule:
        """Return the schedule of the optimizer, or of a GAN's generator."""
        return Schedule(self.optimizer.lr, self.decay, self.warmup)

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """Return the optimizers: one, or those of generator and critic. They compute their curves once."""
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
        """Return the configuration with a different train.seed."""
        resolved = {**self.resolved, "train": {**self.resolved["train"], "seed": seed}}
        return replace(self, train=replace(self.train, seed=seed), resolved=resolved)


@dataclass(frozen=True)
class StudyConfig:
    """A study: its name, length and storage, and the metric that ranks its trials.

    Args:
        name: the name; None to derive it from the configuration.
        n_trials: total number of trials reported to Optuna, >= 1.
        timeout: seconds after which no further trial starts, > 0; None for no limit.
        storage: Optuna storage URI.
        metric: the metric that ranks trials, by its value at the end of the horizon.
        direction: minimize or maximize; None for the direction that the metric declares.
        max_retries: retries of a trial whose process was lost, >= 0.
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
        check_integer("n_trials", self.n_trials, at_least=1)
        if self.timeout is not None:
            check_number("timeout", self.timeout, above=0)
        if not isinstance(self.metric, str) or not re.fullmatch(r"val_[A-Za-z]\w*", self.metric):
            rule = f"must be one of {', '.join(METRICS)}, or val_<name> of a metric of the task"
            raise InvalidValueError("metric", self.metric, rule)
        if self.direction is not None:
            check_one_of("direction", self.direction, ("minimize", "maximize"))
            if self.direction != METRICS.get(self.metric, self.direction):
                raise InvalidValueError(
                    "direction", self.direction, f"must be {METRICS[self.metric]} for {self.metric}"
                )
        check_integer("max_retries", self.max_retries, at_least=0)

    @property
    def direction_of_metric(self) -> Direction:
        """Return the direction of the metric. For a metric of the task, call `with_direction` first."""
        return self.direction or METRICS[self.metric]

    @property
    def minimize(self) -> bool:
        """Return whether a smaller value of the metric is better; see `direction_of_metric`."""
        return self.direction_of_metric == "minimize"

    def with_direction(self, config: RunConfig, classification: bool) -> "StudyConfig":
        """Return the study with the direction of its metric filled in.

        Args:
            config: the configuration of its trials.
            classification: whether the data set has labels as targets.

        Raises:
            InvalidValueError: names study.metric if the training does not measure it, or its direction is unknown.
        """
        if config.loop is not None:
            direction = self.direction or METRICS.get(self.metric)  # a loop may record metrics of any name
            if direction is None:
                rule = "has no known direction: give study.direction=minimize or maximize"
                raise InvalidValueError("study.metric", self.metric, rule)
            return replace(self, direction=direction)
        if (self.metric == ENERGY_DISTANCE) != (config.critic is not None):
            rule = "needs a GAN; use val_loss" if config.critic is None else f"must be {ENERGY_DISTANCE} for a GAN"
            raise InvalidValueError("study.metric", self.metric, rule)
        if self.metric.removesuffix("_ema") == "val_accuracy" and not classification:
            raise InvalidValueError(
                "study.metric", self.metric, "needs a classification; use val_loss for a regression"
            )
        if self.metric.endswith("_ema") and config.average.name != "ema":
            raise InvalidValueError("study.metric", self.metric, f"needs average=ema, not {config.average.name}")
        known = config.directions(classification)
        if self.metric not in known:
            rule = f"must be one of the metrics of this training, {', '.join(known)}; task.metrics adds others"
            raise InvalidValueError("study.metric", self.metric, rule)
        direction = known[self.metric] or self.direction
        if direction is None:
            name = self.metric.removeprefix("val_").removesuffix("_ema")
            rule = (
                f"has no known direction: give study.direction, or task.metrics.{name}.direction (minimize or maximize)"
            )
            raise InvalidValueError("study.metric", self.metric, rule)
        if self.direction not in (None, direction):
            raise InvalidValueError("study.direction", self.direction, f"must be {direction} for {self.metric}")
        return replace(self, direction=direction)


@dataclass(frozen=True)
class CompareConfig:
    """A comparison: it tunes each schedule with the same budget, and trains the best of each on the same new seeds.

    Args:
        schedules: two or more options of the group schedule.
        trials: tuning trials of each schedule, >= 1.
        seeds: final runs of each schedule, >= 1; fewer than three cannot show a difference.
        confidence: level of the intervals, 0 < confidence < 1; the level of the tests is 1 - confidence.
        target: value of study.metric; the comparison counts the updates and seconds until it is reached. None for the
            median of the first schedule's final runs.
        test: test of the paired differences, t (Student) or wilcoxon (signed ranks).
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
        check_integer("trials", self.trials, at_least=1)
        check_integer("seeds", self.seeds, at_least=1)
        check_number("confidence", self.confidence, above=0, below=1)
        if self.target is not None:
            check_number("target", self.target)
        check_one_of("test", self.test, ("t", "wilcoxon"))


@dataclass(frozen=True)
class EngineConfig:
    """The engine that trains the trials.

    Args:
        name: serial (one trial at a time), fused (many trials in each update), or auto (the faster one).
        slots: trials of the fused engine at a time, >= 1; None for the fastest number.
    """

    name: str
    slots: int | None = None

    def __post_init__(self) -> None:
        check_one_of("name", self.name, ("auto", "serial", "fused"))
        if self.slots is not None:
            check_integer("slots", self.slots, at_least=1)
            if self.name == "serial":
                raise InvalidValueError(
                    "slots", self.slots, "must be null with engine=serial, which trains one trial at a time"
                )


@dataclass(frozen=True)
class NamedOptions:
    """The name of a sampler or pruner, with its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS = ("tpe", "random", "grid", "qmc", "cmaes", "gp")
CONDITIONAL_SAMPLERS = ("tpe", "random")
"""Samplers that can search a space whose parameters depend on a choice."""


@dataclass(frozen=True)
class SamplerConfig(NamedOptions):
    """A sampler, one of SAMPLERS, with the seed of its proposals, >= 0."""

    seed: int = 0

    def __post_init__(self) -> None:
        check_one_of("name", self.name, SAMPLERS)
        check_integer("seed", self.seed, at_least=0)


MAX_TAG_NAME_CHARS, MAX_TAG_VALUE_CHARS = 250, 8000
"""The longest tag that MLflow stores; it silently truncates longer values."""
MAX_EXPERIMENT_CHARS = 500
"""The longest name of an experiment that MLflow accepts."""


@dataclass(frozen=True)
class TrackingConfig:
    """Settings of the record in MLflow.

    Args:
        uri: the tracking URI.
        experiment: name of the experiment, at most MAX_EXPERIMENT_CHARS characters.
        every: learning rate and loss are recorded for updates whose step is a multiple of it, and for the last one.
        tags: the user's tags for every run that is created, name -> text. Numbers, true and false become text; None for
            no tags.
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
        if len(self.experiment) > MAX_EXPERIMENT_CHARS:
            rule = f"has {len(self.experiment)} characters; MLflow accepts at most {MAX_EXPERIMENT_CHARS}"
            raise InvalidValueError("experiment", self.experiment, rule)
        check_integer("every", self.every, at_least=1)


def _tags(given: Any) -> dict[str, str]:
    """Check the user's tags, and convert their values to text.

    Raises:
        InvalidValueError: names a tag that MLflow would refuse or truncate, or whose name is reserved.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InvalidValueError("tags", given, "must be a mapping of names to texts: {team: vision}")
    tags: dict[str, str] = {}
    for name, value in ((str(name), value) for name, value in (given or {}).items()):
        key = f"tags.{name}"
        valid = len(name) <= MAX_TAG_NAME_CHARS and re.fullmatch(r"[\w.\-: /]+", name)
        if not valid or name != normpath(name) or name == "." or name.startswith(("/", "..")):
            rule = f"must have a name of 1 to {MAX_TAG_NAME_CHARS} letters, digits, spaces and _-.:/"
            rule = f"{rule} that is not a path such as a//b or ../a"
            raise InvalidValueError(key, value, rule)
        if name.startswith(("sweep.", "mlflow.")):
            raise InvalidValueError(
                key, value, "must not have a name that begins with sweep. or mlflow., which are reserved"
            )
        if not isinstance(value, (str, bool, int, float)):
            raise InvalidValueError(key, value, "must be a text")
        tags[name] = value if isinstance(value, str) else json.dumps(value)
        if len(tags[name]) > MAX_TAG_VALUE_CHARS:
            raise InvalidValueError(key, f"{tags[name][:20]}...", f"must have at most {MAX_TAG_VALUE_CHARS} characters")
    return tags


@dataclass(frozen=True)
class PreviewConfig:
    """The file to which a preview writes the curve: a .csv file in a folder that exists."""

    path: str

    def __post_init__(self) -> None:
        path = Path(str(self.path))
        if path.suffix != ".csv" or not path.absolute().parent.is_dir() or path.is_dir():
            raise InvalidValueError("path", self.path, "must end in .csv, in a folder that exists")


@dataclass(frozen=True)
class ReportConfig:
    """The folder for reports, each of which has its own folder in it. It is created if it does not exist."""

    dir: str

    def __post_init__(self) -> None:
        above = (Path(self.dir), *Path(self.dir).parents) if isinstance(self.dir, str) and self.dir else ()
        if not above or any(path.is_file() for path in above):
            raise InvalidValueError("dir", self.dir, "must be a folder, or the name of a new one")


@dataclass(frozen=True)
class UiConfig:
    """Settings of mode=ui and of links to MLflow's pages.

    Args:
        port: on which mode=ui serves MLflow.
        links: "auto" prints the titles of pages as hyperlinks if the terminal supports them, "plain" always prints
            their addresses.
        open: whether mode=ui opens the first page in a browser; "auto" opens it for a command that was started from a
            terminal on a desktop.
    """

    port: int
    links: str = "auto"
    open: bool | str = "auto"

    def __post_init__(self) -> None:
        check_integer("port", self.port, at_least=1, at_most=65535)
        check_one_of("links", self.links, ("auto", "plain"))
        if self.open != "auto" and not isinstance(self.open, bool):
            raise InvalidValueError("open", self.open, "must be auto, true or false")
