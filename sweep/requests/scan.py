"""Checks the files of --config-dir, and overrides, before Hydra reads them.

What a configuration says about the node `hydra` makes Hydra import, log, set the environment and search before any code
of ours runs. So the files and overrides of a command may not say anything about it. The `_target_` of a component is
checked where it is used, after all interpolations (`sweep.components.locate`). Each check raises an InvalidValueError
that names the key, the value and the rule.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from omegaconf import DictConfig, OmegaConf

from sweep.errors import InvalidValueError
from sweep.loops import COMMAND_TARGET
from sweep.passwords import hide

MAX_FILE_BYTES = 2**20
MAX_DEPTH = 50
"""Levels of lists and mappings within each other."""
MAX_FILES = 1000
"""YAML files below --config-dir."""

CRITIC_GROUPS = tuple(f"critic.{group}" for group in ("optimizer", "schedule", "warmup"))
"""The keys that choose options for the critic of a GAN."""

RESOLVERS = frozenset({"fraction", "epochs", "remaining", "warmup_steps", "unless_half_life", "objective", "now"})
"""The resolvers of this package, and the time of day. They disclose nothing of the machine or the environment."""
MAY_HOLD_A_PASSWORD = ("tracking.uri", "study.storage")
"""Keys that are neither recorded nor shown as they are, so that their values may come from the environment."""
WRITTEN_TO = ("report.dir", "preview.path", "train.checkpoint_dir", "train.save", *MAY_HOLD_A_PASSWORD)
"""Keys that name what is written to."""
OF_HYDRA = {("job", "name"), ("help", "app_name"), ("help", "header"), ("help", "footer"), ("help", "template")}
"""Keys below `hydra` that a file may have: conf/config.yaml has them."""

OPTION = re.compile(r"/?\w[\w.+-]*(/\w[\w.+-]*)*")
"""A configuration file: a path below the searched folders, no part of which begins with a dot."""
GROUP = re.compile(r"(optional |override )*/?\w[\w.-]*(/\w[\w.-]*)*(@[\w.-]*(:[\w.-]*)?)?")
INTERPOLATION = re.compile(r"\$\{([^:{}$]*)(.?)", re.DOTALL)
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env:\s*(\w+)\s*(,[^${}]*)?\}")
SQLITE_FILE = re.compile(r"sqlite:///([^/?#:%][^?#:%]*)")
"""The URI of a SQLite file with a relative path and no parameters."""

HYDRA_RULE = "configures Hydra itself; a file may set only hydra.job.name and the texts of hydra.help"


def check_files(folder: Path) -> None:
    """Refuse a folder with a YAML file that would make Hydra do more than compose, whether the file is used or not."""
    root = folder.resolve()
    for number, path in enumerate(_yaml_files(root)):
        if number == MAX_FILES:
            raise InvalidValueError("--config-dir", folder, f"has more than {MAX_FILES} YAML files")
        relative = path.relative_to(root)
        if "hydra" in (*relative.parts[:-1], relative.stem):
            raise InvalidValueError("--config-dir", folder, f"has {relative}, which {HYDRA_RULE}")
        _check_file(str(folder / relative), path)


def check_name(name: str) -> None:
    """Refuse a primary configuration that is not below the searched folders."""
    if not OPTION.fullmatch(name) or name.startswith("/"):
        raise InvalidValueError("--config-name", name, "must be the name of a file in --config-dir or conf")


def check_override(override: Override) -> None:
    """Refuse an override that configures Hydra, names a file outside the searched folders, or reads the environment."""
    key, package = override.key_or_group, override.package or ""
    given = str(override.input_line).partition("=")[2]
    if _names_hydra(f"{key}@{package}"):
        raise InvalidValueError(key, given, "configures Hydra itself; no override may do so")
    value = _plain(override.value())
    if package or "/" in key or "." not in key or key in CRITIC_GROUPS:
        options = value if isinstance(value, list) else [value]
        for option in _texts([option for option in options if not isinstance(option, Mapping)]):
            _check_option(key, option)
    for text in (given, *_texts(value)):
        if key in MAY_HOLD_A_PASSWORD:
            for name, _ in ENVIRONMENT.findall(text):
                hide(os.environ.get(name, ""))
            text = ENVIRONMENT.sub("", text)
        _check_interpolations(key, text)


def check_words(words: Sequence[str]) -> None:
    """Refuse a command line that configures Hydra. It is still being typed, so that its words may be no overrides."""
    for word in words:
        key, _, value = word.partition("=")
        if _names_hydra(key.lstrip("+~\"'")):
            raise InvalidValueError(key, value, "configures Hydra itself")


def check_command(config: DictConfig, given: Mapping[str, Any]) -> None:
    """Refuse a program to run, loop.command, that is not given on the command line.

    Where the loop is a function of a trusted package, `loop.command` is a key of that function and may have any value.

    Args:
        given: keys and values of the command line.
    """
    if OmegaConf.is_interpolation(config, "loop"):
        raise InvalidValueError("loop", "an interpolation", "must be written out")
    loop: Any = OmegaConf.to_container(OmegaConf.create({"loop": config._get_node("loop")}), resolve=False)
    keys = loop["loop"] if isinstance(loop["loop"], Mapping) else {}
    command, target = keys.get("command", "???"), keys.get("_target_")
    if command == "???" or (isinstance(target, str) and "${" not in target and target != COMMAND_TARGET):
        return
    asked = _plain(given.get("loop.command"))
    if command != asked:
        rule = "is a program that will run on this machine, so it must be given on the command line: loop.command=[...]"
        raise InvalidValueError("loop.command", _brief(command), rule)
    if any("${" in text for text in _texts(asked)):
        rule = "names keys as {optimizer.lr}, not as ${optimizer.lr}"
        raise InvalidValueError("loop.command", _brief(command), rule)


def check_places(config: DictConfig, given: Mapping[str, str]) -> None:
    """Refuse files of --config-dir that write or send to a place that the command line does not name.

    Paths and SQLite files below the working directory are allowed.

    Args:
        given: keys and values of the command line.
    """
    for key in WRITTEN_TO:
        if key in given and "${" not in ENVIRONMENT.sub("", given[key]):  # an interpolation may lead into a file
            continue
        rule = f"with --config-dir, only the command line may set {key} to another place"
        section, _, leaf = key.partition(".")
        if OmegaConf.is_interpolation(config, section) or OmegaConf.is_interpolation(config.get(section), leaf):
            raise InvalidValueError(key, "an interpolation", f"must be written out; {rule}")
        value = path = OmegaConf.select(config, key)
        if key in MAY_HOLD_A_PASSWORD:
            uri = SQLITE_FILE.fullmatch(str(value))
            path = uri and uri[1]
        inside = isinstance(path, str) and Path(expanduser(path)).resolve().is_relative_to(Path.cwd().resolve())
        if value is not None and not inside:
            raise InvalidValueError(key, value, f"is not below the working directory; {rule}")


def _names_hydra(text: str) -> bool:
    """Return whether a part of a key, group or package is `hydra`."""
    return "hydra" in re.split(r"[\s./@:]", text)


def _yaml_files(root: Path) -> Iterator[Path]:
    """Yield the YAML files that Hydra could open: those in no hidden folder. Refuse a link that leads outside."""
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found = [name for name in sorted(files) if name.lower().endswith((".yaml", ".yml")) and name[0] != "."]
        for path in (Path(place, name) for name in (*folders, *found)):
            if path.is_symlink():
                target = path.resolve()
                if not target.is_relative_to(root) or any(p[0] == "." for p in target.relative_to(root).parts):
                    raise InvalidValueError("--config-dir", path, "is a link that leads outside the folder")
        yield from (Path(place, name) for name in found)


def _check_file(name: str, path: Path) -> None:
    text, content = _load(name, path)
    for line in text.splitlines():
        header = re.match(r"[\s#]*@package\s+(\S+)", line)
        if header and (_names_hydra(header[1]) or not re.fullmatch(r"[\w.-]+", header[1])):
            raise InvalidValueError(f"{name}: @package", header[1], HYDRA_RULE)
    for keys, value in _walk(content):
        key = f"{name}: {'.'.join(keys)}"
        if keys and re.split(r"[./@:]", keys[-1])[0] == "hydra" and not (len(keys) == 1 and _is_harmless(value)):
            raise InvalidValueError(key, _brief(value), HYDRA_RULE)
        for found in (value, *keys[-1:]):
            if isinstance(found, str):
                _check_interpolations(key, found)
    _check_defaults(f"{name}: defaults", content.get("defaults"))


def _load(name: str, path: Path) -> tuple[str, dict[Any, Any]]:
    """Return the text and the content of a YAML file.

    A tag that would create an object is refused. Aliases and deep nesting are refused before anything is built: a few
    lines of aliases can expand to gigabytes.
    """

    def refused(rule: str) -> InvalidValueError:
        return InvalidValueError("--config-dir", name, rule)

    if not path.is_file():
        raise refused("is not a regular file")
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise refused(f"is larger than {MAX_FILE_BYTES} bytes")
    depth = 0
    try:
        text = raw.decode("utf-8")
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise refused("has an alias (*name); an interpolation does the same: ${train.steps}")
            if depth > MAX_DEPTH:
                raise refused(f"is nested more than {MAX_DEPTH} deep")
        content = yaml.safe_load(text)
    except InvalidValueError:
        raise
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        TypeError,
        OverflowError,
    ) as error:  # such as a date of month 13
        reason = " ".join(str(error).split()) if isinstance(error, yaml.YAMLError) else type(error).__name__
        raise refused(f"is no plain YAML: {reason}") from error
    if not isinstance(content, dict | None):
        raise refused("must be a mapping of keys to values")
    return text, content or {}


def _walk(content: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every node with the keys that lead to it."""
    left: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while left:
        path, node = left.pop()
        yield path, node
        if isinstance(node, Mapping):
            left += [((*path, str(key)), inner) for key, inner in node.items()]
        elif isinstance(node, (list, tuple, set)):
            left += [((*path, str(index)), inner) for index, inner in enumerate(node)]


def _is_harmless(node: Any) -> bool:
    """Return whether the node `hydra` has only the name of the program and its help, as in conf/config.yaml."""
    for keys, value in _walk(node):
        if len(keys) == 2:
            harmless = (
                keys in OF_HYDRA and isinstance(value, str) and (keys[0] == "help" or re.fullmatch(r"\w+", value))
            )
        else:
            harmless = isinstance(value, Mapping) and keys in ((), ("job",), ("help",))
        if not harmless:
            return False
    return True


def _check_defaults(key: str, entries: Any) -> None:
    """Refuse a defaults list that names a file outside the searched folders.

    Args:
        key: of the list, for messages.
    """
    if entries is not None and not isinstance(entries, list):
        raise InvalidValueError(key, _brief(entries), "must be a list")
    for entry in entries or []:
        for group, options in entry.items() if isinstance(entry, Mapping) else [(None, entry)]:
            if group is not None and not GROUP.fullmatch(str(group)):
                raise InvalidValueError(key, _brief(group), "must name a group of configuration")
            texts = [
                option for option in (options if isinstance(options, list) else [options]) if isinstance(option, str)
            ]
            if any(map(_names_hydra, [str(group), *texts])):
                raise InvalidValueError(key, _brief(entry), HYDRA_RULE)
            for option in texts:
                if group is not None:
                    _check_option(f"{key}: {group}", option)
                    continue
                option, _, package = option.partition("@")  # `- optimizer/adam@_global_` includes its package
                _check_option(key, option, rooted=True)
                if not re.fullmatch(r"[\w.-]*", package):
                    raise InvalidValueError(key, _brief(entry), HYDRA_RULE)


def _check_option(key: str, option: str, *, rooted: bool = False) -> None:
    """Refuse an option that is not a file below the searched folders.

    Args:
        option: its name. An interpolation in it is the option of another group, which is checked where it is given.
        rooted: whether the name may begin with `/`.
    """
    if not OPTION.fullmatch(re.sub(r"\$\{[\w./@]+\}", "option", option)) or (option.startswith("/") and not rooted):
        rule = "must be the name of an option: a path without .. below the folders of configuration"
        raise InvalidValueError(key, _brief(option), rule)


def _check_interpolations(key: str, text: str) -> None:
    """Refuse interpolations other than plain keys and the allowed resolvers, also where they are escaped.

    A name that is itself an interpolation is refused, because its value is not known yet. So is one of a key that may
    hold a password, because the value would be recorded.
    """
    for name, end in INTERPOLATION.findall(text):
        named = name.strip()
        if end == ":" and named not in RESOLVERS:
            allowed = f"a configuration may use the resolvers {', '.join(sorted(RESOLVERS))}"
            if named == "oc.env":
                allowed = f"only {' and '.join(MAY_HOLD_A_PASSWORD)} on the command line may, as all else is recorded"
            rule = f"reads {named or 'a computed name'}; {allowed}"
            raise InvalidValueError(key, _brief(text), rule)
        if end != ":" and (end != "}" or not re.fullmatch(r"\.*\w[\w./@\[\]-]*", named)):
            raise InvalidValueError(key, _brief(text), "must name a key or a resolver directly: ${train.steps}")
        if end == "}" and re.split(r"[.\[\]]+", named.rstrip("]"))[-1] in ("uri", "storage", "tracking", "study"):
            raise InvalidValueError(key, _brief(text), f"would record {named}, which may hold a password")


def _plain(value: Any) -> Any:
    """Return the value of an override without Hydra's own types: texts, numbers, lists and mappings."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, ChoiceSweep):
        value = value.list
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a plain value, and the keys of its mappings."""
    for _, node in _walk(value):
        if isinstance(node, str):
            yield node
        elif isinstance(node, Mapping):
            yield from map(str, node)


def _brief(value: Any) -> str:
    """Return a value for a message: one line, at most 100 characters, without characters that control a terminal."""
    text = " ".join(str(value).split())
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
