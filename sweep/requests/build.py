"""Converts a composed configuration to a typed one, so that other packages do not depend on OmegaConf."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from itertools import pairwise
from os.path import expanduser
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweep.augmentations import AUGMENT_KEY, AUGMENTS, Augment, with_defaults
from sweep.components import Component, recorded_target, shadowing, trusted_function
from sweep.config import (
    METRICS,
    AverageConfig,
    CompareConfig,
    CriticConfig,
    DatasetConfig,
    EngineConfig,
    GroupSchedule,
    NamedOptions,
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
from sweep.requests.horizon import horizon, remaining
from sweep.schedules import DECAYS, WARMUPS, Custom, Decay, Piece, Plateau, Warmup
from sweep.targets import is_given, with_names
from sweep.tasks import TASKS, CustomConfig, Metric, TaskConfig
from sweep.validation import check_boolean, check_integer

T = TypeVar("T")

RUN_GROUPS = ("model", "optimizer", "schedule", "warmup", "critic", "dataset", "task", "average", "loop", "train")
"""The groups on which a training depends, and which are recorded."""
STUDY_GROUPS = ("space", "sampler", "pruner", "engine")
"""Groups that a study has and a single training does not have."""


def fill(cls: type[T], key: str, values: Mapping[str, Any]) -> T:
    """Return a dataclass with the values of a group.

    Raises:
        InvalidValueError: names a key that is unknown, missing or invalid.
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


REQUEST_KEYS = ("more_steps", "save", "test")
"""Keys of train that belong to a request and not to the training; they are not recorded."""


def run_config(config: DictConfig) -> RunConfig:
    """Return the typed configuration of a training.

    Raises:
        InvalidValueError: names an invalid key.
    """
    trusted = _trusted_packages(config)
    # First, because other groups may have fractions of the horizon.
    train = fill(TrainConfig, "train", _expand_home(("checkpoint_dir", "save"), _mapping(config, "train")))
    options = run_options(config)
    parts, _ = recorded_parts(config, options)
    model = _component("model", _without(_mapping(config, "model"), "name"), trusted)
    loop = _loop(parts["loop"], trusted)
    task, dataset = _task(parts["task"], trusted), dataset_config(config)
    if dataset.block is not None:
        train = replace(train, drop_last=True)  # an epoch has floor(tokens / (block * batch_size)) updates
    warmup = _family(WARMUPS, "warmup", parts["warmup"])
    updates = _Updates(train.steps, train.workers, trusted)
    return RunConfig(
        model=model,
        optimizer=_optimizer("optimizer", parts["optimizer"], updates, warmup).for_batches_of(train.batch_size),
        decay=_with_direction(_schedule("schedule", parts["schedule"], updates, warmup), task, loop),
        warmup=warmup,
        dataset=dataset,
        train=train,
        resolved=parts,
        average=fill(AverageConfig, "average", parts["average"]),
        task=task,
        critic=_critic(parts["critic"], train, trusted),
        loop=loop,
        augment=_augment(parts["dataset"]["augment"], trusted),
        options=options,
    )


def recorded_parts(config: DictConfig, options: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Resolve the groups on which a training depends, as they are recorded.

    Returns:
        The groups, and the keys that `components.shadowing` returns for their targets.
    """
    _mapping(
        config, "train"
    )  # refused first if it is not a group, because other groups may have fractions of the horizon
    parts = {group: _mapping(config, group) for group in RUN_GROUPS}
    _check_names({group: str(values.get("name")) for group, values in parts.items()})
    _check_names(options)
    for key, schedule, warmup in _schedules(parts):
        decayed, is_piece = schedule.get("decay_steps"), ".pieces." in key  # a piece has only a part of the horizon
        is_unknown = schedule.get("name") == "wsd" and schedule.get("stable_steps") is None and not is_piece
        if is_unknown and type(decayed) is int:
            schedule["stable_steps"] = remaining(horizon(config, key), warmup, decayed)
    for key in REQUEST_KEYS:
        parts["train"].pop(key, None)
    parts["dataset"]["augment"] = with_defaults(parts["dataset"].get("augment"))
    metrics = parts["task"].get("metrics") or {}
    places: dict[str, Any] = {key: parts[key] for key in ("model", "optimizer", "dataset", "loop")}
    places |= {"critic.optimizer": parts["critic"].get("optimizer"), "task.loss": parts["task"].get("loss")}
    places |= {"task": parts["task"], "dataset.collate": parts["dataset"].get("collate")}
    places[AUGMENT_KEY] = parts["dataset"]["augment"]
    if isinstance(metrics, Mapping):  # anything else is refused later, and so is a target that is not a text
        places |= {f"task.metrics.{name}": metric for name, metric in metrics.items()}
    places |= {key: schedule for key, schedule, _ in _schedules(parts)}
    named = {key: place.get("_target_") for key, place in places.items() if isinstance(place, Mapping)}
    targets = {key: target for key, target in named.items() if isinstance(target, str)}
    theirs = shadowing(targets, _trusted_packages(config))
    if "model" in targets:
        parts["model"]["_target_"] = recorded_target(targets["model"])
    return parts, theirs


def _schedules(parts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any], Mapping[str, Any]]]:
    """Yield key, schedule and preceding warmup of all schedules of a training.

    These are the schedules of the optimizer, of groups of parameters, of a critic, and the pieces of joined schedules.
    """
    warmup, optimizer = parts.get("warmup"), parts.get("optimizer")
    groups = optimizer.get("groups") if isinstance(optimizer, Mapping) else None
    own: list[tuple[str, Any]] = [("", parts)]
    own += [(f"optimizer.groups.{name}.", keys) for name, keys in groups.items()] if isinstance(groups, Mapping) else []
    for group, keys in own:
        schedule = keys.get("schedule") if isinstance(keys, Mapping) else None
        if not isinstance(schedule, dict):
            continue
        followed = keys.get("warmup", warmup)
        followed = followed if isinstance(followed, Mapping) else {}
        yield f"{prefix}{group}schedule", schedule, followed
        pieces = schedule.get("pieces")
        for name, piece in pieces.items() if isinstance(pieces, Mapping) else ():
            if isinstance(piece, dict):
                yield f"{prefix}{group}schedule.pieces.{name}", piece, followed
    if not prefix and isinstance(parts.get("critic"), Mapping):
        yield from _schedules(parts["critic"], "critic.")


def training_of(composer: Composer, overrides: Sequence[str]) -> dict[str, Any] | None:
    """Return the groups on which a training depends, unresolved errors aside; None if they cannot be composed."""
    try:
        config = composer.compose(overrides)
        parts = {key: OmegaConf.to_container(config[key], resolve=True) for key in RUN_GROUPS}
    except (InvalidValueError, OmegaConfBaseException):
        return None
    if isinstance(parts["train"], dict):
        parts["train"].pop("save", None)
    return parts | {"options": run_options(config)}


def run_options(config: DictConfig) -> dict[str, str]:
    """Return the recorded options of the groups on which a training depends."""
    return {group: str(option) for group, option in resolved(config, "options").items() if group not in STUDY_GROUPS}


def _check_names(names: Mapping[str, str]) -> None:
    """Refuse a name of an option that would be unsafe as a part of file names."""
    for group, name in names.items():
        if name.startswith("/") or ".." in name or "\\" in name or not name.isprintable():
            raise InvalidValueError(
                f"{group}.name",
                name,
                "must be printable, without .. or backslash, and not begin with /, because it is part of file names",
            )


def dataset_config(config: DictConfig) -> DatasetConfig:
    """Return the typed configuration of the data set."""
    values = _without(_mapping(config, "dataset"), "name")
    own = [field.name for field in fields(DatasetConfig) if field.name not in ("component", "ignore_index")]
    component = _component(
        "dataset", {k: v for k, v in values.items() if k not in (*own, "augment")}, _trusted_packages(config)
    )
    if is_given(component.target):
        component.refuse_unknown_arguments([*own, "augment"])
    collate = values.get("collate")
    if not isinstance(collate, Mapping | None):
        raise InvalidValueError(
            "dataset.collate", collate, "must be null or a mapping such as {_target_: mylab.data.pad}"
        )
    parts = {
        "component": component,
        "collate": None if collate is None else _component("dataset.collate", collate, _trusted_packages(config)),
        "ignore_index": _task(_mapping(config, "task"), _trusted_packages(config)).ignored_label,
    }
    return fill(DatasetConfig, "dataset", {k: v for k, v in values.items() if k in own} | parts)


def _augment(values: Any, trusted: tuple[str, ...]) -> Augment:
    """Return the augmentation for a value of `dataset.augment` that `with_defaults` has returned."""
    if not isinstance(values, Mapping):
        options = ", ".join(AUGMENTS)
        raise InvalidValueError(
            AUGMENT_KEY, values, f"must be one of {options}, or a mapping such as {{_target_: mylab.augment.mixup}}"
        )
    if "_target_" in values:
        return _component(AUGMENT_KEY, _without(values, "name"), trusted)
    if values["name"] not in AUGMENTS:
        rule = f"must be one of {', '.join(AUGMENTS)}; {AUGMENT_KEY}._target_=... names your own function"
        raise InvalidValueError(AUGMENT_KEY, values["name"], rule)
    if values["name"] == "none" and len(values) > 1:
        key = next(key for key in values if key != "name")
        rule = f"has no effect with {AUGMENT_KEY}=none: give {AUGMENT_KEY}=crop_flip, or {AUGMENT_KEY}._target_=..."
        raise InvalidValueError(f"{AUGMENT_KEY}.{key}", values[key], rule)
    return fill(AUGMENTS[values["name"]], AUGMENT_KEY, _without(values, "name"))


@dataclass(frozen=True)
class _Updates:
    """What the schedules of an optimizer need to know about the training.

    Args:
        horizon: updates of the optimizer.
        workers: data-parallel workers.
        trusted: packages whose functions may be schedules.
    """

    horizon: int
    workers: int
    trusted: tuple[str, ...]

    def left_by(self, warmup: Warmup) -> int:
        """Return the number of updates of the decay after a warmup."""
        return remaining(self.horizon, {"steps": warmup.steps, "counting": warmup.counting})


def _optimizer(key: str, values: Mapping[str, Any], updates: _Updates, warmup: Warmup) -> OptimizerConfig:
    """Return an optimizer with the schedules of its groups of parameters.

    Args:
        warmup: warmup of the groups that do not have their own.
    """
    own = ("lr", "clip_norm", "groups", "base_batch_size")
    component = _component(key, {k: v for k, v in values.items() if k not in ("name", *own)}, updates.trusted)
    typed = {k: values[k] for k in own if k in values} | {"component": component}
    if isinstance(groups := values.get("groups"), Mapping):
        mappings = {name: keys for name, keys in groups.items() if isinstance(keys, Mapping)}
        built = {name: _group(f"{key}.groups.{name}", keys, updates, warmup) for name, keys in mappings.items()}
        typed["schedules"] = {name: schedule for name, schedule in built.items() if schedule is not None}
        typed["groups"] = {n: k if n not in mappings else _without(k, "schedule", "warmup") for n, k in groups.items()}
    return fill(OptimizerConfig, key, typed)


def _group(key: str, values: Mapping[str, Any], updates: _Updates, warmup: Warmup) -> GroupSchedule | None:
    """Return the own schedule of a group of parameters; None if it has none."""
    parts = {name: values[name] for name in ("schedule", "warmup") if values.get(name) is not None}
    for name, part in parts.items():
        if not isinstance(part, Mapping):
            raise InvalidValueError(
                f"{key}.{name}", part, f"must be a mapping with the keys of {name}: {{name: linear, ...}}"
            )
    if "schedule" not in parts:
        if parts:
            rule = f"needs {key}.schedule, the group's own schedule"
            raise InvalidValueError(f"{key}.warmup", parts["warmup"], rule)
        return None
    own = _family(WARMUPS, f"{key}.warmup", parts["warmup"]) if "warmup" in parts else None
    decay = _schedule(f"{key}.schedule", parts["schedule"], updates, own or warmup)
    return fill(GroupSchedule, key, {"decay": decay, "warmup": own})


def _task(values: Mapping[str, Any], trusted: tuple[str, ...]) -> TaskConfig:
    """Return the task with its components."""
    loss, listed = values.get("loss"), values.get("metrics")
    if not isinstance(loss, Mapping | None):
        rule = "must be null or a mapping such as {_target_: torch.nn.SmoothL1Loss, beta: 0.5}"
        raise InvalidValueError("task.loss", loss, rule)
    if not isinstance(listed, Mapping | None) or not all(isinstance(m, Mapping) for m in (listed or {}).values()):
        rule = "must be null or a mapping such as {f1: {_target_: mylab.metrics.f1, direction: maximize}}"
        raise InvalidValueError("task.metrics", listed, rule)
    metrics = {}
    for name, keys in (listed or {}).items():
        key = f"task.metrics.{name}"
        component = _component(key, _without(keys, "direction"), trusted)
        metrics[str(name)] = fill(Metric, key, {"component": component, "direction": keys.get("direction")})
    own = {"loss": None if loss is None else _component("task.loss", loss, trusted), "metrics": metrics}
    if "_target_" in values:
        arguments = {key: value for key, value in values.items() if key not in ("name", *own)}
        return fill(CustomConfig, "task", {**own, "component": _component("task", arguments, trusted)})
    return _family(TASKS, "task", {**values, **own})


def _loop(values: Mapping[str, Any], trusted: tuple[str, ...]) -> LoopConfig | None:
    """Return the user's loop; None if there is none."""
    keys = {key: value for key, value in values.items() if key not in ("name", "examples")}
    if "_target_" in keys:
        return fill(
            LoopConfig, "loop", {"component": _component("loop", keys, trusted), "examples": values.get("examples")}
        )
    for key in [key for key in values if key != "name"]:
        rule = "is of no use without a loop: loop._target_=mylab.train.main names the function main(run, ...)"
        raise InvalidValueError(f"loop.{key}", values[key], f"{rule}, and loop=command runs a program")
    return None


def _with_direction(decay: Decay, task: TaskConfig, loop: LoopConfig | None) -> Decay:
    """Return the decay; fill in the direction of the metric that a plateau watches."""
    if not isinstance(decay, Plateau):
        return decay
    if decay.direction not in (None, METRICS.get(decay.metric, decay.direction)):
        raise InvalidValueError(
            "schedule.direction", decay.direction, f"must be {METRICS[decay.metric]} for {decay.metric}"
        )
    if decay.direction is not None or decay.metric in METRICS:
        return decay
    if loop is not None:
        rule = "has no known direction: give schedule.direction=minimize or maximize"
        raise InvalidValueError("schedule.metric", decay.metric, rule)
    name = decay.metric.removeprefix("val_").removesuffix("_ema")
    direction = (task.directions(True) | task.directions(False)).get(name)
    if direction is None:
        rule = (
            f"has no known direction: give schedule.direction, or task.metrics.{name}.direction (minimize or maximize)"
        )
        raise InvalidValueError("schedule.metric", decay.metric, rule)
    return replace(decay, direction=direction)


def _critic(values: Mapping[str, Any], train: TrainConfig, trusted: tuple[str, ...]) -> CriticConfig | None:
    """Return the critic of a GAN; None for other trainings."""
    if values == {"name": "none"}:
        return None
    for part in ("optimizer", "schedule", "warmup"):
        if not isinstance(values.get(part), Mapping):
            raise InvalidValueError(f"critic.{part}", values.get(part), f"must be a mapping with the keys of {part}")
    warmup = _family(WARMUPS, "critic.warmup", values["warmup"])
    check_integer("critic.updates", values.get("updates", CriticConfig.updates), at_least=1)
    updates = _Updates(train.steps * values.get("updates", CriticConfig.updates), train.workers, trusted)
    optimizer = _optimizer("critic.optimizer", values["optimizer"], updates, warmup)
    parts = {
        "optimizer": optimizer.for_batches_of(train.batch_size),
        "decay": _schedule("critic.schedule", values["schedule"], updates, warmup),
        "warmup": warmup,
    }
    rest = {k: v for k, v in values.items() if k not in ("name", "optimizer", "schedule", "warmup")}
    return fill(CriticConfig, "critic", {**rest, **parts})


def _component(key: str, values: Mapping[str, Any], trusted: tuple[str, ...]) -> Component:
    if "_target_" not in values:
        raise InvalidValueError(f"{key}._target_", None, "must be given: an import path")
    component = Component(key, values["_target_"], _without(values, "_target_"), trusted)
    short = replace(component, target=recorded_target(component.target))
    return component if short.is_trusted else short  # `models` in messages, unless the user's package has that name


def _family(registry: Mapping[str, type[T]], key: str, values: Mapping[str, Any]) -> T:
    name = str(values.get("name"))
    if name not in registry:
        raise InvalidValueError(f"{key}.name", name, f"must be one of {', '.join(registry)}")
    return fill(registry[name], key, _without(values, "name"))


def _schedule(key: str, values: Mapping[str, Any], updates: _Updates, warmup: Warmup) -> Decay:
    """Return the decay, in updates of all workers together."""
    per_worker = values.get("per_worker", False)
    check_boolean(f"{key}.per_worker", per_worker)
    counted = replace(updates, workers=updates.workers if per_worker else 1)
    return _decay(key, _without(values, "per_worker"), counted, updates.left_by(warmup))


def _decay(key: str, values: Mapping[str, Any], updates: _Updates, horizon: int) -> Decay:
    """Return a decay: a family, a user's function, or joined schedules with their pieces.

    Args:
        updates: its `workers` is the number of workers if the keys count updates of one worker, and otherwise 1.
        horizon: updates of the decay, of all workers together.
    """
    if "_target_" in values:
        keys = _without(values, "name", "_target_")
        return Custom(trusted_function(key, values["_target_"], keys, updates.trusted), horizon, updates.workers)
    if values.get("name") == "joined":
        pieces = values.get("pieces")
        if not isinstance(pieces, Mapping):
            raise InvalidValueError(
                f"{key}.pieces", pieces, "must be a mapping from names to schedules with their factors"
            )
        lengths = _lengths(values.get("boundaries"), len(pieces), updates.workers, horizon)
        labeled = zip(pieces.items(), lengths, strict=True)
        built = [_piece(f"{key}.pieces.{label}", piece, updates, length) for (label, piece), length in labeled]
        values = {**values, "pieces": tuple(built)}
    decay = _family(DECAYS, key, values)
    try:
        return decay if updates.workers == 1 else decay.per_worker(updates.workers)
    except InvalidValueError as error:
        raise error.under(key) from error


def _lengths(boundaries: Any, pieces: int, workers: int, horizon: int) -> list[int]:
    """Return the number of updates of each piece, >= 1; the horizon if the boundaries are invalid."""
    if not isinstance(boundaries, list) or len(boundaries) != pieces - 1 or not all(type(b) is int for b in boundaries):
        return [horizon] * pieces
    ends = [0, *(boundary // workers for boundary in boundaries), horizon]
    return [max(end - begin, 1) for begin, end in pairwise(ends)]


def _piece(key: str, values: Any, updates: _Updates, horizon: int) -> Piece:
    if not isinstance(values, Mapping):
        raise InvalidValueError(key, values, "must be a mapping such as {name: linear, decay_steps: 100, factor: 0.5}")
    factor = {"factor": values["factor"]} if "factor" in values else {}
    return fill(Piece, key, {"decay": _decay(key, _without(values, "factor"), updates, horizon)} | factor)


def _mapping(config: DictConfig, group: str) -> dict[str, Any]:
    values = resolved(config, group)
    if not isinstance(values, Mapping):
        raise InvalidValueError(group, values, "must be a group of keys")
    return {str(key): value for key, value in values.items()}


def _expand_home(keys: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `~` at the beginning of the paths at `keys` by the home directory."""
    return {k: expanduser(v) if k in keys and isinstance(v, str) else v for k, v in values.items()}


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in keys}


def _trusted_packages(config: DictConfig) -> tuple[str, ...]:
    return tuple(resolved(config, "trusted"))


def study_config(config: DictConfig) -> StudyConfig:
    return fill(StudyConfig, "study", _mapping(config, "study"))


def tracking_config(config: DictConfig) -> TrackingConfig:
    return fill(TrackingConfig, "tracking", _mapping(config, "tracking"))


def compare_config(config: DictConfig) -> CompareConfig:
    return fill(CompareConfig, "compare", _mapping(config, "compare"))


def report_config(config: DictConfig) -> ReportConfig:
    return fill(ReportConfig, "report", _expand_home(["dir"], _mapping(config, "report")))


def preview_config(config: DictConfig) -> PreviewConfig:
    return fill(PreviewConfig, "preview", _expand_home(["path"], _mapping(config, "preview")))


def ui_config(config: DictConfig) -> UiConfig:
    return fill(UiConfig, "ui", _mapping(config, "ui"))


def sampler_config(config: DictConfig) -> SamplerConfig:
    values = _mapping(config, "sampler")
    options = {k: v for k, v in values.items() if k not in ("name", "seed")}
    return fill(SamplerConfig, "sampler", {"name": values["name"], "seed": values.get("seed", 0), "options": options})


def pruner_config(config: DictConfig) -> NamedOptions:
    values = _mapping(config, "pruner")
    return NamedOptions(values["name"], _without(values, "name"))


def engine_config(config: DictConfig) -> EngineConfig:
    """Return the typed configuration of the engine.

    Raises:
        InvalidValueError: names train.workers if the engine does not support several, and an engine for a loop.
    """
    engine, workers = fill(EngineConfig, "engine", _mapping(config, "engine")), _mapping(config, "train").get("workers")
    if isinstance(workers, int) and workers > 1 and (engine.name != "auto" or engine.slots is not None):
        requested = f"engine={engine.name}" if engine.name != "auto" else f"engine.slots={engine.slots}"
        rule = f"must be 1 with {requested}; several workers, which share the batches of one trial, need engine=auto"
        raise InvalidValueError("train.workers", workers, rule)
    loop = _mapping(config, "loop")
    if "_target_" in loop and (engine.name == "fused" or engine.slots is not None):
        key, value = ("engine", engine.name) if engine.name == "fused" else ("engine.slots", engine.slots)
        rule = f"has no effect with a loop: {with_names(str(loop['_target_']))} trains one trial at a time"
        raise InvalidValueError(key, value, rule)
    return engine
