"""Compose configurations with Hydra."""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from os.path import expanduser
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from sweep.augmentations import AUGMENT_KEY, with_defaults
from sweep.components import Component, own_folder
from sweep.config import DatasetConfig, OptimizerConfig
from sweep.errors import InvalidValueError
from sweep.loops import LoopConfig
from sweep.requests.current_trainer import current_trainer
from sweep.requests.expressions import read
from sweep.requests.scan import CRITIC_GROUPS, check_command, check_files, check_name, check_override, check_places
from sweep.schedules import DECAYS
from sweep.targets import is_given, name_of

SECTIONS = (
    "mode", "model", "optimizer", "schedule", "warmup", "critic", "dataset", "task", "average", "loop", "space",
    "train", "sampler", "pruner", "engine", "study", "compare", "tracking", "report", "preview", "ui", "trusted",
    "options",
)  # fmt: skip
"""The top level of a configuration. `options` holds the option of each group whose option differs from its `name`."""

EXPERIMENT = "experiment"
"""The group whose files set keys as the command line does."""

OWN_KEYS: Mapping[str, frozenset[str]] = {
    "model": frozenset(),
    "optimizer": frozenset(OptimizerConfig.__dataclass_fields__),
    "critic.optimizer": frozenset(OptimizerConfig.__dataclass_fields__),
    "dataset": frozenset(DatasetConfig.__dataclass_fields__) | {"augment"},
    AUGMENT_KEY: frozenset(),
    "task": frozenset({"loss", "metrics"}),
    "schedule": frozenset({"per_worker"}),
    "critic.schedule": frozenset({"per_worker"}),
    "loop": frozenset(LoopConfig.__dataclass_fields__),
}
"""Groups that may have a `_target_`, and those of their keys that are no arguments of it."""

ONE_OPTION = ("model", "optimizer", "schedule", "warmup", "dataset", "task", "average", "loop", *CRITIC_GROUPS)
"""Groups of which a training has one option."""

SCHEDULES = ("schedule", "critic.schedule")
"""Groups whose families have no `_target_`. A given one takes nothing from the family but these keys."""
CUSTOM = "custom"
"""The option of a schedule, and of its space, that is a function of the user's."""


_ONE_AT_A_TIME = threading.RLock()
"""Hydra has one state for all threads."""


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
    _by_hydra: dict[tuple[str, ...], DictConfig] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.config_name)
        if self.config_dir is not None:
            check_files(self._folder(self.config_dir))

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration of plain overrides, not resolved. Every group's `name` defaults to its option.

        Raises:
            InvalidValueError: names the key, what was given, and what is allowed.
        """
        asked = tuple(overrides)
        if asked not in self._composed:  # a composition takes a quarter of a second
            self._composed[asked] = self._compose(asked)
        return self._composed[asked].copy()

    def for_hydra(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """Return overrides that mean the same to Hydra.

        `critic.schedule=cosine` is `schedule@critic.schedule=cosine`, `experiment=a` is `+experiment=a`, and
        `experiment=null` chooses none. `tracking.tags.team=vision` is `++tracking.tags.team=vision`. A schedule without
        a space of its name gets that of its family.
        """
        open_groups = [f"{group}." for group in OWN_KEYS if any(_gives(text, group) for text in overrides)]
        open_groups += [
            "tracking.tags.",
            "task.loss.",
            "task.metrics.",
            "dataset.collate.",
            f"{AUGMENT_KEY}.",
            "loop.",
        ]  # whose keys are free
        written = tuple(new for text in overrides for new in self._for_hydra(option_of_critic(text), open_groups))
        if any(read(text).key_or_group == "space" for text in written):
            return written
        try:
            self._hydra(written)
        except HydraException:
            try:
                schedule = self._hydra((*written, "space=none")).schedule
            except HydraException:
                return written  # something else is wrong with them
            return (*written, f"space={self.space_of(schedule)}")
        return written

    def space_of(self, schedule: DictConfig) -> str:
        """Return the space of a schedule: that of its name, and without one `custom` for a function of the user's."""
        family, files = schedule.get("name"), self._files_of("space")
        if f"{family}.yaml" in files:
            return str(family)
        return CUSTOM if "_target_" in schedule else "none"

    def _for_hydra(self, text: str, open_groups: Sequence[str]) -> list[str]:
        """Return what an override means to Hydra.

        Args:
            open_groups: beginnings of keys that the composed configuration need not have.
        """
        override = read(text)
        if override.key_or_group == AUGMENT_KEY and override.type is OverrideType.CHANGE:
            if isinstance(override.value(), str):  # keys of the option may stand before or behind it
                return [f"++{AUGMENT_KEY}.name={text.partition('=')[2]}"]
            return [f"++{AUGMENT_KEY}=null", f"++{text}"]  # Hydra would merge a mapping with that of a file
        if override.key_or_group.startswith(tuple(open_groups)) and override.type is OverrideType.CHANGE:
            return [f"++{text}"]
        if override.key_or_group != EXPERIMENT or override.package is not None:
            return [text]
        listed = self._hydra(()).hydra.runtime.choices  # by a primary configuration of the user's
        if override.is_delete() or override.value() is None:
            return [f"~{EXPERIMENT}"] if listed.get(EXPERIMENT) else []
        return [f"{'' if EXPERIMENT in listed else '+'}{EXPERIMENT}={text.partition('=')[2]}"]

    def _compose(self, overrides: tuple[str, ...]) -> DictConfig:
        for text in overrides:  # some are made of values of a file: compare.schedules
            _refuse_list(read(text))
            check_override(read(text))
        written = overrides
        try:
            written = self.for_hydra(overrides)
            composed = self._hydra(written).copy()
        except HydraException as error:
            raise self._explained(written, error) from error
        except OmegaConfBaseException as error:
            raise InvalidValueError(error.full_key or "config", error.value, _first_line(error)) from error
        except (ValueError, TypeError, AttributeError, YAMLError) as error:  # Hydra does not catch them all
            rule = f"cannot be composed with {' '.join(written) or 'no overrides'}: {_first_line(error)}"
            raise InvalidValueError("--config-name", self.config_name, rule) from error
        options = _options(composed)
        config = OmegaConf.create({key: value for key, value in composed.items_ex(resolve=False) if key != "hydra"})
        for group, option in options.items():
            part = OmegaConf.select(config, group)
            if OmegaConf.is_dict(part) and group != "space":
                part.setdefault("name", option)
        if "critic.schedule" in options:
            _check_rising(config, written)
        for group in ("average", "critic", "loop"):  # a primary configuration of theirs may say nothing about them
            config.setdefault(group, {"name": "none"})
        config.setdefault("task", {"name": "auto", "loss": None, "metrics": None})
        for key in config:
            if key not in SECTIONS:
                rule = f"no such key; the configuration has {', '.join(SECTIONS)}"
                if key == EXPERIMENT:
                    rule = "must set keys of the whole configuration: its first line must be # @package _global_"
                raise InvalidValueError(str(key), config._get_node(key), rule)
        config.trusted = _trusted(config, written)
        check_command(config, {read(text).key_or_group: read(text).value() for text in written})
        if self.config_dir is not None:
            check_places(config, {read(text).key_or_group: text.partition("=")[2] for text in written})
        given = {read(text).key_or_group for text in overrides} | self.set_by_experiment(overrides)
        for group in OWN_KEYS:
            if f"{group}._target_" in given:
                _adapt_to_target(config, group, given)
        _complete_augment(config, list(map(read, overrides)))
        config.options = _recorded_options(config, options, given)
        return config

    def set_by_experiment(self, overrides: Sequence[str]) -> frozenset[str]:
        """Return the keys that the chosen files of the group experiment set, and the groups they choose an option of.

        A file sets them as the command line would. A key that it has in its `space` is searched and not among them.
        """
        written = self.for_hydra(overrides)
        if EXPERIMENT not in self._hydra(written).hydra.runtime.choices:
            return frozenset()
        further = self.places[1]
        with self._initialized():
            loader = GlobalHydra.instance().config_loader()
            defaults = loader.compute_defaults_list(self.config_name, [*further, *written], RunMode.RUN).defaults
        keys: set[str] = set()
        for default in defaults:
            if not str(default.config_path).startswith(f"{EXPERIMENT}/"):
                continue
            files = [folder / f"{default.config_path}.yaml" for folder in self._folders]
            content: Any = OmegaConf.to_container(OmegaConf.load(next(filter(Path.is_file, files))), resolve=False)
            if not isinstance(content, dict):  # an empty file
                continue
            keys |= _chosen_groups(content.pop("defaults", None))
            package = default.package if default.package != "_global_" else ""
            keys |= {f"{package}.{key}".lstrip(".") for key in _leaves(content)}
        searched = {key.removeprefix("space.") for key in keys if key.startswith("space.")}
        return frozenset(keys - searched)

    def _hydra(self, overrides: tuple[str, ...]) -> DictConfig:
        """Return what Hydra composes, to be read only."""
        if overrides not in self._by_hydra:
            with self._initialized():
                further = self.places[1]
                self._by_hydra[overrides] = compose(self.config_name, [*further, *overrides], return_hydra_config=True)
        return self._by_hydra[overrides]

    @contextmanager
    def _initialized(self) -> Iterator[None]:
        with _ONE_AT_A_TIME:
            theirs, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None  # of a program that uses Hydra
            try:
                with initialize_config_dir(self.places[0], version_base="1.3"):
                    yield
            finally:
                GlobalHydra.instance().hydra = theirs

    @property
    def _folders(self) -> list[Path]:
        """The folders that Hydra searches, the first to be searched first."""
        own = own_folder("conf")
        if self.config_dir is None:
            return [own]
        folder = self._folder(self.config_dir)
        return [folder, own] if (folder / f"{self.config_name}.yaml").is_file() else [own, folder]

    def _files_of(self, group: str) -> set[str]:
        """Return the names of the files of a group."""
        return {path.name for folder in self._folders for path in (folder / group).glob("*.yaml")}

    @property
    def places(self) -> tuple[str, list[str]]:
        """The folder of the primary configuration, and the override that names where else Hydra looks for groups.

        A primary configuration in the given folder is taken before one of that name in conf.
        """
        primary, *further = self._folders
        paths = [QuotedString(f"file://{folder}", Quote.single).with_quotes() for folder in further]
        return str(primary), [f"hydra.searchpath=[{paths[0]}]"] if paths else []

    @staticmethod
    def _folder(config_dir: str) -> Path:
        """The folder of further files, by a path that stays what it is where Hydra reads it as a value."""
        folder = Path(expanduser(config_dir)).absolute()
        if not folder.is_dir():
            raise InvalidValueError("--config-dir", config_dir, "is no folder")
        if set("'\\$") & set(str(folder)):
            raise InvalidValueError("--config-dir", config_dir, "must have no quote, backslash or $ in its path")
        return folder

    def _explained(self, overrides: tuple[str, ...], error: HydraException) -> InvalidValueError:
        """Hydra's refusal, as key, value and what is allowed."""
        for index, text in enumerate(overrides):
            try:
                self._hydra(overrides[: index + 1])
            except HydraException as first:
                override = read(text)
                key, value = override.get_key_element(), text.partition("=")[2]
                key = override.package if override.package in CRITIC_GROUPS else key
                key = EXPERIMENT if override.key_or_group == EXPERIMENT else key
                rule = _rule(override.key_or_group, value, self._hydra(overrides[:index]), first)
                if override.is_delete() and "=" not in text:
                    return InvalidValueError("override", text, rule)
                return InvalidValueError(key, value, rule)
        return InvalidValueError("--config-name", self.config_name, _first_line(error))


def option_of_critic(text: str) -> str:
    """critic.schedule=cosine as Hydra wants it, schedule@critic.schedule=cosine; any other override as it is."""
    override = read(text)
    names_option = override.key_or_group in CRITIC_GROUPS and isinstance(override.value(), str)
    return f"{override.key_or_group.removeprefix('critic.')}@{text}" if names_option else text


def _refuse_list(override: Override) -> None:
    """Refuse a list of options of a group, of which Hydra would merge the files."""
    key, value = override.key_or_group, override.value()
    if key in ONE_OPTION and isinstance(value, list):
        options = ",".join(map(str, value))
        rule = f"must be one option; {key}={options} searches among several"
        rule += f", and compare.schedules=[{options}] compares them" if key == "schedule" else ""
        raise InvalidValueError(key, str(override.input_line).partition("=")[2], rule)


def _gives(text: str, group: str) -> bool:
    """Return whether an override gives the target of a group, whose keys are then those that the target accepts."""
    return text.partition("=")[0].lstrip("+") == f"{group}._target_"


def _options(composed: DictConfig) -> dict[str, str]:
    """Return the option that is chosen of each group, by the key of the group: `schedule`, `critic.schedule`."""
    options = {}
    for group, option in composed.hydra.runtime.choices.items():
        package = group.partition("@")[2]
        if option and "/" not in group and (not package or package in CRITIC_GROUPS):
            options[package or group] = option if isinstance(option, str) else ",".join(option)
    return options


def _recorded_options(config: DictConfig, options: Mapping[str, str], given: Collection[str]) -> dict[str, str]:
    """Return the options that are not the `name` of their group, with those that a recorded configuration has.

    A name that was given, or that of a `_target_` that was given, says more than the option.
    """
    before = config.get("options") or {}
    if not OmegaConf.is_dict(before) and before != {}:
        raise InvalidValueError("options", before, "must be a mapping of groups to the options chosen of them")
    recorded = {str(group): str(option) for group, option in before.items()} | dict(options)
    families = {group: OmegaConf.select(config, f"{group}.name") for group in recorded}
    families["space"] = OmegaConf.select(config, "schedule.name")
    renamed = {group for group in recorded if {f"{group}.name", f"{group}._target_"} & set(given)}
    return {group: option for group, option in recorded.items() if group not in renamed and option != families[group]}


def _adapt_to_target(config: DictConfig, group: str, given: Collection[str]) -> None:
    """Let a group fit a `_target_` that was given in place of that of its option.

    The keys of the option that were not given are removed: all of them if the target is the user's and the option was
    not chosen, or is a schedule, because they would replace defaults of the user's; or else those that the target does
    not accept. The name becomes that of the target.
    """
    part = OmegaConf.select(config, group)
    target = part.get("_target_")
    if not isinstance(target, str):
        return  # which is refused where it is used
    of_option = [key for key in part if key not in ("name", "_target_", *OWN_KEYS[group])]
    chosen = [key for key in of_option if not any(f"{text}.".startswith(f"{group}.{key}.") for text in given)]
    is_new = is_given(target) or (target.partition(".")[0] in config.trusted and group not in given)
    if group not in SCHEDULES and not is_new:
        component = Component(group, target, {}, tuple(config.trusted))
        accepted = current_trainer().accepted(component, list(map(str, chosen))) if chosen else ()
        if accepted is None:  # the user's code raises an error as it is imported, and again where it is used
            return
        chosen = [key for key in chosen if str(key) not in accepted]
    for key in chosen:
        del part[key]
    if f"{group}.name" not in given:
        part.name = name_of(target) if is_given(target) else target.rpartition(".")[2]


def _complete_augment(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Let `dataset.augment` be a mapping with all keys of its option.

    If the command line chooses the option, the keys that a file has given to another one are removed.
    """
    dataset = config.get("dataset")
    if not OmegaConf.is_dict(dataset) or OmegaConf.is_interpolation(dataset, "augment"):
        return
    part = dataset.get("augment")
    if OmegaConf.is_dict(part) and any(o.key_or_group == AUGMENT_KEY and isinstance(o.value(), str) for o in overrides):
        kept = {f"{AUGMENT_KEY}.name", *(override.key_or_group for override in overrides)}
        for key in [key for key in part if f"{AUGMENT_KEY}.{key}" not in kept]:
            del part[key]
    held = OmegaConf.to_container(part, resolve=False) if OmegaConf.is_config(part) else part
    dataset.augment = with_defaults(held)


def _leaves(nested: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield the keys of all that is no mapping, with dots."""
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _chosen_groups(defaults: Any) -> set[str]:
    """Return the groups that the defaults list of a file chooses an option of: `override /sampler: random`."""
    entries = [entry for entry in defaults or [] if isinstance(entry, Mapping)]
    return {str(group).split()[-1].lstrip("/").partition("@")[0] for entry in entries for group in entry}


def _check_rising(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a schedule of a critic whose file takes the generator's warmup away, unless that is chosen."""
    family = OmegaConf.select(config, "critic.schedule.name")
    chosen = {read(text).get_key_element() for text in overrides}
    decay = DECAYS.get(str(family))
    if decay is not None and decay.warms_up and not {"warmup", "warmup@critic.warmup"} <= chosen:
        rule = (
            "warms up by itself: add critic.warmup=none, and say which warmup the generator has, warmup=linear or none"
        )
        raise InvalidValueError("critic.schedule", family, rule)


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
    if (elements := elements_of(config, parent)) is not None:
        return elements
    siblings = OmegaConf.select(config, parent) if parent else config
    if siblings is None:
        top = key.partition(".")[0]
        near = [] if _has(config, top) else get_close_matches(top, list(map(str, config)), n=1)
        return f"no such key (did you mean {near[0]}{key.removeprefix(top)}?)" if near else "no such key"
    if _has(siblings, leaf) and OmegaConf.is_missing(siblings, leaf):
        return f"{key} has no value that could be removed; it must be given: {key}=..."
    if OmegaConf.is_dict(siblings) and not _has(siblings, leaf):
        known = [str(name) for name in siblings]
        elsewhere = [f"{name}.{leaf}" for name in map(str, config) if _has(config.get(name), leaf)]
        near = elsewhere if not parent and elsewhere else get_close_matches(leaf, known, n=1)
        if parent == "warmup" and known == ["name"]:
            themselves = ", ".join(name for name, decay in DECAYS.items() if decay.warms_up)
            return f"no such key: there is no warmup ({themselves} warm up by themselves); add warmup=linear"
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"no such key{hint}; {parent or 'the configuration'} has {', '.join(known)}"
    return _first_line(error)


def elements_of(config: DictConfig, key: str) -> str | None:
    """Return the rule for elements of the list at a key; None where there is no list."""
    found = OmegaConf.select(config, key) if key else None
    return f"no such element; {key} has {len(found)}, counted from 0" if isinstance(found, ListConfig) else None


def _has(section: Any, key: str) -> bool:
    return OmegaConf.is_dict(section) and key in section.keys()  # noqa: SIM118  # a missing value is not "in"


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
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InvalidValueError):
            cause = cause.__cause__ or cause.__context__  # one interpolation may be within another
        raise cause or InvalidValueError(error.full_key or group, error.value, _first_line(error)) from error
    except OmegaConfBaseException as error:
        raise InvalidValueError(error.full_key or group, error.value, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
