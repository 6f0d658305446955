"""Sweep expressions: told from plain overrides, and read as dimensions."""

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

GROUPS = ("model", "optimizer", "schedule", "warmup", "critic", "average")
"""Groups that a search may choose among, and whose keys it may draw."""
KEYS = ("train.batch_size",)
"""Further keys that a search may draw."""
REASONS = {
    "dataset": "a search works on one data set, mode=compare on several",
    "task": "trials that differ in their loss cannot be compared by it",
    "train.steps": "a schedule is judged at its own horizon, which is not searched",
    "train.seed": "the trials of a search share their seed",
    "loop": "a search works on one loop, whose keys can be searched",
    "loop.command": "its {loop.<key>} takes what is searched",
    "loop._target_": "a search works on one loop, whose keys can be searched",
    "loop.examples": "it is what lengths in epochs are made of",
}
OF_COMPARISONS = ("compare", "report", "ui")
"""Modes whose command line may be about a comparison."""
UNITS = ("fraction", "epochs")
OF_ONE_FILE = "a file in the folder schedule of --config-dir names the function of one schedule among several"


@dataclass(frozen=True)
class Request:
    """A command line, taken apart.

    Args:
        plain: overrides that Hydra composes, as they were written.
        pinned: the keys that plain overrides set.
        groups: group -> options, of choices among groups.
        sweeps: key -> override, of searched keys.
        datasets: those that are compared on, where several are given.
    """

    plain: tuple[str, ...]
    pinned: frozenset[str]
    groups: dict[str, tuple[str, ...]]
    sweeps: dict[str, Override]
    datasets: tuple[str, ...] = ()

    @property
    def first(self) -> tuple[str, ...]:
        """The plain overrides, with the first option of each group that is chosen among, or of what is compared."""
        chosen = self.groups | ({"dataset": self.datasets} if self.datasets else {})
        if self.given("mode") in OF_COMPARISONS and self.schedules and not {"schedule"} & self.keys:
            chosen |= {"schedule": self.schedules}
        return (*(f"{group}={options[0]}" for group, options in chosen.items()), *self.plain)

    @property
    def schedules(self) -> tuple[str, ...]:
        """Those of compare.schedules, as far as they are a list of names."""
        given = self.given("compare.schedules")
        value = read(f"compare.schedules={given}").value() if given else None
        return tuple(value) if isinstance(value, list) and all(isinstance(name, str) for name in value) else ()

    @property
    def searched(self) -> dict[str, str]:
        """What is searched, as it was written."""
        groups = {group: ",".join(options) for group, options in self.groups.items()}
        return groups | {key: written(override) for key, override in self.sweeps.items()}

    def given(self, key: str) -> str | None:
        """The value of a key of the command line, as it was written last; None where it is not there."""
        plain = {text.partition("=")[0].lstrip("+"): text.partition("=")[2] for text in self.plain}
        return plain.get(key, self.searched.get(key))

    @property
    def keys(self) -> set[str]:
        """All keys and groups of the command line."""
        return set(self.pinned) | set(self.searched) | ({"dataset"} if self.datasets else set())


def parse(overrides: Sequence[str]) -> Request:
    """Split overrides into plain ones and sweep expressions.

    Raises:
        InvalidValueError: names an override that cannot be read, or a key that cannot be searched.
    """
    plain, pinned = [], set()
    groups: dict[str, tuple[str, ...]] = {}
    sweeps: dict[str, Override] = {}
    datasets: tuple[str, ...] = ()
    for text in overrides:
        override = read(text)
        check_override(override)
        key = override.get_key_element()
        if not override.is_sweep_override():
            plain.append(text)
            pinned.add(override.key_or_group)
        elif key in GROUPS or key in CRITIC_GROUPS:
            groups[key] = _options(override)
        elif key == "dataset":
            datasets = _options(override)
        else:
            check_searchable(key, written(override))
            sweeps[key] = override
    for key in sweeps:
        for element in sorted(pinned | sweeps.keys()):
            if is_element(element, key):
                rule = f"is an element of {key}, which is searched: search one or the other"
                raise InvalidValueError(element, "given twice", rule)
    for key in pinned & (groups.keys() | sweeps.keys() | ({"dataset"} if datasets else set())):
        raise InvalidValueError(key, "given twice", "is either fixed or searched")
    for group in groups:
        if group in ("schedule", "critic.schedule") and f"{group}._target_" in pinned:
            rule = f"would be each of {', '.join(groups[group])}: {OF_ONE_FILE}"
            raise InvalidValueError(f"{group}._target_", "given", rule)
    return Request(tuple(plain), frozenset(pinned), groups, sweeps, datasets)


def check_searchable(key: str, expression: str) -> None:
    """Refuse a key that no search may draw.

    Raises:
        InvalidValueError: names the key, with the reason.
    """
    whole = [part.rstrip("]") for part in re.split(r"[.\[]", key)]
    of_loop = whole[0] == "loop" and len(whole) > 1 and f"loop.{whole[1]}" not in REASONS
    of_augment = f"{key}.".startswith(f"{AUGMENT_KEY}.")
    if key in KEYS or of_loop or of_augment or (whole[0] in GROUPS and "." in key):
        return
    reason = REASONS.get(".".join(whole[:2])) or REASONS.get(whole[0])
    rule = f"{reason}; " if reason else ""
    searchable = ", ".join(
        (*GROUPS, *(f"{group}.<key>" for group in (*GROUPS, "loop", AUGMENT_KEY)), AUGMENT_KEY, *KEYS)
    )
    raise InvalidValueError(key, expression, f"cannot be searched: {rule}what can be is {searchable}")


def read(text: str) -> Override:
    """Parse one override.

    Raises:
        InvalidValueError: if it is not of Hydra's grammar. The message shows the value in quotes, ready for a shell, if
            it can be read then.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, equals, value = text.partition("=")
        if not equals or text != text.strip() or key != key.strip():
            raise InvalidValueError("override", text, "must be key=value, without spaces around =") from error
        rule = f"is not an override that can be read: {str(error).splitlines()[0]}"
        quoted = f"{key}={','.join(map(_quoted, value.split(',')))}"
        if not set("[](){}") & set(value) and _is_readable(quoted):
            rule = (
                f"is not an override that can be read; text with such characters must be quoted: {shlex.quote(quoted)}"
            )
        raise InvalidValueError(key, value, rule) from error


def _quoted(element: str) -> str:
    """Return an element of a list of values in quotes, unless it can be read without."""
    return element if _is_readable(f"key={element}") else QuotedString(element, Quote.double).with_quotes()


def _is_readable(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def read_space(key: str, expression: Any) -> Override:
    """A dimension of conf/space as an override.

    Raises:
        InvalidValueError: if it is no sweep expression.
    """
    override = read(f"{key}={expression}")
    check_override(override)  # once more: what an interpolation has made of it becomes configuration
    if not override.is_sweep_override():
        raise InvalidValueError(f"space.{key}", expression, "must be a sweep expression, such as interval(0.5,0.99)")
    return override


def dimension(override: Override, config_name: Callable[[str], str], unit: Callable[[str], float]) -> Dimension:
    """The dimension of a sweep expression.

    Args:
        config_name: `schedule`, `warmup` or a piece of joined ones -> name of its family, which tells the keys that
            count updates.
        unit: updates of the horizon ("fraction") or of an epoch ("epochs").

    Raises:
        InvalidValueError: names the key and the expression that cannot be right.
    """
    key, expression, sweep = override.get_key_element(), written(override), override.value()
    if not isinstance(sweep, (ChoiceSweep, IntervalSweep, RangeSweep)) or getattr(sweep, "shuffle", False):
        raise InvalidValueError(key, expression, "must be interval(...), choice(...), range(...) or a list a,b,c")
    units = [name for name in UNITS if name in sweep.tags]
    unknown = sweep.tags - {"log", *UNITS}
    if unknown or len(units) > 1:
        raise InvalidValueError(key, expression, "knows the tags log and, one of them, fraction and epochs")
    declared = _integer_rule(key, config_name)
    if units and declared is None and _is_of_custom(key, config_name):
        declared = UpdateCount(at_least=0)  # a key of the user's counts updates if its expression says so
    if units and not isinstance(declared, UpdateCount):
        raise InvalidValueError(key, expression, f"the tag {units[0]} is for keys that count updates")
    scale = unit(units[0]) if units else None
    part_of_horizon = units == ["fraction"]
    if isinstance(sweep, ChoiceSweep):
        values = [_plain(value) for value in sweep.list or []]
        if scale is not None:
            values = [_scaled(key, expression, value, scale, part_of_horizon) for value in values]
        if "log" in sweep.tags:
            raise InvalidValueError(key, expression, "the tag log is for intervals")
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
    """Read interval(low, high), both ends included, or range(start, stop, step), stop excluded."""
    log = "log" in sweep.tags
    if isinstance(sweep, IntervalSweep):
        low, high, step = sweep.start, sweep.end, None
    else:
        low, step = sweep.start, sweep.step
        if step is None or sweep.stop is None or low is None or not step > 0:
            raise InvalidValueError(key, expression, "the step of a range must be > 0")
        if not low < sweep.stop:
            raise InvalidValueError(key, expression, f"the range is empty: {low} is not below {sweep.stop}")
        high = round(low + step * (math.ceil(round((sweep.stop - low) / step, 9)) - 1), 12)
        if log:
            raise InvalidValueError(key, expression, "the tag log is for intervals")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidValueError(key, expression, "both ends must be finite numbers")
    if not low < high and step is None:
        raise InvalidValueError(key, expression, f"the low end {low:g} must be below the high end {high:g}")
    whole_ends = isinstance(low, int) and isinstance(high, int) and isinstance(step, (int, type(None)))
    integer = declared is not None or whole_ends
    if scale is not None:
        if step is not None:
            values = [low + step * i for i in range(round((high - low) / step) + 1)]
            updates = tuple(_scaled(key, expression, value, scale, part_of_horizon) for value in values)
            return Dimension(key, expression, choices=updates)
        if log and low <= 0:
            raise InvalidValueError(key, expression, "must begin above 0, because the interval is logarithmic")
        least = math.ceil(round(low * scale, 9))  # within the parts asked for, unless they hold no whole update
        if part_of_horizon and low < 1 and _is_warmup(key):
            least = min(least, int(scale) - 1)
        low, high = least, max(least, math.floor(round(high * scale, 9)))
        log = log and low > 0
    elif integer and not all(float(end).is_integer() for end in (low, high, step or 1)):
        rule = "is an integer, and so must its ends be"
        if isinstance(declared, UpdateCount):
            rule = "counts updates: its ends must be integers; tag(fraction,...) gives parts of the horizon"
        raise InvalidValueError(key, expression, rule)
    if integer:
        return Dimension(key, expression, int(low), int(high), integer=True, log=log, step=step and int(step))
    return Dimension(key, expression, float(low), float(high), log=log, step=step and float(step))


def _integer_rule(key: str, config_name: Callable[[str], str]) -> Integer | None:
    """Return the rule of a key that is an integer; None of any other key."""
    if key in KEYS:
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
    """Return the group that a key belongs to: `schedule` also below `critic` and `optimizer.groups.<name>`."""
    own = key.removeprefix("critic.")
    within = re.match(r"optimizer\.groups\..+?\.(schedule|warmup)\.", own)
    return within[1] if within else own.partition(".")[0]


def _is_of_custom(key: str, config_name: Callable[[str], str]) -> bool:
    """Return whether a key is one of a schedule that is a function of the user's."""
    return _group_of(key) == "schedule" and config_name(_without_indexes(key)[0].rpartition(".")[0]) not in DECAYS


def _without_indexes(key: str) -> tuple[str, tuple[int, ...]]:
    """Split the key of an element of a list: `schedule.knots.1.0` -> (`schedule.knots`, (1, 0))."""
    named = re.sub(r"(\.\d+)+$", "", key)
    return named, tuple(int(index) for index in key.removeprefix(named).split(".")[1:])


def is_element(key: str, of: str) -> bool:
    """Return whether a key is an element of the list at another key: `schedule.knots.1.0` of `schedule.knots`."""
    return key.startswith(f"{of}.") and _without_indexes(key)[0] == _without_indexes(of)[0]


def _options(override: Override) -> tuple[str, ...]:
    sweep = override.value()
    if not isinstance(sweep, ChoiceSweep) or not all(isinstance(option, str) for option in sweep.list or []):
        raise InvalidValueError(override.get_key_element(), written(override), "must be a list of options: a,b,c")
    return tuple(dict.fromkeys(str(option) for option in sweep.list or []))


def written(override: Override) -> str:
    """The value of an override as the user wrote it."""
    return str(override.input_line).partition("=")[2]


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(element) for element in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(element) for key, element in value.items()}
    return value


def _scaled(key: str, expression: str, value: Any, scale: float, part_of_horizon: bool) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidValueError(key, expression, "the tags fraction and epochs need numbers")
    return whole_updates(key, value, scale, part_of_horizon=part_of_horizon)


def whole_updates(key: str, count: float, unit: float, *, part_of_horizon: bool) -> int:
    """Round count * unit updates to a whole number that is valid for the key if count is.

    A length that must be at least 1 is at least 1, and a warmup of less than the horizon is shorter than the horizon.

    Args:
        unit: updates, of the horizon (`part_of_horizon`) or of an epoch.
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
