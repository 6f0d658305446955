"""What comes from elsewhere, read before Hydra acts on it: the files of --config-dir, and overrides.

Hydra imports, logs, sets the environment and searches where the node `hydra` of a configuration says, before a line of
ours runs. So nothing from elsewhere may say anything about it. What is built of a configuration is another matter: a
`_target_` is checked where it is used, after every interpolation (`sweep.components.locate`).
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

LARGEST = 2**20
"""Bytes of a file."""
DEEPEST = 50
"""Lists and mappings within each other."""
MOST_FILES = 1000
"""YAML files below --config-dir."""

CRITIC_GROUPS = tuple(f"critic.{group}" for group in ("optimizer", "schedule", "warmup"))
"""Groups that a GAN's critic has options of, by the keys that choose them."""

RESOLVERS = frozenset({"fraction", "epochs", "remaining", "warmup_steps", "unless_half_life", "objective", "now"})
"""Our own, and the time of day: what gives neither a part of this machine nor of the text it stands in."""
MAY_HOLD_A_PASSWORD = ("tracking.uri", "study.storage")
"""What is neither recorded nor shown as it is, so that it may come from the environment."""
PLACES = ("report.dir", "preview.path", "train.checkpoint_dir", "train.save", *MAY_HOLD_A_PASSWORD)
"""Where is written."""

OPTION = re.compile(r"/?\w[\w.+-]*(/\w[\w.+-]*)*")
"""A file of configuration: a path below the folders that are searched, no part of which begins with a dot."""
GROUP = re.compile(r"(optional |override )*/?\w[\w.-]*(/\w[\w.-]*)*(@[\w.-]*(:[\w.-]*)?)?")
INTERPOLATION = re.compile(r"\$\{([^:{}$]*)(.?)", re.DOTALL)
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env:\s*(\w+)\s*(,[^${}]*)?\}")
LOCAL = re.compile(r"sqlite:///([^/?#:%][^?#:%]*)")
"""A SQLite file that is named by a relative path, and nothing else about it."""

OURS = "is Hydra's own, which imports, logs and searches as it says; of it a file may have job.name and help alone"


def check_files(folder: Path) -> None:
    """Refuse a folder whose YAML files would have Hydra do more than compose. Every file counts, used or not.

    Raises:
        InvalidValueError: names file, key, value and rule.
    """
    root = folder.resolve()
    for number, path in enumerate(_yaml_files(root)):
        if number == MOST_FILES:
            raise InvalidValueError("--config-dir", folder, f"has more than {MOST_FILES} YAML files")
        relative = path.relative_to(root)
        if "hydra" in (*relative.parts[:-1], relative.stem):
            raise InvalidValueError("--config-dir", folder, f"has {relative}: what is named hydra {OURS}")
        _check_file(str(folder / relative), path)


def check_name(name: str) -> None:
    """Refuse a primary configuration that is not below the folders that are searched."""
    if not name or not OPTION.fullmatch(name) or "$" in name or name.startswith("/"):
        raise InvalidValueError("--config-name", name, "must be the name of a file in --config-dir or conf")


def check_override(override: Override) -> None:
    """Refuse an override that is about Hydra, leads outside, or reads what it may not.

    Raises:
        InvalidValueError: names key, value and rule.
    """
    key, package = override.key_or_group, override.package or ""
    given = str(override.input_line).partition("=")[2]
    if "hydra" in re.split(r"[./@:]", f"{key}@{package}"):
        raise InvalidValueError(key, given, "is Hydra's own; what it does here is not for a command line to say")
    value = override.value()
    if package or "/" in key or "." not in key or key in CRITIC_GROUPS:
        options = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
        for option in _texts([option for option in options or [] if not isinstance(option, Mapping)]):
            _check_option(key, option)
    for text in (given, *_texts(value)):
        if key in MAY_HOLD_A_PASSWORD:
            for name, _ in ENVIRONMENT.findall(text):
                hide(os.environ.get(name, ""))
            text = ENVIRONMENT.sub("", text)
        _check_interpolations(key, text)


def check_words(words: Sequence[str]) -> None:
    """Refuse what is about Hydra on a line that is still being typed, and so may be no overrides yet."""
    for word in words:
        if "hydra" in re.split(r"[./@:]", word.lstrip("+~\"'").partition("=")[0]):
            raise InvalidValueError(word.partition("=")[0], word.partition("=")[2], "is Hydra's own")


def check_command(config: DictConfig, given: Mapping[str, Any]) -> None:
    """Refuse a program to run, loop.command, that the command line does not name.

    `loop.command` may be anything where it is a key of a function in a trusted package.

    Args:
        given: keys and values of the command line.

    Raises:
        InvalidValueError: names loop or loop.command.
    """
    rule = "is a program that will run on this machine, which the command line alone names: loop.command=[...]"
    if OmegaConf.is_interpolation(config, "loop"):
        raise InvalidValueError("loop", "an interpolation", "must be written out")
    loop: Any = OmegaConf.to_container(OmegaConf.create({"loop": config._get_node("loop")}), resolve=False)
    keys = loop["loop"] if isinstance(loop["loop"], Mapping) else {}
    held, target = keys.get("command", "???"), keys.get("_target_")
    if held == "???" or (isinstance(target, str) and "${" not in target and target != COMMAND_TARGET):
        return
    asked = _plain(given.get("loop.command"))
    if held != asked:
        raise InvalidValueError("loop.command", _brief(held), rule)
    if any("${" in text for text in _texts(given["loop.command"])):
        raise InvalidValueError("loop.command", _brief(held), "names keys as {optimizer.lr}, not as ${optimizer.lr}")


def _plain(value: Any) -> Any:
    """Return the value of an override without Hydra's marks of quotes."""
    if isinstance(value, QuotedString):
        return value.text
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def check_places(config: DictConfig, given: Mapping[str, str]) -> None:
    """Refuse files from elsewhere that say to write or send where this command line does not.

    Args:
        given: keys and values of the command line.

    Raises:
        InvalidValueError: names the key, unless it is a path or a SQLite file below the working directory.
    """
    for key in PLACES:
        section, _, leaf = key.partition(".")
        said = ENVIRONMENT.sub("", given.get(key, "${"))
        if "${" not in said:  # or else a file may say what it leads to
            continue
        if OmegaConf.is_interpolation(config, section) or OmegaConf.is_interpolation(config.get(section), leaf):
            raise InvalidValueError(key, "an interpolation", f"must be written out; {_elsewhere(key)}")
        _check_place(key, OmegaConf.select(config, key))


def _check_place(key: str, value: Any) -> None:
    path = value
    if key in MAY_HOLD_A_PASSWORD:
        local = LOCAL.fullmatch(str(value))
        path = local[1] if local else None
    inside = isinstance(path, str) and Path(expanduser(path)).resolve().is_relative_to(Path.cwd().resolve())
    if value is not None and not inside:
        raise InvalidValueError(key, value, f"is not below the working directory; {_elsewhere(key)}")


def _elsewhere(key: str) -> str:
    return f"with --config-dir, {key} leads elsewhere only if the command line says so"


def _yaml_files(root: Path) -> Iterator[Path]:
    """Those that Hydra could open: none in hidden folders, which no option can name. Links may not lead out."""
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *files):
            path = Path(place, name)
            if (name in folders or _is_yaml(name)) and path.is_symlink() and not _below(path.resolve(), root):
                raise InvalidValueError("--config-dir", path, "is a link that leads outside the folder")
        yield from (Path(place, name) for name in sorted(files) if _is_yaml(name))


def _is_yaml(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml")) and not name.startswith(".")


def _below(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) and not any(part.startswith(".") for part in path.relative_to(root).parts)


def _check_file(name: str, path: Path) -> None:
    text = _text(name, path)
    for line in text.splitlines():
        header = re.match(r"[\s#]*@package\s+(\S+)", line)
        if header and ("hydra" in re.split(r"[./@]", header[1]) or not re.fullmatch(r"[\w.-]+", header[1])):
            raise InvalidValueError(f"{name}: @package", header[1], OURS)
    content = _content(name, text)
    for keys, value in _walk(content):
        key = f"{name}: {'.'.join(keys)}"
        if keys and re.split(r"[./@:]", keys[-1])[0] == "hydra" and not (len(keys) == 1 and _is_harmless(value)):
            raise InvalidValueError(key, _brief(value), OURS)
        if isinstance(value, str):
            _check_interpolations(key, value)
        if keys:
            _check_interpolations(key, keys[-1])
    _check_defaults(name, content.get("defaults"))


def _text(name: str, path: Path) -> str:
    """What a file says, if it is one that a person may have written."""
    if not path.is_file():
        raise InvalidValueError("--config-dir", name, "is no regular file")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise InvalidValueError("--config-dir", name, f"is larger than {LARGEST} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidValueError("--config-dir", name, f"is no UTF-8 text: {error.reason}") from error


def _content(name: str, text: str) -> dict[Any, Any]:
    """Plain data: a tag that would make an object is refused, not followed."""
    try:
        _check_events(name, text)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        rule = f"is no plain YAML: {' '.join(str(error).split())}"
        raise InvalidValueError("--config-dir", name, rule) from error
    except InvalidValueError:
        raise
    except (RecursionError, ValueError, TypeError, OverflowError) as error:  # depth, dates and numbers that are none
        raise InvalidValueError("--config-dir", name, f"is no plain YAML: {type(error).__name__}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidValueError("--config-dir", name, "must be a mapping of keys to values")
    return content


def _check_events(name: str, text: str) -> None:
    """Refuse what takes long to read before it is read: a few lines of aliases are gigabytes, deep lists hours."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            rule = "has an alias (*name); an interpolation says the same: ${train.steps}"
            raise InvalidValueError("--config-dir", name, rule)
        if depth > DEEPEST:
            raise InvalidValueError("--config-dir", name, f"is nested more than {DEEPEST} deep")


def _walk(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every node with the keys that lead to it."""
    left = [(keys, content)]
    while left:
        path, node = left.pop()
        yield path, node
        if isinstance(node, Mapping):
            left += [((*path, str(key)), inner) for key, inner in node.items()]
        elif isinstance(node, (list, tuple, set)):
            left += [((*path, str(index)), inner) for index, inner in enumerate(node)]


def _is_harmless(node: Any) -> bool:
    """Whether a node `hydra` says what conf/config.yaml says of it: the name of the program, and its help."""
    if not isinstance(node, Mapping) or not node.keys() <= {"job", "help"}:
        return False
    job, texts = node.get("job") or {}, node.get("help") or {}
    named = (
        isinstance(job, Mapping) and job.keys() <= {"name"} and all(re.fullmatch(r"\w+", str(n)) for n in job.values())
    )
    helped = isinstance(texts, Mapping) and texts.keys() <= {"app_name", "header", "footer", "template"}
    return named and helped and all(isinstance(text, str) for text in texts.values())


def _check_defaults(name: str, entries: Any) -> None:
    """Refuse a defaults list that names what is not below the folders that are searched."""
    if entries is not None and not isinstance(entries, list):
        raise InvalidValueError(f"{name}: defaults", _brief(entries), "must be a list")
    for entry in entries or []:
        for group, options in entry.items() if isinstance(entry, Mapping) else [(None, entry)]:
            key = f"{name}: defaults"
            if group is not None and not GROUP.fullmatch(str(group)):
                raise InvalidValueError(key, _brief(group), "must name a group of configuration")
            if "hydra" in re.split(r"[\s./@:]", str(group)):
                raise InvalidValueError(key, _brief(entry), OURS)
            for option in options if isinstance(options, list) else [options]:
                if isinstance(option, str):  # `- optimizer/adam@_global_` has its package with it
                    text, _, package = option.partition("@") if group is None else (option, "", "")
                    _check_option(f"{key}: {group}" if group else key, text, rooted=group is None)
                    if "hydra" in re.split(r"[\s./@:]", f"{package}/{text}") or not re.fullmatch(r"[\w.-]*", package):
                        raise InvalidValueError(key, _brief(entry), OURS)


def _check_option(key: str, option: str, *, rooted: bool = False) -> None:
    """Refuse an option that is no file below the folders that are searched; `/` begins them where it is `rooted`.

    An interpolation in it is the option of another group, which is checked where it is given.
    """
    if not OPTION.fullmatch(re.sub(r"\$\{[\w./@]+\}", "option", option)) or (option.startswith("/") and not rooted):
        rule = "must be the name of an option: a path without .. below the folders of configuration"
        raise InvalidValueError(key, _brief(option), rule)


def _check_interpolations(key: str, text: str) -> None:
    """Refuse an interpolation of anything but plain keys and our own resolvers, escaped ones too.

    A name that is itself made by an interpolation cannot be known here; one that would put a URI where it is recorded
    would show its password.
    """
    for name, end in INTERPOLATION.findall(text):
        named = name.strip()
        if end == ":" and named not in RESOLVERS:
            allowed = ", ".join(sorted(RESOLVERS))
            rule = f"reads {named or 'what it makes up'}; a configuration may use the resolvers {allowed}"
            if named == "oc.env":
                rule = f"reads the environment: that is for {' and '.join(MAY_HOLD_A_PASSWORD)} on the command line"
                rule += ", as everything else is recorded"
            raise InvalidValueError(key, _brief(text), rule)
        if end != ":" and (end != "}" or not re.fullmatch(r"\.*\w[\w./@\[\]-]*", named)):
            raise InvalidValueError(key, _brief(text), "must name a key or a resolver as they are: ${train.steps}")
        if end == "}" and re.split(r"[.\[\]]+", named.rstrip("]"))[-1] in ("uri", "storage", "tracking", "study"):
            raise InvalidValueError(key, _brief(text), f"would record {named}, which may hold a password")


def _texts(value: Any) -> Iterator[str]:
    """All text in the value of an override."""
    for _, node in _walk(value.list if isinstance(value, ChoiceSweep) else value):
        if isinstance(node, QuotedString):
            yield node.text
        elif isinstance(node, str):
            yield node
        elif isinstance(node, Mapping):
            yield from (key.text if isinstance(key, QuotedString) else str(key) for key in node)


def _brief(value: Any) -> str:
    """A value of someone else's in a message: on one line, not for long, nothing that a terminal would act on."""
    text = " ".join(str(value).split())
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
