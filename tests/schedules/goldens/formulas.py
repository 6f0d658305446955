"""The cases of goldens.json, and those that plain formulas make. Run this file after adding one to `by_formula`:

    python tests/schedules/goldens/formulas.py

It needs NumPy only, and leaves the cases that other implementations made as they are (`make.py` makes all anew).

Content of goldens.json:

- versions: the packages that made it.
- cases: one curve each. `values[s]` is the rate of update s (s = 0..steps-1) in `source`, and `overrides` is the
  command line under which this project must give the same curve. `skip` lists steps at which the original itself is
  off by rounding, `note` says why. `noise[s]` is the standard-normal draw put into the original at step s.
- plateau: `values[i]` is the rate in force after evaluation i, whose loss is `losses[i]`.

`precision` says how the original computes. float32 (TensorFlow, JAX; the values are the shortest decimals that read
back as that float32): |a - b| <= 1e-5 * |b| + 1e-6 * lr. float64 (torch, transformers, SciPy, "formula: ..."):
|a - b| <= 1e-12 * lr. A formula is written out here, in plain Python, where there is no original to install.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

GOLDENS = Path(__file__).with_name("goldens.json")
CASES: list[dict[str, Any]] = []


def text(value: Any) -> str:
    """A value as Hydra reads it on the command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(text(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{text(v)}" for k, v in value.items()) + "}"
    return str(value)


def schedule(name: str, **keys: Any) -> list[str]:
    return [f"schedule={name}", *(f"schedule.{key}={text(value)}" for key, value in keys.items())]


def warmup(name: str, steps: int, start: float = 0.0, counting: str = "prefix", inclusive: bool = False, **keys: Any):
    keys = {"steps": steps, "start_factor": start, "counting": counting, "inclusive": inclusive, **keys}
    return [f"warmup={name}", *(f"warmup.{key}={text(value)}" for key, value in keys.items())]


NO_WARMUP = ["warmup=none"]


def case(
    name: str,
    source: str,
    precision: str,
    lr: float,
    values: Sequence[Any],
    schedule: list[str],
    warmup: list[str] = NO_WARMUP,
    **extra: Any,
) -> None:
    if name in {c["name"] for c in CASES}:
        raise ValueError(f"two cases named {name}")
    rates = [float(str(np.float32(v))) if precision == "float32" else float(v) for v in values]
    if not 40 <= len(rates) <= 200 or not all(math.isfinite(rate) for rate in rates):
        raise ValueError(f"{name}: {len(rates)} values, {rates}")
    overrides = [*schedule, *warmup, f"optimizer.lr={lr}", f"train.steps={len(rates)}"]
    case = {"name": name, "source": source, "precision": precision, "lr": lr, "steps": len(rates)}
    CASES.append({**case, "overrides": overrides, **extra, "values": rates})


def formula_case(
    name: str,
    formula: str,
    lr: float,
    steps: int,
    factor: Callable[[int], float],
    schedule: list[str],
    warmup: list[str] = NO_WARMUP,
    **extra: Any,
) -> None:
    values = [lr * factor(s) for s in range(steps)]
    case(name, f"formula: {formula}", "float64", lr, values, schedule, warmup, **extra)


def by_formula() -> None:
    for beta in (0.5, 0.1, 1.0):

        def rex(s: int, beta: float = beta) -> float:
            v = min(s, 80) / 80
            return (1 - v) / (1 - v * (1 - beta))

        keys = schedule("rex", decay_steps=80, beta=beta)
        formula_case(f"rex-{beta}", "(1-v) / (1 - v*(1-beta)), v = min(s, D)/D, 2107.04197", 0.1, 100, rex, keys)
    for alpha in (0.5, 1.0, 2.0):

        def power_sqrt(s: int, alpha: float = alpha) -> float:
            v = min(s, 80) / 80
            return math.sqrt(1 - v * v) ** alpha

        keys = schedule("power_sqrt", decay_steps=80, alpha=alpha)
        formula_case(
            f"power_sqrt-{alpha}", "sqrt(1 - v^2)^alpha, v = min(s, D)/D, 2603.10301", 0.1, 100, power_sqrt, keys
        )
    for name, lb, ub, f in (("default", -7.0, 3.0, 0.0), ("short", -4.0, 4.0, 0.1)):

        def tanh(s: int, lb: float = lb, ub: float = ub, f: float = f) -> float:
            v = min(s, 80) / 80
            return f + (1 - f) * (1 - math.tanh(lb * (1 - v) + ub * v)) / 2

        formula_case(
            f"tanh-{name}",
            "f + (1-f) * (1 - tanh(lb*(1-v) + ub*v)) / 2, v = min(s, D)/D",
            0.1,
            100,
            tanh,
            schedule("tanh", decay_steps=80, lb=lb, ub=ub, end_factor=f),
            note="timm's TanhLRScheduler for s < D; from D on timm jumps to f, the formula stays at v = 1",
        )


def write(
    versions: Mapping[str, str], cases: Sequence[Mapping[str, Any]], plateau: Sequence[Mapping[str, Any]]
) -> None:
    """Write goldens.json with one line per field of a case."""
    lines = ["{", f' "versions": {json.dumps(versions)},']
    for name, listed in (("cases", cases), ("plateau", plateau)):
        lines.append(f' "{name}": [')
        for i, case in enumerate(listed):
            fields = [f"   {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in case.items()]
            lines += ["  {", ",\n".join(fields), "  }" + ("," if i < len(listed) - 1 else "")]
        lines.append(" ]" + ("," if name == "cases" else ""))
    GOLDENS.write_text("\n".join([*lines, "}", ""]), encoding="utf-8")


if __name__ == "__main__":
    by_formula()
    kept = json.loads(GOLDENS.read_text(encoding="utf-8"))
    made = {case["name"]: case for case in CASES}
    cases = [made.pop(case["name"], case) for case in kept["cases"]]
    write(kept["versions"], [*cases, *made.values()], kept["plateau"])
