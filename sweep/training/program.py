"""Runs a program of the user's that trains: hands it the curve, and reads what it records, a line of JSON at a time."""

import csv
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sweep.config import RunConfig
from sweep.errors import InvalidValueError
from sweep.training import supervisor
from sweep.training.run import Run

POLL = 0.01
"""Seconds between two looks at the file of a program that has written nothing new."""

SHOWN = 20
"""Last lines of a program's output that are shown when it fails."""

PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.]*)\}")
OWN = ("curve", "seed", "steps", "metrics", "checkpoint", "test", "device")
"""Placeholders that are no keys of the configuration."""


Line = dict[str, Any]
"""The content of a line of a program's: step, loss and lr, or step and metrics."""


class ProgramError(RuntimeError):
    """A program has failed. The first line says how, and the others are the end of its output."""


def words_of(command: Any) -> list[str]:
    """Return the words of a command, with its placeholders.

    Raises:
        InvalidValueError: names loop.command if it is neither a list of words nor a text that shlex can split.
    """
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise InvalidValueError("loop.command", command, f"cannot be split into words: {error}") from error
    elif isinstance(command, Sequence) and all(
        isinstance(word, str | int | float) and not isinstance(word, bool) for word in command
    ):
        words = [str(word) for word in command]
    else:
        words = []
    if not words:
        rule = 'must be a list of words, [python,train.py,--curve,"{curve}"], or a text that holds them'
        raise InvalidValueError("loop.command", command, rule)
    return words


def filled(words: Sequence[str], own: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the words with the values of their placeholders.

    Args:
        own: values of the placeholders OWN.
        config: the resolved configuration: {optimizer.lr} is a key of it.

    Raises:
        InvalidValueError: names loop.command if a placeholder has no value.
    """

    def value_of(found: re.Match[str]) -> str:
        name = found[1]
        value: Any = own.get(name, config)
        if name not in own:
            for key in name.split("."):
                if not isinstance(value, Mapping) or key not in value:
                    known = ", ".join(f"{{{placeholder}}}" for placeholder in OWN)
                    rule = f"has the placeholder {found[0]}, which is none of {known}, and no key of the configuration"
                    raise InvalidValueError("loop.command", " ".join(words), rule)
                value = value[key]
        return value if isinstance(value, str) else json.dumps(value)

    return [PLACEHOLDER.sub(value_of, word) for word in words]


def check_program(command: Any, config: RunConfig) -> None:
    """Refuse a command that cannot be run.

    Raises:
        InvalidValueError: names loop.command.
    """
    words = words_of(command)
    filled(words, dict.fromkeys(OWN, ""), config.resolved)
    for placeholder in ("curve", "metrics"):
        if not any(f"{{{placeholder}}}" in word for word in words):
            what = "reads the rates from" if placeholder == "curve" else "writes its losses to"
            rule = f"must have the word {{{placeholder}}}: the name of the file that the program {what}"
            raise InvalidValueError("loop.command", " ".join(words), rule)
    if PLACEHOLDER.search(words[0]):
        rule = "must name its program as it is: a value of the configuration may not be what is run"
        raise InvalidValueError("loop.command", " ".join(words), rule)
    if shutil.which(words[0]) is None:
        raise InvalidValueError("loop.command", " ".join(words), f"cannot be run: there is no program {words[0]}")


def follow(run: Run, command: Any) -> None:
    """Run the program, and record what it writes until it ends.

    Raises:
        InvalidValueError: if what it writes is wrong; names the loop.
        ProgramError: if it fails.
    """
    last = run.session.trial.last
    curve, metrics, checkpoint = run.folder / "curve.csv", run.folder / "metrics.jsonl", run.folder / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    with curve.open("w", newline="", encoding="utf-8") as file:
        rows = ((step, repr(rate)) for step, rate in enumerate(run.session.curve[:last]))
        csv.writer(file).writerows([("step", "lr"), *rows])
    earlier = _Earlier.of(metrics)
    own = {
        "curve": str(curve), "metrics": str(metrics), "checkpoint": str(checkpoint), "seed": run.seed, "steps": last,
        "test": run.test, "device": str(run.device),
    }  # fmt: skip
    words = filled(words_of(command), own, run.config)
    with _started(words, run.folder / "output.txt") as program, metrics.open("rb") as file:
        lines = _Lines(run, file, program, earlier)
        for step in run.steps():
            row, evaluations = lines.of(step)
            if row is None:
                break
            run.record(row["loss"], row["lr"])
            for measured in evaluations:
                run.evaluate(**measured)
            run.checkpoint(dict)


@dataclass
class _Earlier:
    """What earlier attempts have written, the last of them first.

    A program that resumes from a checkpoint of its own may do so after the last state that was kept of the trial.

    Args:
        rows: by step.
        evaluations: metrics by completed updates.
    """

    rows: dict[int, Line] = field(default_factory=dict)
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Path) -> "_Earlier":
        """Read them, and begin a new file of lines."""
        kept = metrics.with_name("earlier.jsonl")
        if metrics.exists():
            whole = metrics.read_bytes().rpartition(b"\n")
            with kept.open("ab") as file:
                file.write(whole[0] + whole[1])
        metrics.write_bytes(b"")
        earlier = cls()
        for line in kept.read_bytes().splitlines() if kept.exists() else []:
            with suppress(ValueError, KeyError, TypeError):  # what is wrong was refused when it was new
                content = json.loads(line)
                step = content["step"]
                if "loss" in content:
                    earlier.rows[step] = content
                else:
                    earlier.evaluations[step] = earlier.evaluations.get(step, {}) | _metrics(content)
        return earlier


class _Lines:
    """The lines that a program writes, checked and put in order.

    Args:
        file: to which it appends them.
        earlier: what stands for the lines of steps before the one that the program resumes at.
    """

    def __init__(self, run: Run, file: BinaryIO, program: "_Program", earlier: _Earlier) -> None:
        self._run, self._file, self._program, self._earlier = run, file, program, earlier
        self._rest, self._number = b"", 0
        self._ahead: Line | None = None
        """A line that was read and belongs to a later step."""
        self._first: int | None = None
        """The first step that this attempt has written."""
        self._next = 0
        """The step whose loss this attempt has to write next."""
        self._evaluated = -1
        """Completed updates of the last evaluation that it has written."""

    def of(self, step: int) -> tuple[Line | None, list[dict[str, float]]]:
        """Return the loss and the evaluations of a step; None for the loss if the trial is stopped.

        Raises:
            InvalidValueError: if a line is wrong, or lines are missing.
            ProgramError: if the program has failed.
        """
        row: Line | None = None
        evaluations: list[dict[str, float]] = []
        last, due = step + 1 == self._run.session.trial.last, self._run.evaluating(step)
        while (line := self._peek()) is not None:
            if line["step"] > (step if "loss" in line else step + 1):
                break
            self._ahead = None
            if "loss" in line and line["step"] == step:
                row = line
                if not math.isfinite(row["loss"]):
                    return row, []
            elif "loss" not in line and line["step"] == step + 1:
                evaluations.append(_metrics(line))
            if row is not None and not last and (evaluations or not due):
                break
        if line is None and self._run.session.stopped:
            return None, []
        if line is None and self._program.status:
            raise self._program.failure()
        if row is None and (self._first is None or self._first > step):
            row = self._earlier.rows.get(step)
        if row is None and line is None:
            raise self._run.session.refuse(f"the program has ended with status 0 and has not recorded step {step}")
        if row is None:
            raise self._refused(f"begins with step {self._first}, and step {step} is to be recorded next")
        if not evaluations and (self._first is None or step < self._first):
            evaluations = [metrics for updates, metrics in self._earlier.evaluations.items() if updates == step + 1]
        return row, evaluations

    def _peek(self) -> Line | None:
        """Return the next line, which stays the next; wait for it. None if the program has ended, or is stopped."""
        if self._ahead is None:
            self._ahead = self._read()
            if self._ahead is not None:
                self._check_order(self._ahead["step"], recorded="loss" in self._ahead)
        return self._ahead

    def _check_order(self, step: int, recorded: bool) -> None:
        """Refuse a line that is not where it belongs.

        Args:
            step: of the line.
            recorded: whether it is the record of an update, and not an evaluation.
        """
        if recorded:
            if self._first is None:
                self._first = self._next = step
            if step < self._next:
                raise self._refused(f"records step {step} twice")
            if step > self._next:
                raise self._refused(f"skips step {self._next}")
            self._next += 1
        elif self._first is not None:  # what it evaluates before its first update belongs to an earlier attempt
            if step != self._next:
                raise self._refused(f"evaluates after {step} updates when it has recorded {self._next}")
            if step == self._evaluated and step != self._run.session.trial.last:
                raise self._refused(f"evaluates twice after {step} updates: one line has all metrics")
            self._evaluated = step

    def _read(self) -> Line | None:
        """Read a line; wait until it is whole, or the program has ended."""
        while True:
            ended = self._program.ended  # before reading: what it wrote before it ended is read below
            self._rest += self._file.readline()
            if self._rest.endswith(b"\n") or (ended and self._rest.strip()):
                line, self._rest = self._rest, b""
                self._number += 1
                if line.strip():
                    return self._parsed(line)
            elif ended:
                return None
            else:
                if not self._run.session.wait():
                    return None
                time.sleep(POLL)

    def _parsed(self, line: bytes) -> Line:
        """Return the content of a line.

        Raises:
            InvalidValueError: if it is no JSON object with step, loss and lr, or with step and metrics.
            ProgramError: if the program has failed while it wrote the line.
        """
        expected = 'must be {"step": 0, "loss": 0.5, "lr": 0.1} or {"step": 10, "val_loss": 0.5}'
        try:
            content: Any = json.loads(line)
        except ValueError as error:
            if self._program.ended and self._program.status:
                raise self._program.failure() from error
            raise self._refused(f"has written no JSON: {self._shown(line)}; it {expected}") from error
        if not isinstance(content, dict):
            raise self._refused(f"has written {self._shown(line)}, which {expected}")
        step = content.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise self._refused(f"has written {self._shown(line)}, which {expected}")
        for name, value in content.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self._refused(f"has written {self._shown(line)}: {name} must be a number")
        if "loss" in content and step >= self._run.session.trial.last:
            raise self._refused(f"records step {step}, beyond the last")
        if "loss" in content and "lr" not in content:
            raise self._refused(f"records step {step} without lr, the rate that it used, which is checked")
        if unknown := [name for name in content if "loss" in content and name not in ("step", "loss", "lr")]:
            raise self._refused(f"has written {self._shown(line)}: {unknown[0]} belongs into a line of its own")
        if "loss" not in content and len(content) == 1:
            raise self._refused(f"has written {self._shown(line)}, which {expected}")
        if "loss" not in content and not self._run.session.due(step):
            every = f"train.eval_every={self._run.session.trial.config.train.eval_every}"
            raise self._refused(f"evaluates after {step} updates, where no evaluation is due ({every})")
        return content

    @staticmethod
    def _shown(line: bytes) -> str:
        text = "".join(c if c.isprintable() else "?" for c in line.decode(errors="replace").strip())
        return text if len(text) <= 100 else f"{text[:100]}..."

    def _refused(self, rule: str) -> InvalidValueError:
        where = f" (line {self._number} of {{metrics}})" if self._number else ""
        return self._run.session.refuse(f"the program {rule}{where}")


def _metrics(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "step"}


class _Program:
    """A program that runs below its supervisor."""

    def __init__(self, words: Sequence[str], output: Path) -> None:
        self._words, self._output = words, output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, *words],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def status(self) -> int | None:
        """Its exit status, of one that has ended."""
        return self._process.returncode

    def failure(self) -> ProgramError:
        """Return the error of a program that has ended with another status than 0."""
        with self._output.open("rb") as file:
            file.seek(max(self._output.stat().st_size - 20_000, 0))
            lines = file.read().decode(errors="replace").splitlines()[-SHOWN:]
        told = next((line.strip() for line in reversed(lines) if line.strip()), "")
        status = self._process.returncode
        how = f"was ended by signal {status - 128}" if 128 < status < 160 else f"ended with status {status}"
        first = f"the program {self._words[0]} {how}" + (f": {told}" if told else ", and has printed nothing")
        shown = ["its last lines:", *(f"  {line}" for line in lines)] if len(lines) > 1 else []
        return ProgramError("\n".join([first, *shown]))

    def end(self) -> None:
        """End it with all its processes, unless they have ended: first with SIGTERM, then with SIGKILL."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(supervisor.GRACE + 5)
        except subprocess.TimeoutExpired:  # it is stopped, or cannot end what is in the kernel
            self._process.kill()
            self._process.wait()


@contextmanager
def _started(words: Sequence[str], output: Path) -> Iterator[_Program]:
    """Run a program for as long as the context lasts."""
    program = _Program(words, output)
    try:
        yield program
    finally:
        program.end()
