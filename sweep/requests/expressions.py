"""Separates sweep expressions from plain overrides, and converts them to dimensions."""

import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from sweep.augmentations import AUGMENT_KEY
from sweep.errors import InvalidValueError
from sweep.requests.scan import CRITIC_GROUPS, check_override
from sweep.schedules import DECAYS, WARMUPS
from sweep.schedules.family import UpdateCount, element_of
from sweep.space import Dimension
from sweep.validation import Integer, declared_rule

SEARCHABLE_GROUPS = ("model", "optimizer", "schedule", "warmup", "critic", "average")
"""Groups whose options and keys can be searched."""
SEARCHABLE_KEYS = ("train.batch_size",)
"""Further keys that can be searched."""
REASONS_NOT_SEARCHABLE = {
    "dataset": "a search has one data set; mode=compare accepts several",
    "task": "trials with different losses cannot be ranked",
    "train.steps": "schedules are compared at the same horizon",
    "train.seed": "the trials of a search share their seed",
    "loop": "a search has one loop, whose keys can be searched",
    "loop.command": "it can use searched keys as {loop.<key>}",
    "loop._target_": "a search has one loop, whose keys can be searched",
    "loop.examples": "lengths in epochs are computed from it",
}
"""Maps groups and keys that cannot be searched to the reason."""
COMPARISON_MODES = ("compare", "report", "ui")
"""Modes that accept several data sets and compare.schedules."""
UNITS = ("fraction", "epochs")
"""Tags for the unit of a dimension that counts updates."""
ONE_SCHEDULE_FILE_HINT = (
    "to give one of several schedules a function, write a file in the folder schedule of --config-dir"
)


@dataclass(frozen=True)
class Request:
    """The overrides of a command line, separated into plain ones and sweep expressions.

    Args:
        plain: overrides that Hydra composes, as the user wrote them.
        pinned: the keys that plain overrides fix.
        groups: searched group -> options.
        sweeps: searched key -> override.
        datasets: the data sets of a comparison, if there are several.
    """

    plain: tuple[str, ...]
    pinned: frozenset[str]
    groups: dict[str, tuple[str, ...]]
    sweeps: dict[str, Override]
    datasets: tuple[str, ...] = ()

    @property
    def first(self) -> tuple[str, ...]:
        """Return the plain overrides, with the first option of each searched or compared group."""
        chosen = self.groups | ({"dataset": self.datasets} if self.datasets else {})
        if self.given("mode") in COMPARISON_MODES and self.schedules and not {"schedule"} & self.keys:
            chosen |= {"schedule": self.schedules}
        return (*(f"{group}={options[0]}" for group, options in chosen.items()), *self.plain)

    @property
    def schedules(self) -> tuple[str, ...]:
        """Return compare.schedules if it is a list of names; otherwise an empty tuple."""
        given = self.given("compare.schedules")
        value = parse_override(f"compare.schedules={given}").value() if given else None
        return tuple(value) if isinstance(value, list) and all(isinstance(name, str) for name in value) else ()

    @property
    def searched(self) -> dict[str, str]:
        """Return the searched groups and keys with their expressions as the user wrote them."""
        groups = {group: ",".join(options) for group, options in self.groups.items()}
        return groups | {key: expression_text(override) for key, override in self.sweeps.items()}

    def given(self, key: str) -> str | None:
        """Return the last value of a key as the user wrote it; None if it is not given."""
        plain = {text.partition("=")[0].lstrip("+"): text.partition("=")[2] for text in self.plain}
        return plain.get(key, self.searched.get(key))

    @property
    def keys(self) -> set[str]:
        """Return all given keys and groups."""
        return set(self.pinned) | set(self.searched) | ({"dataset"} if self.datasets else set())


def parse(overrides: Sequence[str]) -> Request:
    """Split overrides into plain ones and sweep expressions.

    Raises:
        InvalidValueError: names an override that cannot be parsed, or a key that cannot be searched.
    """
    plain, pinned = [], set()
    groups: dict[str, tuple[str, ...]] = {}
    sweeps: dict[str, Override] = {}
    datasets: tuple[str, ...] = ()
    for text in overrides:
        override = parse_override(text)
        check_override(override)
        key = override.get_key_element()
        if not override.is_sweep_override():
            plain.append(text)
            pinned.add(override.key_or_group)
        elif key in SEARCHABLE_GROUPS or key in CRITIC_GROUPS:
            groups[key] = _listed_options(override)
        elif key == "dataset":
            datasets = _listed_options(override)
        else:
            check_searchable(key, expression_text(override))
            sweeps[key] = override
    for key in sweeps:
        for element in sorted(pinned | sweeps.keys()):
            if is_element(element, key):
                rule = f"must not be given, because {key}, which contains it, is searched"
                raise InvalidValueError(element, "given", rule)
    for key in pinned & (groups.keys() | sweeps.keys() | ({"dataset"} if datasets else set())):
        raise InvalidValueError(key, "given twice", "must be either fixed or searched")
    for group in groups:
        if group in ("schedule", "critic.schedule") and f"{group}._target_" in pinned:
            rule = f"would apply to each of {', '.join(groups[group])}: {ONE_SCHEDULE_FILE_HINT}"
            raise InvalidValueError(f"{group}._target_", "given", rule)
    return Request(tuple(plain), frozenset(pinned), groups, sweeps, datasets)


def check_searchable(key: str, expression: str) -> None:
    """Refuse a key that cannot be searched.

    Raises:
        InvalidValueError: names the key, with the reason.
    """
    whole = [part.rstrip("]") for part in re.split(r"[.\[]", key)]
    of_loop = whole[0] == "loop" and len(whole) > 1 and f"loop.{whole[1]}" not in REASONS_NOT_SEARCHABLE
    of_augment = f"{key}.".startswith(f"{AUGMENT_KEY}.")
    if key in SEARCHABLE_KEYS or of_loop or of_augment or (whole[0] in SEARCHABLE_GROUPS and "." in key):
        return
    reason = REASONS_NOT_SEARCHABLE.get(".".join(whole[:2])) or REASONS_NOT_SEARCHABLE.get(whole[0])
    rule = f"{reason}; " if reason else ""
    searchable = ", ".join(
        (
            *SEARCHABLE_GROUPS,
            *(f"{group}.<key>" for group in (*SEARCHABLE_GROUPS, "loop", AUGMENT_KEY)),
            AUGMENT_KEY,
            *SEARCHABLE_KEYS,
        )
    )
    raise InvalidValueError(key, expression, f"cannot be searched: {rule}searchable are {searchable}")


def parse_override(text: str) -> Override:
    """Parse one override.

    Raises:
        InvalidValueError: if Hydra's grammar does not accept it. If quotes would help, the message shows the override
            in quotes for a shell.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, equals, value = text.partition("=")
        if not equals or text != text.strip() or key != key.strip():
            raise InvalidValueError("override", text, "must be key=value, without spaces around =") from error
        rule = f"cannot be parsed: {str(error).splitlines()[0]}"
        quoted = f"{key}={','.join(map(_quoted, value.split(',')))}"
        if not set("[](){}") & set(value) and _is_readable(quoted):
            rule = f"cannot be parsed; text with such characters must be quoted: {shlex.quote(quoted)}"
        raise InvalidValueError(key, value, rule) from error


def _quoted(element: str) -> str:
    """Return a value in quotes, unless it can be parsed without them."""
    return element if _is_readable(f"key={element}") else QuotedString(element, Quote.double).with_quotes()


def _is_readable(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def space_override(key: str, expression: Any) -> Override:
    """Return a dimension of conf/space as an override.

    Raises:
        InvalidValueError: if it is not a sweep expression.
    """
    override = parse_override(f"{key}={expression}")
    check_override(override)  # again, because interpolations may have changed it
    if not override.is_sweep_override():
        raise InvalidValueError(f"space.{key}", expression, "must be a sweep expression such as interval(0.5,0.99)")
    return override


def dimension(override: Override, config_name: Callable[[str], str], unit: Callable[[str], float]) -> Dimension:
    """Return the dimension of a sweep expression.

    Args:
        config_name: returns the name of the family at a key, `schedule`, `warmup` or a piece of joined schedules, whose
            type determines which keys count updates.
        unit: returns the updates of the horizon ("fraction") or of an epoch ("epochs").

    Raises:
        InvalidValueError: names the key and the invalid expression.
    """
    key, expression, sweep = override.get_key_element(), expression_text(override), override.value()
    if not isinstance(sweep, (ChoiceSweep, IntervalSweep, RangeSweep)) or getattr(sweep, "shuffle", False):
        raise InvalidValueError(key, expression, "must be interval(...), choice(...), range(...) or a list a,b,c")
    units = [name for name in UNITS if name in sweep.tags]
    unknown = sweep.tags - {"log", *UNITS}
    if unknown or len(units) > 1:
        raise InvalidValueError(key, expression, "must have no other tags than log and one of fraction and epochs")
    declared = _integer_rule(key, config_name)
    if units and declared is None and _is_of_custom(key, config_name):
        declared = UpdateCount(at_least=0)  # a user's key counts updates if its expression has a unit
    if units and not isinstance(declared, UpdateCount):
        raise InvalidValueError(
            key, expression, f"must not have the tag {units[0]}, which is for keys that count updates"
        )
    scale = unit(units[0]) if units else None
    part_of_horizon = units == ["fraction"]
    if isinstance(sweep, ChoiceSweep):
        values = [_unquoted(value) for value in sweep.list or []]
        if scale is not None:
            values = [_scaled(key, expression, value, scale, part_of_horizon) for value in values]
        if "log" in sweep.tags:
            raise InvalidValueError(key, expression, "must not have the tag log, which is for intervals")
        unique = dict.fromkeys((isinstance(v, bool), v) for v in values) if _hashable(values) else ()  # 1 is not true
        return Dimension(key, expression, choices=tuple(value for _, value in unique) or tuple(values))
    return _interval(key, expression, sweep, declared, scale, part_of_horizon)


def _interval(
    key: str,
    expression: str,
    sweep: IntervalSweep | RangeSweep,
    declared: Integer | None,
    scale: float | None,
    part_of_horizon: bool,
) -> Dimension:
    """Return the dimension of interval(low, high), both ends included, or range(start, stop, step), stop excluded."""
    log = "log" in sweep.tags
    if isinstance(sweep, IntervalSweep):
        low, high, step = sweep.start, sweep.end, None
    else:
        low, step = sweep.start, sweep.step
        if step is None or sweep.stop is None or low is None or not step > 0:
            raise InvalidValueError(key, expression, "must have a step > 0")
        if not low < sweep.stop:
            raise InvalidValueError(key, expression, f"must not be empty: {low} is not below {sweep.stop}")
        high = round(low + step * (math.ceil(round((sweep.stop - low) / step, 9)) - 1), 12)
        if log:
            raise InvalidValueError(key, expression, "must not have the tag log, which is for intervals")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidValueError(key, expression, "must have finite numbers as ends")
    if not low < high and step is None:
        raise InvalidValueError(key, expression, f"must have a low end, {low:g}, below the high end, {high:g}")
    whole_ends = isinstance(low, int) and isinstance(high, int) and isinstance(step, (int, type(None)))
    integer = declared is not None or whole_ends
    if scale is not None:
        if step is not None:
            values = [low + step * i for i in range(round((high - low) / step) + 1)]
            updates = tuple(_scaled(key, expression, value, scale, part_of_horizon) for value in values)
            return Dimension(key, expression, choices=updates)
        if log and low <= 0:
            raise InvalidValueError(key, expression, "must begin above 0, because the interval is logarithmic")
        least = math.ceil(round(low * scale, 9))  # within the interval, unless it contains no whole number of updates
        if part_of_horizon and low < 1 and _is_warmup(key):
            least = min(least, int(scale) - 1)
        low, high = least, max(least, math.floor(round(high * scale, 9)))
        log = log and low > 0
    elif integer and not all(float(end).is_integer() for end in (low, high, step or 1)):
        rule = "must have integers as ends, because the key is an integer"
        if isinstance(declared, UpdateCount):
            rule = "must have integers as ends, which count updates; tag(fraction,...) means fractions of the horizon"
        raise InvalidValueError(key, expression, rule)
    if integer:
        return Dimension(key, expression, int(low), int(high), integer=True, log=log, step=step and int(step))
    return Dimension(key, expression, float(low), float(high), log=log, step=step and float(step))


def _integer_rule(key: str, config_name: Callable[[str], str]) -> Integer | None:
    """Return the rule of a key that is an integer; None for any other key."""
    if key in SEARCHABLE_KEYS:
        return Integer(at_least=1)
    named, indexes = _without_indexes(key)
    part, _, leaf = named.rpartition(".")
    families: dict[str, Any] = {"schedule": DECAYS, "warmup": WARMUPS}
    group = _group_of(key)
    family = families[group].get(config_name(part)) if group in families else None
    kind = None if family is None else {field.name: field.type for field in fields(family)}.get(leaf)
    for index in indexes:
        kind = element_of(kind, index)
    rule = declared_rule(kind)
    return rule if isinstance(rule, Integer) else None


def _group_of(key: str) -> str:
    """Return the group of a key; it is `schedule` also below `critic` and `optimizer.groups.<name>`."""
    own = key.removeprefix("critic.")
    within = re.match(r"optimizer\.groups\..+?\.(schedule|warmup)\.", own)
    return within[1] if within else own.partition(".")[0]


def _is_of_custom(key: str, config_name: Callable[[str], str]) -> bool:
    """Return whether a key belongs to a schedule that is a user's function."""
    return _group_of(key) == "schedule" and config_name(_without_indexes(key)[0].rpartition(".")[0]) not in DECAYS


def _without_indexes(key: str) -> tuple[str, tuple[int, ...]]:
    """Split the key of an element of a list: `schedule.knots.1.0` becomes (`schedule.knots`, (1, 0))."""
    named = re.sub(r"(\.\d+)+$", "", key)
    return named, tuple(int(index) for index in key.removeprefix(named).split(".")[1:])


def is_element(key: str, of: str) -> bool:
    """Return whether a key is an element of the list at another key: `schedule.knots.1.0` of `schedule.knots`."""
    return key.startswith(f"{of}.") and _without_indexes(key)[0] == _without_indexes(of)[0]


def _listed_options(override: Override) -> tuple[str, ...]:
    sweep = override.value()
    if not isinstance(sweep, ChoiceSweep) or not all(isinstance(option, str) for option in sweep.list or []):
        raise InvalidValueError(
            override.get_key_element(), expression_text(override), "must be a list of options: a,b,c"
        )
    return tuple(dict.fromkeys(str(option) for option in sweep.list or []))


def expression_text(override: Override) -> str:
    """Return the value of an override as the user wrote it."""
    return str(override.input_line).partition("=")[2]


def _unquoted(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_unquoted(element) for element in value]
    if isinstance(value, dict):
        return {_unquoted(key): _unquoted(element) for key, element in value.items()}
    return value


def _scaled(key: str, expression: str, value: Any, scale: float, part_of_horizon: bool) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidValueError(key, expression, "must have numbers with the tags fraction and epochs")
    return whole_updates(key, value, scale, part_of_horizon=part_of_horizon)


def whole_updates(key: str, count: float, unit: float, *, part_of_horizon: bool) -> int:
    """Round count * unit to a whole number of updates that is valid for the key.

    A length that must be at least 1 becomes at least 1, and a warmup with count < 1 becomes shorter than the horizon.

    Args:
        unit: updates of the horizon (`part_of_horizon`) or of an epoch.
    """
    updates = round(count * unit)
    if part_of_horizon and count < 1 and _is_warmup(key):
        return min(updates, int(unit) - 1)
    return 1 if updates == 0 and count > 0 and not _may_be_zero(key) else updates


def _is_warmup(key: str) -> bool:
    """Return whether a key is the length of a warmup."""
    return key.removeprefix("critic.") == "warmup.steps"


def _may_be_zero(key: str) -> bool:
    """Return whether a key that counts updates may be 0: a warmup, a stable phase, the elements of lists."""
    return _is_warmup(key) or key.endswith((".stable_steps", "]")) or key.rpartition(".")[2].isdigit()


def _hashable(values: list[Any]) -> bool:
    return not any(isinstance(value, (list, dict)) for value in values)
