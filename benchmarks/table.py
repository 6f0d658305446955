"""Defines figures, their tables, and the files that store them."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
BUSY = ", beside a busy process"
"""Suffix of a machine's name in results that were measured beside a busy process."""


def measured_commit() -> str:
    """Return the measured commit, with -dirty if the working tree has changes."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


@dataclass(frozen=True)
class Figure:
    """The result of one measure.

    Args:
        key: name for `--only`.
        measure: description of what is measured and compared.
        value: the measured value.
        target: the value to reach.
        unit: "x" (a ratio), "%", or any other unit, such as "rows/s".
        at_most: whether the value must be below the target, instead of at least the target.
        startup: time for start-up and compilation, if it is not part of the value.
        detail: the measurements from which the value is computed.
        commit, date, torch: those of the measurement.
    """

    key: str
    measure: str
    value: float
    target: float
    unit: str = "x"
    at_most: bool = False
    startup: str = ""
    detail: str = ""
    commit: str = field(default_factory=measured_commit)
    date: str = field(default_factory=lambda: date.today().isoformat())
    torch: str = str(torch.__version__)

    @property
    def ok(self) -> bool:
        return self.value < self.target if self.at_most else self.value >= self.target

    @property
    def reached(self) -> str:
        return f"{number(self.value)}{self._suffix}"

    @property
    def to_reach(self) -> str:
        return f"{'<' if self.at_most else '≥'} {self.target:,g}{self._suffix}"

    @property
    def verdict(self) -> str:
        return "ok" if self.ok else "short"

    @property
    def _suffix(self) -> str:
        return self.unit if self.unit == "x" else f" {self.unit}"


def number(value: float) -> str:
    """Return a number with three significant digits and commas for thousands: 0.934, 12.3, 123,000."""
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def render(figures: Sequence[Figure]) -> str:
    """Return a Markdown table with all columns."""
    head = ["measure", "reached", "to reach", "", "start-up and compiling", "measured", "commit"]
    rows = [[f.measure, f.reached, f.to_reach, f.verdict, f.startup, f.detail, f.commit] for f in figures]
    return _markdown(head, rows)


def render_short(figures: Sequence[Figure], busy: Sequence[Figure] = ()) -> str:
    """Return the Markdown table for benchmarks/README.md.

    Args:
        busy: figures of the same machine beside a busy process, which get a column if there are any.
    """
    beside = {figure.key: figure.reached for figure in busy}
    head = ["measure", "reached", *(["beside a busy process"] if beside else []), "to reach", "start-up and compiling"]
    rows = [
        [f.measure, f"**{f.reached}**", *([beside.get(f.key, "-")] if beside else []), f.to_reach, f.startup]
        for f in figures
    ]
    return _markdown(head, rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def cpu() -> str:
    """Return model and number of cores: AMD EPYC, 2 cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu_model()}, {cores} cores"


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", information.read_text()) if information.exists() else None
    return named[1].strip() if named else platform.processor() or platform.machine()


def slug(machine: str) -> str:
    """Return the name of a machine's files: amd-epyc-2-cores."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")


def save(machine: str, figures: Sequence[Figure], order: Sequence[str], folder: Path = RESULTS) -> Path:
    """Store the figures of a machine, replacing those of the same measures; return the path of the Markdown file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{slug(machine)}.md"
    earlier = _read(path.with_suffix(".json"))[1] if path.with_suffix(".json").exists() else []
    by_key = {figure.key: figure for figure in [*earlier, *figures]}
    kept = [by_key[key] for key in order if key in by_key]
    content = {"machine": machine, "figures": [asdict(figure) for figure in kept]}
    path.with_suffix(".json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    latest = max(kept, key=lambda figure: figure.date)
    title = f"# {machine}\n\n{latest.date}, torch {latest.torch}, Python {platform.python_version()}\n\n"
    path.write_text(title + render(kept))
    return path


def _read(path: Path) -> tuple[str, list[Figure]]:
    content = json.loads(path.read_text())
    return content["machine"], [Figure(**figure) for figure in content["figures"]]


def refresh(page: Path, folder: Path = RESULTS) -> None:
    """Write the stored figures of all machines between the markers of a page.

    Raises:
        ValueError: if the page does not have both markers.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no {BEGIN} ... {END}")
    machines = dict(_read(path) for path in sorted(folder.glob("*.json")))
    tables = [
        f"{machine}:\n\n{render_short(figures, machines.get(machine + BUSY, ()))}"
        for machine, figures in machines.items()
        if not machine.endswith(BUSY)
    ]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(tables) + f"{END}{after}")
