"""Composes configurations with Hydra."""

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
from sweep.requests.expressions import parse_override
from sweep.requests.scan import CRITIC_GROUPS, check_command, check_files, check_name, check_override, check_places
from sweep.schedules import DECAYS
from sweep.targets import is_given, name_of

SECTIONS = (
    "mode", "model", "optimizer", "schedule", "warmup", "critic", "dataset", "task", "average", "loop", "space",
    "train", "sampler", "pruner", "engine", "study", "compare", "tracking", "report", "preview", "ui", "trusted",
    "options",
)  # fmt: skip
"""Keys at the top level of a configuration. `options` has the options of groups whose `name` is different."""

EXPERIMENT_GROUP = "experiment"
"""The group whose files set keys of the whole configuration, as the command line does."""

NON_ARGUMENT_KEYS: Mapping[str, frozenset[str]] = {
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
"""Groups that may have a `_target_`, and those of their keys that are not arguments of it."""

SINGLE_OPTION_GROUPS = (
    "model",
    "optimizer",
    "schedule",
    "warmup",
    "dataset",
    "task",
    "average",
    "loop",
    *CRITIC_GROUPS,
)
"""Groups of which a training has exactly one option."""

SCHEDULE_GROUPS = ("schedule", "critic.schedule")
"""Groups whose files have no `_target_`. If one is given, the keys of the chosen family do not apply."""
CUSTOM_SCHEDULE = "custom"
"""The name of the space for a schedule that is a user's function."""

_HYDRA_LOCK = threading.RLock()
"""Protects the global state of Hydra."""


@dataclass(frozen=True)
class Composer:
    """Composes configurations.

    Args:
        config_dir: a folder with further configuration files, or None.
        config_name: name of the primary configuration.

    Raises:
        InvalidValueError: if a file in the folder could make Hydra do more than compose.
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
        """Return the unresolved configuration for plain overrides. The default `name` of a group is its option.

        Raises:
            InvalidValueError: names the key, the value and the rule.
        """
        key = tuple(overrides)
        if key not in self._composed:  # a composition takes a quarter of a second
            self._composed[key] = self._compose(key)
        return self._composed[key].copy()

    def for_hydra(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """Convert overrides to Hydra's syntax.

        `critic.schedule=cosine` becomes `schedule@critic.schedule=cosine`, `experiment=a` becomes `+experiment=a`,
        `experiment=null` removes the experiment, and `tracking.tags.team=vision` becomes
        `++tracking.tags.team=vision`. A schedule without its own space gets the space of its family.
        """
        open_groups = [f"{group}." for group in NON_ARGUMENT_KEYS if any(_gives(text, group) for text in overrides)]
        open_groups += [
            "tracking.tags.",
            "task.loss.",
            "task.metrics.",
            "dataset.collate.",
            f"{AUGMENT_KEY}.",
            "loop.",
        ]  # groups with arbitrary keys
        written = tuple(new for text in overrides for new in self._for_hydra(option_of_critic(text), open_groups))
        if any(parse_override(text).key_or_group == "space" for text in written):
            return written
        try:
            self._hydra(written)
        except HydraException:
            try:
                schedule = self._hydra((*written, "space=none")).schedule
            except HydraException:
                return written  # another override is invalid
            return (*written, f"space={self.space_of(schedule)}")
        return written

    def space_of(self, schedule: DictConfig) -> str:
        """Return the space of a schedule: that of its family, or else `custom` for a user's function, or `none`."""
        family, files = schedule.get("name"), self._files_of("space")
        if f"{family}.yaml" in files:
            return str(family)
        return CUSTOM_SCHEDULE if "_target_" in schedule else "none"

    def _for_hydra(self, text: str, open_groups: Sequence[str]) -> list[str]:
        """Convert an override to Hydra's syntax.

        Args:
            open_groups: prefixes of keys that the composed configuration need not have.
        """
        override = parse_override(text)
        if override.key_or_group == AUGMENT_KEY and override.type is OverrideType.CHANGE:
            if isinstance(override.value(), str):  # overrides of its keys may precede or follow it
                return [f"++{AUGMENT_KEY}.name={text.partition('=')[2]}"]
            return [f"++{AUGMENT_KEY}=null", f"++{text}"]  # Hydra would merge the mapping with that of a file
        if override.key_or_group.startswith(tuple(open_groups)) and override.type is OverrideType.CHANGE:
            return [f"++{text}"]
        if override.key_or_group != EXPERIMENT_GROUP or override.package is not None:
            return [text]
        listed = self._hydra(()).hydra.runtime.choices  # by the user's primary configuration
        if override.is_delete() or override.value() is None:
            return [f"~{EXPERIMENT_GROUP}"] if listed.get(EXPERIMENT_GROUP) else []
        return [f"{'' if EXPERIMENT_GROUP in listed else '+'}{EXPERIMENT_GROUP}={text.partition('=')[2]}"]

    def _compose(self, overrides: tuple[str, ...]) -> DictConfig:
        for text in overrides:  # some have values from a file: compare.schedules
            _refuse_list(parse_override(text))
            check_override(parse_override(text))
        written = overrides
        try:
            written = self.for_hydra(overrides)
            composed = self._hydra(written).copy()
        except HydraException as error:
            raise self._explain(written, error) from error
        except OmegaConfBaseException as error:
            raise InvalidValueError(error.full_key or "config", error.value, _first_line(error)) from error
        except (ValueError, TypeError, AttributeError, YAMLError) as error:  # Hydra does not catch all of them
            rule = f"cannot be composed with {' '.join(written) or 'no overrides'}: {_first_line(error)}"
            raise InvalidValueError("--config-name", self.config_name, rule) from error
        options = _chosen_options(composed)
        config = OmegaConf.create({key: value for key, value in composed.items_ex(resolve=False) if key != "hydra"})
        for group, option in options.items():
            part = OmegaConf.select(config, group)
            if OmegaConf.is_dict(part) and group != "space":
                part.setdefault("name", option)
        if "critic.schedule" in options:
            _check_rising(config, written)
        for group in ("average", "critic", "loop"):  # a user's primary configuration may lack these groups
            config.setdefault(group, {"name": "none"})
        config.setdefault("task", {"name": "auto", "loss": None, "metrics": None})
        for key in config:
            if key not in SECTIONS:
                rule = f"no such key; the configuration has {', '.join(SECTIONS)}"
                if key == EXPERIMENT_GROUP:
                    rule = "must set keys of the whole configuration: its first line must be # @package _global_"
                raise InvalidValueError(str(key), config._get_node(key), rule)
        config.trusted = _declared_trust(config, written)
        check_command(config, {parse_override(text).key_or_group: parse_override(text).value() for text in written})
        if self.config_dir is not None:
            check_places(config, {parse_override(text).key_or_group: text.partition("=")[2] for text in written})
        given = {parse_override(text).key_or_group for text in overrides} | self.set_by_experiment(overrides)
        for group in NON_ARGUMENT_KEYS:
            if f"{group}._target_" in given:
                _adapt_to_target(config, group, given)
        _complete_augment(config, list(map(parse_override, overrides)))
        config.options = _recorded_options(config, options, given)
        return config

    def set_by_experiment(self, overrides: Sequence[str]) -> frozenset[str]:
        """Return the keys that the chosen file of the group experiment sets, and the groups whose options it chooses.

        These keys are fixed, as keys of the command line are. Keys in the `space` of the file are not returned.
        """
        written = self.for_hydra(overrides)
        if EXPERIMENT_GROUP not in self._hydra(written).hydra.runtime.choices:
            return frozenset()
        further = self.places[1]
        with self._initialized():
            loader = GlobalHydra.instance().config_loader()
            defaults = loader.compute_defaults_list(self.config_name, [*further, *written], RunMode.RUN).defaults
        keys: set[str] = set()
        for default in defaults:
            if not str(default.config_path).startswith(f"{EXPERIMENT_GROUP}/"):
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
        """Return Hydra's composition, which the caller must not change."""
        if overrides not in self._by_hydra:
            with self._initialized():
                further = self.places[1]
                self._by_hydra[overrides] = compose(self.config_name, [*further, *overrides], return_hydra_config=True)
        return self._by_hydra[overrides]

    @contextmanager
    def _initialized(self) -> Iterator[None]:
        with _HYDRA_LOCK:
            others, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None  # the caller may use Hydra, too
            try:
                with initialize_config_dir(self.places[0], version_base="1.3"):
                    yield
            finally:
                GlobalHydra.instance().hydra = others

    @property
    def _folders(self) -> list[Path]:
        """Return the folders in which Hydra searches, in this order."""
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
        """Return the folder of the primary configuration, and an override with the other folder for groups.

        A primary configuration in the given folder has precedence over one with the same name in conf.
        """
        primary, *further = self._folders
        paths = [QuotedString(f"file://{folder}", Quote.single).with_quotes() for folder in further]
        return str(primary), [f"hydra.searchpath=[{paths[0]}]"] if paths else []

    @staticmethod
    def _folder(config_dir: str) -> Path:
        """Return the absolute path of a configuration folder; refuse characters that Hydra would interpret."""
        folder = Path(expanduser(config_dir)).absolute()
        if not folder.is_dir():
            raise InvalidValueError("--config-dir", config_dir, "must be a folder that exists")
        if set("'\\$") & set(str(folder)):
            raise InvalidValueError("--config-dir", config_dir, "must have no quote, backslash or $ in its path")
        return folder

    def _explain(self, overrides: tuple[str, ...], error: HydraException) -> InvalidValueError:
        """Convert an error of Hydra to key, value and rule."""
        for index, text in enumerate(overrides):
            try:
                self._hydra(overrides[: index + 1])
            except HydraException as first:
                override = parse_override(text)
                key, value = override.get_key_element(), text.partition("=")[2]
                key = override.package if override.package in CRITIC_GROUPS else key
                key = EXPERIMENT_GROUP if override.key_or_group == EXPERIMENT_GROUP else key
                rule = _rule(override.key_or_group, value, self._hydra(overrides[:index]), first)
                if override.is_delete() and "=" not in text:
                    return InvalidValueError("override", text, rule)
                return InvalidValueError(key, value, rule)
        return InvalidValueError("--config-name", self.config_name, _first_line(error))


def option_of_critic(text: str) -> str:
    """Return schedule@critic.schedule=cosine for critic.schedule=cosine, and any other override unchanged."""
    override = parse_override(text)
    names_option = override.key_or_group in CRITIC_GROUPS and isinstance(override.value(), str)
    return f"{override.key_or_group.removeprefix('critic.')}@{text}" if names_option else text


def _refuse_list(override: Override) -> None:
    """Refuse a list of options of a group, because Hydra would merge their files."""
    key, value = override.key_or_group, override.value()
    if key in SINGLE_OPTION_GROUPS and isinstance(value, list):
        options = ",".join(map(str, value))
        rule = f"must be one option; {key}={options} searches several"
        rule += f", and compare.schedules=[{options}] compares them" if key == "schedule" else ""
        raise InvalidValueError(key, str(override.input_line).partition("=")[2], rule)


def _gives(text: str, group: str) -> bool:
    """Return whether an override sets the target of a group."""
    return text.partition("=")[0].lstrip("+") == f"{group}._target_"


def _chosen_options(composed: DictConfig) -> dict[str, str]:
    """Return the chosen option of each group, by the key of the group: `schedule`, `critic.schedule`."""
    options = {}
    for group, option in composed.hydra.runtime.choices.items():
        package = group.partition("@")[2]
        if option and "/" not in group and (not package or package in CRITIC_GROUPS):
            options[package or group] = option if isinstance(option, str) else ",".join(option)
    return options


def _recorded_options(config: DictConfig, options: Mapping[str, str], given: Collection[str]) -> dict[str, str]:
    """Return the options that differ from the `name` of their group, and those of a recorded configuration.

    A group is left out if its `name` or `_target_` is given, which identifies it better than the option.
    """
    before = config.get("options") or {}
    if not OmegaConf.is_dict(before) and before != {}:
        raise InvalidValueError("options", before, "must be a mapping from groups to their options")
    recorded = {str(group): str(option) for group, option in before.items()} | dict(options)
    families = {group: OmegaConf.select(config, f"{group}.name") for group in recorded}
    families["space"] = OmegaConf.select(config, "schedule.name")
    renamed = {group for group in recorded if {f"{group}.name", f"{group}._target_"} & set(given)}
    return {group: option for group, option in recorded.items() if group not in renamed and option != families[group]}


def _adapt_to_target(config: DictConfig, group: str, given: Collection[str]) -> None:
    """Adapt a group to a given `_target_` that replaces the target of its option.

    This removes keys of the option that are not given. If the target is the user's and the option was not chosen, or
    the group is a schedule, it removes all of them, because they would replace defaults of the user. Otherwise it
    removes those that the target does not accept. The name becomes that of the target.
    """
    part = OmegaConf.select(config, group)
    target = part.get("_target_")
    if not isinstance(target, str):
        return  # it is refused later
    of_option = [key for key in part if key not in ("name", "_target_", *NON_ARGUMENT_KEYS[group])]
    chosen = [key for key in of_option if not any(f"{text}.".startswith(f"{group}.{key}.") for text in given)]
    is_new = is_given(target) or (target.partition(".")[0] in config.trusted and group not in given)
    if group not in SCHEDULE_GROUPS and not is_new:
        component = Component(group, target, {}, tuple(config.trusted))
        accepted = current_trainer().accepted(component, list(map(str, chosen))) if chosen else ()
        if accepted is None:  # importing the user's code raises an error, which is shown later
            return
        chosen = [key for key in chosen if str(key) not in accepted]
    for key in chosen:
        del part[key]
    if f"{group}.name" not in given:
        part.name = name_of(target) if is_given(target) else target.rpartition(".")[2]


def _complete_augment(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Complete `dataset.augment` to a mapping with all keys of its option.

    If the command line chooses the option, keys that a file has set for a different option are removed.
    """
    dataset = config.get("dataset")
    if not OmegaConf.is_dict(dataset) or OmegaConf.is_interpolation(dataset, "augment"):
        return
    part = dataset.get("augment")
    if OmegaConf.is_dict(part) and any(o.key_or_group == AUGMENT_KEY and isinstance(o.value(), str) for o in overrides):
        kept = {f"{AUGMENT_KEY}.name", *(override.key_or_group for override in overrides)}
        for key in [key for key in part if f"{AUGMENT_KEY}.{key}" not in kept]:
            del part[key]
    dataset.augment = with_defaults(OmegaConf.to_container(part, resolve=False) if OmegaConf.is_config(part) else part)


def _leaves(nested: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values that are not mappings."""
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _chosen_groups(defaults: Any) -> set[str]:
    """Return the groups whose options the defaults list of a file chooses: `override /sampler: random`."""
    entries = [entry for entry in defaults or [] if isinstance(entry, Mapping)]
    return {str(group).split()[-1].lstrip("/").partition("@")[0] for entry in entries for group in entry}


def _check_rising(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a critic's schedule whose file removes the generator's warmup, unless both warmups are given."""
    family = OmegaConf.select(config, "critic.schedule.name")
    chosen = {parse_override(text).get_key_element() for text in overrides}
    decay = DECAYS.get(str(family))
    if decay is not None and decay.warms_up and not {"warmup", "warmup@critic.warmup"} <= chosen:
        rule = "warms up by itself: add critic.warmup=none, and the warmup of the generator, warmup=linear or none"
        raise InvalidValueError("critic.schedule", family, rule)


def _declared_trust(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the packages that the command line declares as trusted; refuse a file that declares any."""
    declared: Any = []
    for override in map(parse_override, overrides):
        if override.key_or_group == "trusted":
            declared = override.value()
    if not isinstance(declared, list) or not all(_is_package(package) for package in declared):
        raise InvalidValueError("trusted", declared, "must be a list of packages: trusted=[mylab]")
    in_files = OmegaConf.to_container(OmegaConf.create({"trusted": config._get_node("trusted")}), resolve=False)
    if in_files != {"trusted": declared}:
        rule = "must be declared on the command line only"
        raise InvalidValueError("trusted", in_files["trusted"], rule)  # type: ignore[index, call-overload]
    return [str(package) for package in declared]


def _is_package(name: Any) -> bool:
    """Return whether a value is the name of a package, without interpolations."""
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _rule(key: str, value: str, config: DictConfig, error: HydraException) -> str:
    """Return why Hydra refuses an override, with the options of the group or the known keys."""
    text = str(error)
    if "Available options" in text:
        lines = text.split("Available options", 1)[1].splitlines()[1:]
        options = [line.strip() for line in lines if line.startswith("\t") and "provider=" not in line]
        near = get_close_matches(value, options, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"is not an option{hint}; {key} has {', '.join(options)}"
    parent, _, leaf = key.rpartition(".")
    if (elements := elements_of(config, parent)) is not None:
        return elements
    siblings = OmegaConf.select(config, parent) if parent else config
    if siblings is None:
        top = key.partition(".")[0]
        near = [] if _has_key(config, top) else get_close_matches(top, list(map(str, config)), n=1)
        return f"no such key (did you mean {near[0]}{key.removeprefix(top)}?)" if near else "no such key"
    if _has_key(siblings, leaf) and OmegaConf.is_missing(siblings, leaf):
        return f"must be given ({key}=...) and cannot be removed"
    if OmegaConf.is_dict(siblings) and not _has_key(siblings, leaf):
        known = [str(name) for name in siblings]
        elsewhere = [f"{name}.{leaf}" for name in map(str, config) if _has_key(config.get(name), leaf)]
        near = elsewhere if not parent and elsewhere else get_close_matches(leaf, known, n=1)
        if parent == "warmup" and known == ["name"]:
            with_warmup = ", ".join(name for name, decay in DECAYS.items() if decay.warms_up)
            return f"no such key: there is no warmup ({with_warmup} warm up by themselves); add warmup=linear"
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"no such key{hint}; {parent or 'the configuration'} has {', '.join(known)}"
    return _first_line(error)


def elements_of(config: DictConfig, key: str) -> str | None:
    """Return the rule for elements of the list at a key; None if there is no list."""
    found = OmegaConf.select(config, key) if key else None
    return (
        f"no such element; {key} has {len(found)} elements, counted from 0" if isinstance(found, ListConfig) else None
    )


def _has_key(section: Any, key: str) -> bool:
    return OmegaConf.is_dict(section) and key in section.keys()  # noqa: SIM118  # a missing value is not "in"


def resolved(config: DictConfig, group: str) -> Any:
    """Return a part of the configuration as plain data with resolved interpolations.

    Raises:
        InvalidValueError: names a key that cannot be resolved.
    """
    try:
        part = config[group]
        return OmegaConf.to_container(part, resolve=True, throw_on_missing=True) if OmegaConf.is_config(part) else part
    except MissingMandatoryValue as error:
        raise InvalidValueError(error.full_key or group, "???", "must be given") from error
    except InterpolationResolutionError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InvalidValueError):
            cause = cause.__cause__ or cause.__context__  # interpolations may be nested
        raise cause or InvalidValueError(error.full_key or group, error.value, _first_line(error)) from error
    except OmegaConfBaseException as error:
        raise InvalidValueError(error.full_key or group, error.value, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
