"""Hydra's composition, with resolvers for what is known only once data and horizon are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from sweep.cli.expressions import read
from sweep.cli.scan import CRITIC_GROUPS, check_files, check_name, check_override, check_places
from sweep.config import ENERGY_DISTANCE
from sweep.validation import InvalidValueError

CONFIG_MODULE = "conf"

SECTIONS = (
    "mode", "model", "optimizer", "schedule", "warmup", "critic", "dataset", "average", "space", "train",
    "sampler", "pruner", "engine", "study", "compare", "tracking", "report", "preview", "ui", "trusted",
)  # fmt: skip
"""The top level of a configuration."""


def register_resolvers() -> None:
    """Make the resolvers known that conf uses; they read the configuration they stand in.

    `${fraction:x}`, `${epochs:n}`, `${remaining:}` and `${warmup_steps:default}` are updates: below critic those of the
    critic, elsewhere those that train.steps counts. `${objective:}` is the metric of such a training.
    """
    OmegaConf.register_new_resolver("fraction", _fraction, replace=True)
    OmegaConf.register_new_resolver("epochs", _epochs, replace=True)
    OmegaConf.register_new_resolver("remaining", _remaining, replace=True)
    OmegaConf.register_new_resolver("warmup_steps", _warmup_steps, replace=True)
    OmegaConf.register_new_resolver("unless_half_life", _unless_half_life, replace=True)
    OmegaConf.register_new_resolver("objective", _objective, replace=True)


def _fraction(part: float, *, _root_: DictConfig, _parent_: BaseContainer) -> int:
    """round(part * T)."""
    return round(part * horizon(_root_, _key(_parent_)))


def _epochs(count: float, *, _root_: DictConfig, _parent_: BaseContainer) -> int:
    """round(count * updates of an epoch); loads the data set."""
    return round(count * epoch_length(_root_, _key(_parent_)))


def _remaining(taken: int = 0, part: float = 1.0, *, _root_: DictConfig, _parent_: BaseContainer) -> int:
    return remaining(_root_, _key(_parent_), taken, part)


def remaining(config: DictConfig, key: str, taken: int = 0, part: float = 1.0) -> int:
    """A part of the steps that a decay counts within the horizon, less those taken: T - W; T if it counts from 0."""
    warmup = _optimizes(config, key).warmup
    before = 0 if warmup.get("counting") == "overlap" else int(warmup.get("steps", 0))
    return round(part * (horizon(config, key) - before)) - taken


def _warmup_steps(default: int, *, _root_: DictConfig, _parent_: BaseContainer) -> int:
    """W, or the default without a warmup."""
    return int(_optimizes(_root_, _key(_parent_)).warmup.get("steps", 0)) or default


def _unless_half_life(value: Any, *, _root_: DictConfig, _parent_: BaseContainer) -> Any:
    """The value, or null where the half-life says it all."""
    return value if OmegaConf.select(_parent_, "half_life") is None else None


def _objective(*, _root_: DictConfig) -> str:
    """The metric of a training that names none."""
    return "val_loss" if _critic_updates(_root_) is None else ENERGY_DISTANCE


def _key(node: BaseContainer) -> str:
    """Where a node stands."""
    return str(node._get_full_key(None))


def _optimizes(config: DictConfig, key: str) -> DictConfig:
    """Where the optimizer, schedule and warmup are that a key belongs to."""
    return config.critic if _is_critics(key) else config


def _is_critics(key: str) -> bool:
    return key.partition(".")[0] == "critic"


def _critic_updates(config: DictConfig) -> int | None:
    """Updates of the critic for each of the generator; None where there is none."""
    critic = config.get("critic")
    return critic.updates if OmegaConf.is_dict(critic) and "updates" in critic else None


def horizon(config: DictConfig, key: str) -> int:
    """The updates that a key counts in: T, below critic those that it makes meanwhile."""
    steps: int = config.train.steps
    return steps * (_critic_updates(config) or 1) if _is_critics(key) else steps


def epoch_length(config: DictConfig, key: str) -> float:
    """Updates of one epoch of the configured data set, as a key counts them. Loads it.

    Of a GAN it is the critic that sees the data: the generator makes a part of its updates in an epoch.
    """
    from sweep.cli.build import dataset_config  # these import torch, which --help and --cfg do without
    from sweep.data import load
    from sweep.training import steps_per_epoch

    n_train, drop_last = len(load(dataset_config(config)).train), config.train.get("drop_last", False)
    batches = steps_per_epoch(n_train, config.train.batch_size, drop_last)
    return batches if _is_critics(key) else batches / (_critic_updates(config) or 1)


@dataclass(frozen=True)
class Composer:
    """Composes configurations.

    Args:
        config_dir: a folder of further configuration files, or None.
        config_name: of the primary configuration.

    Raises:
        InvalidValueError: if a file in the folder would have Hydra do more than compose.
    """

    config_dir: str | None = None
    config_name: str = "config"
    _composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.config_name)
        if self.config_dir is not None:
            check_files(self._folder(self.config_dir))

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of plain overrides, not resolved. Every group's `name` defaults to its option.

        Raises:
            InvalidValueError: names the key, what was given, and what is allowed.
        """
        asked = tuple(overrides)
        if asked not in self._composed:  # a composition takes a quarter of a second
            self._composed[asked] = self._compose(asked)
        return self._composed[asked].copy()

    def _compose(self, overrides: tuple[str, ...]) -> DictConfig:
        for text in overrides:  # some are made of values of a file: compare.schedules
            check_override(read(text))
        overrides = tuple(map(option_of_critic, overrides))
        with self._initialized():
            try:
                composed = self._hydra(overrides, return_hydra_config=True)
            except HydraException as error:
                raise self._explained(overrides, error) from error
            except OmegaConfBaseException as error:
                raise InvalidValueError(error.full_key or "config", error.value, _first_line(error)) from error
            except (ValueError, TypeError, AttributeError, YAMLError) as error:  # Hydra does not catch them all
                rule = f"cannot be composed with {' '.join(overrides) or 'no overrides'}: {_first_line(error)}"
                raise InvalidValueError("--config-name", self.config_name, rule) from error
        choices = composed.hydra.runtime.choices
        config = OmegaConf.create({key: value for key, value in composed.items_ex(resolve=False) if key != "hydra"})
        for group, option in choices.items():
            package = group.partition("@")[2]
            part = OmegaConf.select(config, package) if package in CRITIC_GROUPS else config.get(group)
            if option and OmegaConf.is_dict(part) and group != "space":
                part.setdefault("name", option)
        _check_rising(choices, overrides)
        for group in ("average", "critic"):  # a primary configuration of theirs may say nothing about them
            config.setdefault(group, {"name": "none"})
        for key in config:
            if key not in SECTIONS:
                rule = f"no such key; the configuration has {', '.join(SECTIONS)}"
                raise InvalidValueError(str(key), config._get_node(key), rule)
        config.trusted = _trusted(config, overrides)
        if self.config_dir is not None:
            check_places(config, {read(text).key_or_group: text.partition("=")[2] for text in overrides})
        return config

    def _hydra(self, overrides: Sequence[str], **options: Any) -> DictConfig:
        return compose(self.config_name, [*self.places[1], *overrides], **options)

    @contextmanager
    def _initialized(self) -> Iterator[None]:
        primary = self.places[0]
        if primary.startswith("pkg://"):
            with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
                yield
        else:
            with initialize_config_dir(primary, version_base="1.3"):
                yield

    @property
    def places(self) -> tuple[str, list[str]]:
        """Where Hydra looks for the primary configuration, and the override that names where else for groups.

        A primary configuration in the given folder is taken before one of that name in conf.
        """
        own = f"pkg://{CONFIG_MODULE}"
        if self.config_dir is None:
            return own, []
        folder = self._folder(self.config_dir)
        if (folder / f"{self.config_name}.yaml").is_file():
            return str(folder), [f"hydra.searchpath=['{own}']"]
        return own, [f"hydra.searchpath=['file://{folder}']"]

    @staticmethod
    def _folder(config_dir: str) -> Path:
        """The folder of further files, by a path that stays what it is where Hydra reads it as a value."""
        folder = Path(config_dir).absolute()
        if not folder.is_dir():
            raise InvalidValueError("--config-dir", config_dir, "is no folder")
        if set("'\\$") & set(str(folder)):
            raise InvalidValueError("--config-dir", config_dir, "must have no quote, backslash or $ in its path")
        return folder

    def _explained(self, overrides: Sequence[str], error: HydraException) -> InvalidValueError:
        """Hydra's refusal, as key, value and what is allowed."""
        for index, text in enumerate(overrides):
            try:
                self._hydra(overrides[: index + 1])
            except HydraException as first:
                override = read(text)
                key, value = override.get_key_element(), text.partition("=")[2]
                key = override.package if override.package in CRITIC_GROUPS else key
                before = self._hydra(overrides[:index])
                return InvalidValueError(key, value, _rule(override.key_or_group, value, before, first))
        return InvalidValueError("--config-name", self.config_name, _first_line(error))


def option_of_critic(text: str) -> str:
    """critic.schedule=cosine as Hydra wants it, schedule@critic.schedule=cosine; any other override as it is."""
    override = read(text)
    names_option = override.key_or_group in CRITIC_GROUPS and isinstance(override.value(), str)
    return f"{override.key_or_group.removeprefix('critic.')}@{text}" if names_option else text


def _check_rising(choices: Mapping[str, str], overrides: Sequence[str]) -> None:
    """Refuse a schedule of a critic whose file takes the generator's warmup away, unless that is chosen."""
    option = choices.get("schedule@critic.schedule")
    chosen = {read(text).get_key_element() for text in overrides}
    if option in ("cyclic", "noam", "one_cycle") and not {"warmup", "warmup@critic.warmup"} <= chosen:
        rule = (
            "warms up by itself: add critic.warmup=none, and say which warmup the generator has, warmup=linear or none"
        )
        raise InvalidValueError("critic.schedule", option, rule)


def _trusted(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The packages that the command line declares trusted; refuses trust that a file declares."""
    declared: Any = []
    for override in map(read, overrides):
        if override.key_or_group == "trusted":
            declared = override.value()
    if not isinstance(declared, list) or not all(_is_package(package) for package in declared):
        raise InvalidValueError("trusted", declared, "must be a list of packages: trusted=[mylab]")
    in_files = OmegaConf.to_container(OmegaConf.create({"trusted": config._get_node("trusted")}), resolve=False)
    if in_files != {"trusted": declared}:
        rule = "can be declared on the command line only"
        raise InvalidValueError("trusted", in_files["trusted"], rule)  # type: ignore[index, call-overload]
    return [str(package) for package in declared]


def _is_package(name: Any) -> bool:
    """Whether it is the name of a package: what an interpolation would make of it is for a file to say."""
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _rule(key: str, value: str, config: DictConfig, error: HydraException) -> str:
    """Why an override was refused: the options of a group, or the keys beside an unknown key."""
    text = str(error)
    if "Available options" in text:
        lines = text.split("Available options", 1)[1].splitlines()[1:]
        options = [line.strip() for line in lines if line.startswith("\t") and "provider=" not in line]
        near = get_close_matches(value, options, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"is not there{hint}; {key} has {', '.join(options)}"
    parent, _, leaf = key.rpartition(".")
    siblings = OmegaConf.select(config, parent) if parent else config
    if OmegaConf.is_dict(siblings) and leaf not in siblings:
        known = [str(name) for name in siblings]
        elsewhere = [f"{name}.{leaf}" for name in map(str, config) if _has(config.get(name), leaf)]
        near = elsewhere if not parent and elsewhere else get_close_matches(leaf, known, n=1)
        if parent == "warmup" and known == ["name"]:
            return "no such key: there is no warmup (noam, one_cycle, cyclic warm up by themselves); add warmup=linear"
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"no such key{hint}; {parent or 'the configuration'} has {', '.join(known)}"
    return _first_line(error)


def _has(section: Any, key: str) -> bool:
    return OmegaConf.is_dict(section) and key in section


def resolved(config: DictConfig, group: str) -> Any:
    """A part of the configuration with its interpolations resolved, as plain data.

    Raises:
        InvalidValueError: names what could not be resolved.
    """
    try:
        part = config[group]
        return OmegaConf.to_container(part, resolve=True, throw_on_missing=True) if OmegaConf.is_config(part) else part
    except MissingMandatoryValue as error:
        raise InvalidValueError(error.full_key or group, "???", "must be given") from error
    except InterpolationResolutionError as error:
        if isinstance(error.__cause__, InvalidValueError):
            raise error.__cause__ from error
        raise InvalidValueError(error.full_key or group, error.value, _first_line(error)) from error
    except OmegaConfBaseException as error:
        raise InvalidValueError(error.full_key or group, error.value, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
