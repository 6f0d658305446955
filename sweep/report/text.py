"""Format numbers, warnings and command lines for people."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.table import Table

from sweep.augmentations import AUGMENT_KEY
from sweep.config import RunConfig
from sweep.core import Status, StudyRecord, TrialRecord
from sweep.plurals import plural
from sweep.schedules import KeyFigures, Plateau, key_figures
from sweep.targets import GIVEN_PACKAGE, name_of

WHOSE = {"": "the", "G_": "the generator's", "D_": "the critic's"}
"""Series -> the possessive of its network, for messages."""

MOST_REASONS, MOST_NUMBERS = 5, 10
"""The most reasons of failed trials that are listed, and the most trials of each."""


def number(value: Any, digits: int = 4) -> str:
    """Format a float with that many significant digits; return the text of anything else."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def measured(value: float, digits: int = 4, sign: str = "") -> str:
    """Format a metric: `0.0458`, `1.234e-05`.

    From 0.01 to 100,000, and of 0, `digits` decimals. Below, `digits` significant digits: decimals would show few of
    them or none. Above, `digits + 2` significant digits.

    Args:
        sign: "+" to show the sign of positive values too.
    """
    size = abs(value)
    if size >= 1e5:
        return f"{value:{sign}.{digits + 2}g}"
    return f"{value:{sign}.{digits}f}" if size >= 0.01 or size == 0 else f"{value:{sign}#.{digits}g}"


def column(values: Sequence[float | None], form: Callable[[float, int], str] = measured) -> list[str]:
    """Format the values of a column with the same number of digits; None as an empty cell.

    There are at least 4 digits, and as many as give different texts to values that differ in their first 6 significant
    digits.

    Args:
        form: formats a value with a number of digits.
    """
    for digits in range(4, 9):
        texts = [form(value, digits) for value in values if value is not None]
        if len(set(texts)) >= len({f"{value:.6g}" for value in values if value is not None}):
            break
    cells = iter(texts)
    return ["" if value is None else next(cells) for value in values]


def updates(count: float, decimals: int = 0) -> str:
    """Format a number of updates with these decimals; below 1 with two significant digits."""
    return f"{count:.{decimals}f}" if count >= 1 else f"{count:.2g}"


def percent(confidence: float) -> str:
    """`95 %`; `99.5 %`."""
    return f"{100 * confidence:.6g} %"


def fits(columns: Iterable[tuple[str, Sequence[str]]], width: int) -> bool:
    """Return whether a table of these headings and cells, with the box SIMPLE_HEAD, has at most `width` columns."""
    return 2 + sum(max(map(cell_len, (title, *cells))) + 3 for title, cells in columns) - 3 <= width


def shown_metrics(first: str, trials: Sequence[TrialRecord], split: str = "val") -> list[str]:
    """Return the metrics of a split that tables show, as far as they are recorded.

    Those of averaged weights are not among them.

    Args:
        first: the metric that trials are judged by.
        split: the part of the names before the underscore.
    """
    recorded = {metric for trial in trials for metric in trial.metrics}
    own = sorted(m for m in recorded if m.startswith(f"{split}_") and not m.endswith("_ema"))
    return [m for m in dict.fromkeys([first, f"{split}_loss", f"{split}_accuracy", *own]) if m in recorded]


def heading(key: str) -> str:
    """A searched key without its group: `decay_rate`, `lr`; of warmup.steps, `warmup`; a critic's as `D_lr`."""
    of_critic = key.removeprefix("critic.")
    if of_critic != key and of_critic.partition(".")[0] in ("optimizer", "schedule", "warmup"):
        return f"D_{heading(of_critic)}"
    group, _, leaf = key.partition(".")
    return group if leaf in ("", "steps") else leaf


def counts(trials: Sequence[TrialRecord]) -> str:
    """`30 trials: 27 complete, 3 diverged`."""
    by_status = Counter(trial.status for trial in trials)
    parts = [f"{by_status[status]} {status.value}" for status in Status if by_status[status]]
    parts += [f"{by_status[None]} interrupted"] if by_status[None] else []
    return f"{plural(len(trials), 'trial')}: {', '.join(parts)}" if parts else "no trials"


def failures(trials: Mapping[int, TrialRecord], noun: str = "trial") -> list[str]:
    """`trials 2, 5 failed: ZeroDivisionError: division by zero`, a line for each of the most frequent reasons.

    Args:
        trials: by the number that they are shown with; only failed ones are listed.
        noun: what the number is of.
    """
    by_reason: dict[str, list[str]] = {}
    for number, trial in trials.items():
        if trial.status is Status.FAILED:
            by_reason.setdefault(trial.reason or "no reason is recorded", []).append(str(number))
    frequent = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = []
    for reason, numbers in frequent[:MOST_REASONS]:
        shown = ", ".join(numbers[:MOST_NUMBERS]) + (", ..." if len(numbers) > MOST_NUMBERS else "")
        lines.append(f"{noun}{'s' if len(numbers) > 1 else ''} {shown} failed: {reason}")
    others = sum(len(numbers) for _, numbers in frequent[MOST_REASONS:])
    return [*lines, *([f"{others} more {noun}s failed, for other reasons"] if others else [])]


def train_command(study: StudyRecord, trial: TrialRecord) -> str:
    """Return the command line that trains a trial again, with full precision so that curve and loss are the same.

    For a study with objects that were given in Python it is a call in Python. The values that the trial drew are added
    to the command of the study. Older records do not contain them: then every searched key that the trial has is added.
    """
    if trial.values:
        drawn = [f"{key}={as_override(value, is_group(key))}" for key, value in trial.values.items()]
    else:
        recorded = {key: trial.param(key) for key in study.searched}
        drawn = [f"{key}={text}" for key, text in recorded.items() if text is not None]
    if f"._target_={GIVEN_PACKAGE}." in study.command:
        return _train_call([*shlex.split(study.command), *drawn])
    return " ".join(filter(None, ["python -m sweep mode=train", study.command, *map(shlex.quote, drawn)]))


def _train_call(texts: Sequence[str]) -> str:
    """Return the call in Python that means the same as these flags and overrides, with the names of the objects."""
    texts, keywords = list(texts), []
    if texts[:1] == ["--config-dir"]:
        keywords.append(f"config_dir={texts[1]!r}")
        del texts[:2]
    for group in ("loop", "schedule", AUGMENT_KEY, "task", "dataset", "model"):
        for text in [text for text in texts if text.startswith(f"{group}._target_={GIVEN_PACKAGE}.")]:
            texts.remove(text)
            keywords.insert(0, f"{group.rpartition('.')[2]}={name_of(text.partition('=')[2])}")
            if group == "dataset":
                texts.remove("dataset=arrays")
    return f"sweep.train([{', '.join(map(repr, texts))}], {', '.join(keywords)})"


def is_group(key: str) -> bool:
    """Return whether a searched key is that of a group, whose value is an option."""
    return "." not in key or key in ("critic.optimizer", "critic.schedule", "critic.warmup")


def as_override(value: Any, option: bool = False) -> str:
    """Return a value as Hydra reads it in an override; texts are quoted unless they are plain words.

    Args:
        option: whether the value is the option of a group, which is not quoted.
    """
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w./+-]*", value, re.ASCII)
        if option or (plain and value.lower() not in ("null", "true", "false", "nan", "inf")):
            return value
        # Hydra reads backslashes as they are, except before a quote.
        escaped = re.sub(r'(\\*)"', lambda found: 2 * found[1] + '\\"', value)
        return '"' + re.sub(r"\\+$", lambda found: 2 * found[0], escaped) + '"'
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_as_name(key)}:{as_override(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_override, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _as_name(key: Any) -> str:
    """Return a key of a mapping as Hydra reads it."""
    return re.sub(r"([\\()\[\]{}:=,\s])", r"\\\1", key) if isinstance(key, str) else json.dumps(key)


def figures_text(figures: KeyFigures) -> str:
    """Return the key figures of a curve, a line each."""
    stalls = "never" if figures.stalled_at is None else f"at step {figures.stalled_at} of {figures.horizon}"
    half_life = "none" if figures.half_life is None else f"{updates(figures.half_life, 1)} updates"
    return "\n".join(
        [
            f"peak       {figures.peak:.6g} at step {figures.peak_step}",
            f"end        {figures.end:.6g} at step {figures.horizon - 1}",
            f"half-life  {half_life}",
            f"stalls     {stalls}",
        ]
    )


def figures_table(figures: Mapping[str, KeyFigures]) -> Table:
    """Return a table of the key figures of several curves, a row each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for title in ("peak", "at step", "end", "half-life", "stalls at"):
        table.add_column(title, justify="right")
    for label, found in figures.items():
        half_life = "" if found.half_life is None else updates(found.half_life, 1)
        stalls = "" if found.stalled_at is None else str(found.stalled_at)
        table.add_row(label, number(found.peak), str(found.peak_step), number(found.end), half_life, stalls)
    return table


def warnings(config: RunConfig) -> list[str]:
    """Return warnings about a schedule that wastes its horizon: it stalls, or can never react."""
    said = [_idle_warning(config)]
    for series in config.series:
        curve, rate = series.curve(), f"{WHOSE[series.name]} learning rate"
        below = np.flatnonzero(curve < 0)
        said.append(stall_warning(key_figures(curve), rate))
        if below.size:  # as noisy_linear_cosine may be
            said.append(f"{rate} is below 0 at {below.size} of {len(curve)} steps, first at {below[0]}")
    return [text for text in said if text]


def scaling(config: RunConfig, searched: Collection[str] = ()) -> list[str]:
    """Describe what linear scaling does to the base rates; nothing if it is not used.

    Args:
        searched: keys that are drawn; for these the rule is given.
    """
    configured = {"optimizer": config.resolved["optimizer"]}
    if config.critic is not None:
        configured["critic.optimizer"] = config.resolved["critic"]["optimizer"]
    rates = zip(configured.items(), config.series, strict=True)
    said = [_scaling(key, values, series.optimizer.lr, config, searched) for (key, values), series in rates]
    return [text for text in said if text]


def _scaling(
    key: str, values: Mapping[str, Any], lr: float, config: RunConfig, searched: Collection[str]
) -> str | None:
    """Describe the scaling of the optimizer that is configured at `key` and now has the rate `lr`."""
    examples, base = config.train.batch_size, values.get("base_batch_size")
    if base is None:
        return None
    if {key, f"{key}.lr", f"{key}.base_batch_size", "train.batch_size"} & set(searched):
        base = "base_batch_size" if f"{key}.base_batch_size" in searched else base
        return f"{key}.lr is for batches of {base}: batches of train.batch_size use lr * batch_size / {base}"
    return f"{key}.lr {values['lr']:g} is for batches of {base}: batches of {examples} use {lr:g}"


def _idle_warning(config: RunConfig) -> str | None:
    """Return a warning if a plateau schedule has too few evaluations to ever reduce the rate."""
    steps, every, decay = config.train.steps, config.train.eval_every, config.decay
    if not isinstance(decay, Plateau):
        return None
    evaluations = (steps - 1) // every - min(config.warmup.steps, steps - 1) // every
    if evaluations >= decay.evaluations_needed:
        return None
    return (
        f"schedule=plateau with patience {decay.patience} needs {plural(decay.evaluations_needed, 'evaluation')} "
        f"after warmup before it can reduce the rate, and train.eval_every={every} gives {evaluations} before the last "
        "update: the rate will not change"
    )


def stall_warning(figures: KeyFigures, rate: str = "the learning rate") -> str | None:
    """Return a warning if a curve stalls long before the horizon."""
    if not figures.wasted:
        return None
    return (
        f"{rate} stalls at step {figures.stalled_at} of {figures.horizon}: "
        "from then on it is below 2^-24 of its peak, which is too small to train; use a slower decay"
    )


def param_text(trial: TrialRecord, key: str) -> str:
    """Format a configured value; a dash if there is none, and for a null that was not drawn."""
    text = trial.param(key)
    if text is None or (text == "null" and key not in trial.values):
        return "-"
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return text if value is None else number(value)
