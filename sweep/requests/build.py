"""Turn a composed configuration into a typed one: nothing below knows OmegaConf."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from os.path import expanduser
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweep.components import Component, recorded_target, shadowing
from sweep.config import (
    METRICS,
    AverageConfig,
    Choice,
    CompareConfig,
    CriticConfig,
    DatasetConfig,
    EngineConfig,
    OptimizerConfig,
    PreviewConfig,
    ReportConfig,
    RunConfig,
    SamplerConfig,
    StudyConfig,
    TrackingConfig,
    TrainConfig,
    UiConfig,
)
from sweep.errors import InvalidValueError
from sweep.loops import LoopConfig
from sweep.requests.compose import Composer, resolved
from sweep.requests.horizon import remaining
from sweep.schedules import DECAYS, WARMUPS, Decay, Piece, Plateau
from sweep.targets import is_given, with_names
from sweep.tasks import TASKS, Metric, TaskConfig
from sweep.validation import boolean

T = TypeVar("T")

RUN_GROUPS = ("model", "optimizer", "schedule", "warmup", "critic", "dataset", "task", "average", "loop", "train")
"""The groups that one training depends on: what is recorded of it."""
OF_STUDIES = ("space", "sampler", "pruner", "engine")
"""Groups that a study has options of, and a single training has not."""


def fill(cls: type[T], key: str, values: Mapping[str, Any]) -> T:
    """A dataclass from the values of a group.

    Raises:
        InvalidValueError: names the key that is unknown, missing or wrong.
    """
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise InvalidValueError(f"{key}.{name}", value, f"no such key; {key} has {', '.join(known) or 'none'}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise InvalidValueError(f"{key}.{name}", None, "must be given")
    try:
        return cls(**values)
    except InvalidValueError as error:
        raise error.under(key) from error


def run_config(config: DictConfig) -> RunConfig:
    """What one training depends on."""
    trusted = _trusted(config)
    # First, because the others count in parts of its horizon.
    train = fill(TrainConfig, "train", _expanding("checkpoint_dir", _mapping(config, "train")))
    options = run_options(config)
    parts, _ = recorded_parts(config, options)
    model = _component("model", _without(_mapping(config, "model"), "name"), trusted)
    task, loop = _task(parts["task"], trusted), _loop(parts["loop"], trusted)
    return RunConfig(
        model=model,
        optimizer=_optimizer("optimizer", parts["optimizer"], trusted).for_batches_of(train.batch_size),
        decay=_watching(_schedule("schedule", parts["schedule"], train.workers), task, loop),
        warmup=_family(WARMUPS, "warmup", parts["warmup"]),
        dataset=dataset_config(config),
        train=train,
        resolved=parts,
        average=fill(AverageConfig, "average", parts["average"]),
        task=task,
        critic=_critic(parts["critic"], train, trusted),
        loop=loop,
        options=options,
    )


def recorded_parts(config: DictConfig, options: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Resolve the groups that one training depends on: what is recorded of it.

    Returns:
        The groups, and the keys of those whose `_target_` is a user's although its import path is one of ours.
    """
    _mapping(config, "train")  # refused first where it is none, because the others count in parts of its horizon
    parts = {group: _mapping(config, group) for group in RUN_GROUPS}
    _check_names({group: str(values.get("name")) for group, values in parts.items()})
    _check_names(options)
    for key, schedule in (("schedule", parts["schedule"]), ("critic.schedule", parts["critic"].get("schedule", {}))):
        if schedule.get("name") == "wsd" and schedule.get("stable_steps") is None:
            schedule["stable_steps"] = remaining(config, key, schedule["decay_steps"])
    parts["train"].pop("more_steps", None)  # a request, which says nothing about the training
    metrics = parts["task"].get("metrics") or {}
    places: dict[str, Any] = {key: parts[key] for key in ("model", "optimizer", "dataset", "loop")}
    places |= {"critic.optimizer": parts["critic"].get("optimizer"), "task.loss": parts["task"].get("loss")}
    if isinstance(metrics, Mapping):  # or else it is refused later, as a target is that is no text
        places |= {f"task.metrics.{name}": metric for name, metric in metrics.items()}
    named = {key: place.get("_target_") for key, place in places.items() if isinstance(place, Mapping)}
    targets = {key: target for key, target in named.items() if isinstance(target, str)}
    theirs = shadowing(targets, _trusted(config))
    if "model" in targets:
        parts["model"]["_target_"] = recorded_target(targets["model"])
    return parts, theirs


def training_of(composer: Composer, overrides: Sequence[str]) -> dict[str, Any] | None:
    """Return all that a configuration says about one training, as far as it is known; None if it cannot be composed."""
    try:
        config = composer.compose(overrides)
        parts = {key: OmegaConf.to_container(config[key], resolve=True) for key in RUN_GROUPS}
    except (InvalidValueError, OmegaConfBaseException):
        return None
    return parts | {"options": run_options(config)}


def run_options(config: DictConfig) -> dict[str, str]:
    """Return the recorded options of the groups that one training depends on."""
    return {group: str(option) for group, option in resolved(config, "options").items() if group not in OF_STUDIES}


def _check_names(names: Mapping[str, str]) -> None:
    """Refuse a name of an option that would lead out of the folder where files are named after it."""
    for group, name in names.items():
        if name.startswith("/") or ".." in name or "\\" in name or not name.isprintable():
            raise InvalidValueError(f"{group}.name", name, "is part of file names: no .., no / at its beginning")


def dataset_config(config: DictConfig) -> DatasetConfig:
    """The configured data set."""
    values = _without(_mapping(config, "dataset"), "name")
    own = [field.name for field in fields(DatasetConfig) if field.name != "component"]
    component = _component("dataset", {k: v for k, v in values.items() if k not in own}, _trusted(config))
    if is_given(component.target):
        component.refuse_unknown(own)
    return fill(DatasetConfig, "dataset", {k: v for k, v in values.items() if k in own} | {"component": component})


def _optimizer(key: str, values: Mapping[str, Any], trusted: tuple[str, ...]) -> OptimizerConfig:
    own = ("lr", "clip_norm", "groups", "base_batch_size")
    component = _component(key, {k: v for k, v in values.items() if k not in ("name", *own)}, trusted)
    return fill(OptimizerConfig, key, {k: values[k] for k in own if k in values} | {"component": component})


def _task(values: Mapping[str, Any], trusted: tuple[str, ...]) -> TaskConfig:
    """Return the task, with the code that it names."""
    loss, listed = values.get("loss"), values.get("metrics")
    if not isinstance(loss, Mapping | None):
        rule = "must be null, or {_target_: torch.nn.SmoothL1Loss, beta: 0.5} or such"
        raise InvalidValueError("task.loss", loss, rule)
    if not isinstance(listed, Mapping | None) or not all(isinstance(m, Mapping) for m in (listed or {}).values()):
        rule = "must be null, or {f1: {_target_: mylab.metrics.f1, direction: maximize}} or such"
        raise InvalidValueError("task.metrics", listed, rule)
    metrics = {}
    for name, keys in (listed or {}).items():
        key = f"task.metrics.{name}"
        component = _component(key, _without(keys, "direction"), trusted)
        metrics[str(name)] = fill(Metric, key, {"component": component, "direction": keys.get("direction")})
    own = {"loss": None if loss is None else _component("task.loss", loss, trusted), "metrics": metrics}
    return _family(TASKS, "task", {**values, **own})


def _loop(values: Mapping[str, Any], trusted: tuple[str, ...]) -> LoopConfig | None:
    """Return the loop of the user's; None without one."""
    keys = {key: value for key, value in values.items() if key not in ("name", "examples")}
    if "_target_" in keys:
        return fill(
            LoopConfig, "loop", {"component": _component("loop", keys, trusted), "examples": values.get("examples")}
        )
    for key in [key for key in values if key != "name"]:
        rule = "is of no use without a loop: loop._target_=mylab.train.main names the function main(run, ...)"
        raise InvalidValueError(f"loop.{key}", values[key], f"{rule}, and loop=command runs a program")
    return None


def _watching(decay: Decay, task: TaskConfig, loop: LoopConfig | None) -> Decay:
    """Return the decay. A plateau gets the direction of the metric that it watches."""
    if not isinstance(decay, Plateau):
        return decay
    if decay.direction not in (None, METRICS.get(decay.metric, decay.direction)):
        raise InvalidValueError("schedule.direction", decay.direction, f"{decay.metric} is to {METRICS[decay.metric]}")
    if decay.direction is not None or decay.metric in METRICS:
        return decay
    if loop is not None:
        rule = "has no direction that is known: give schedule.direction=minimize or maximize"
        raise InvalidValueError("schedule.metric", decay.metric, rule)
    name = decay.metric.removeprefix("val_").removesuffix("_ema")
    direction = (task.directions(True) | task.directions(False)).get(name)
    if direction is None:
        rule = f"has no direction: give schedule.direction, or task.metrics.{name}.direction (minimize or maximize)"
        raise InvalidValueError("schedule.metric", decay.metric, rule)
    return replace(decay, direction=direction)


def _critic(values: Mapping[str, Any], train: TrainConfig, trusted: tuple[str, ...]) -> CriticConfig | None:
    """The critic of a GAN; None of other trainings."""
    if values == {"name": "none"}:
        return None
    for part in ("optimizer", "schedule", "warmup"):
        if not isinstance(values.get(part), Mapping):
            raise InvalidValueError(f"critic.{part}", values.get(part), f"must be a group of keys, as {part} is")
    parts = {
        "optimizer": _optimizer("critic.optimizer", values["optimizer"], trusted).for_batches_of(train.batch_size),
        "decay": _schedule("critic.schedule", values["schedule"], train.workers),
        "warmup": _family(WARMUPS, "critic.warmup", values["warmup"]),
    }
    rest = {k: v for k, v in values.items() if k not in ("name", "optimizer", "schedule", "warmup")}
    return fill(CriticConfig, "critic", {**rest, **parts})


def _component(key: str, values: Mapping[str, Any], trusted: tuple[str, ...]) -> Component:
    if "_target_" not in values:
        raise InvalidValueError(f"{key}._target_", None, "must be given: the import path of what to build")
    component = Component(key, values["_target_"], _without(values, "_target_"), trusted)
    short = replace(component, target=recorded_target(component.target))
    return component if short.is_trusted else short  # messages say models, unless a package of the user's has that name


def _family(registry: Mapping[str, type[T]], key: str, values: Mapping[str, Any]) -> T:
    name = str(values.get("name"))
    if name not in registry:
        raise InvalidValueError(f"{key}.name", name, f"must be one of {', '.join(registry)}")
    return fill(registry[name], key, _without(values, "name"))


def _schedule(key: str, values: Mapping[str, Any], workers: int) -> Decay:
    """The decay, in updates of all workers together."""
    per_worker = values.get("per_worker", False)
    boolean(f"{key}.per_worker", per_worker)
    return _decay(key, _without(values, "per_worker"), workers if per_worker else 1)


def _decay(key: str, values: Mapping[str, Any], workers: int) -> Decay:
    """A decay family; of joined ones, each piece as a decay of its own.

    Args:
        workers: of whom one makes the updates that its lengths count.
    """
    if values.get("name") == "joined":
        pieces = values.get("pieces")
        if not isinstance(pieces, Mapping):
            raise InvalidValueError(f"{key}.pieces", pieces, "must be a mapping of a name to a schedule and its factor")
        built = tuple(_piece(f"{key}.pieces.{label}", piece, workers) for label, piece in pieces.items())
        values = {**values, "pieces": built}
    decay = _family(DECAYS, key, values)
    try:
        return decay if workers == 1 else decay.per_worker(workers)
    except InvalidValueError as error:
        raise error.under(key) from error


def _piece(key: str, values: Any, workers: int) -> Piece:
    if not isinstance(values, Mapping):
        raise InvalidValueError(key, values, "must be a mapping: {name: linear, decay_steps: 100, factor: 0.5}")
    factor = {"factor": values["factor"]} if "factor" in values else {}
    return fill(Piece, key, {"decay": _decay(key, _without(values, "factor"), workers)} | factor)


def _mapping(config: DictConfig, group: str) -> dict[str, Any]:
    values = resolved(config, group)
    if not isinstance(values, Mapping):
        raise InvalidValueError(group, values, "must be a group of keys")
    return {str(key): value for key, value in values.items()}


def _expanding(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the home directory for a `~` at the beginning of the path at `key`."""
    return {k: expanduser(v) if k == key and isinstance(v, str) else v for k, v in values.items()}


def _without(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != key}


def _trusted(config: DictConfig) -> tuple[str, ...]:
    return tuple(resolved(config, "trusted"))


def study_config(config: DictConfig) -> StudyConfig:
    return fill(StudyConfig, "study", _mapping(config, "study"))


def tracking_config(config: DictConfig) -> TrackingConfig:
    return fill(TrackingConfig, "tracking", _mapping(config, "tracking"))


def compare_config(config: DictConfig) -> CompareConfig:
    return fill(CompareConfig, "compare", _mapping(config, "compare"))


def report_config(config: DictConfig) -> ReportConfig:
    return fill(ReportConfig, "report", _expanding("dir", _mapping(config, "report")))


def preview_config(config: DictConfig) -> PreviewConfig:
    return fill(PreviewConfig, "preview", _expanding("path", _mapping(config, "preview")))


def ui_config(config: DictConfig) -> UiConfig:
    return fill(UiConfig, "ui", _mapping(config, "ui"))


def sampler_config(config: DictConfig) -> SamplerConfig:
    values = _mapping(config, "sampler")
    options = {k: v for k, v in values.items() if k not in ("name", "seed")}
    return fill(SamplerConfig, "sampler", {"name": values["name"], "seed": values.get("seed", 0), "options": options})


def pruner_config(config: DictConfig) -> Choice:
    values = _mapping(config, "pruner")
    return Choice(values["name"], _without(values, "name"))


def engine_config(config: DictConfig) -> EngineConfig:
    """How trials are trained.

    Raises:
        InvalidValueError: names train.workers, where an engine is asked for that has but one.
    """
    engine, workers = fill(EngineConfig, "engine", _mapping(config, "engine")), _mapping(config, "train").get("workers")
    if isinstance(workers, int) and workers > 1 and (engine.name != "auto" or engine.slots is not None):
        asked = f"engine={engine.name}" if engine.name != "auto" else f"engine.slots={engine.slots}"
        rule = f"is not for {asked}: several workers share the batches of one trial; leave engine=auto"
        raise InvalidValueError("train.workers", workers, rule)
    loop = _mapping(config, "loop")
    if "_target_" in loop and (engine.name == "fused" or engine.slots is not None):
        key, value = ("engine", engine.name) if engine.name == "fused" else ("engine.slots", engine.slots)
        rule = f"is not for a loop: {with_names(str(loop['_target_']))} trains one trial at a time; leave engine=auto"
        raise InvalidValueError(key, value, rule)
    return engine
