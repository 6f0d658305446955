"""Run a user's training program: write the curve for it, and read the JSON lines that it records."""

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

POLL_SECONDS = 0.01
"""Seconds between two reads of a file to which the program has appended nothing."""

OUTPUT_LINES_SHOWN = 20
"""Number of last lines of a program's output that are shown if it fails."""

PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.]*)\}")
OWN_PLACEHOLDERS = ("curve", "seed", "steps", "metrics", "checkpoint", "test", "device")
"""Placeholders that are not keys of the configuration."""

Line = dict[str, Any]
"""The content of a line that a program writes: step, loss and lr, or step and metrics."""


class ProgramError(RuntimeError):
    """Raised if a program fails. The first line describes the failure, the others are the end of the output."""


def split_command(command: Any) -> list[str]:
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
        rule = 'must be a list of words, [python,train.py,--curve,"{curve}"], or a text that contains them'
        raise InvalidValueError("loop.command", command, rule)
    return words


def fill_placeholders(words: Sequence[str], own: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the words with their placeholders replaced by values.

    Args:
        own: values of OWN_PLACEHOLDERS.
        config: the resolved configuration, whose keys are placeholders such as {optimizer.lr}.

    Raises:
        InvalidValueError: names loop.command if a placeholder has no value.
    """

    def value_of(found: re.Match[str]) -> str:
        name = found[1]
        value: Any = own.get(name, config)
        if name not in own:
            for key in name.split("."):
                if not isinstance(value, Mapping) or key not in value:
                    known = ", ".join(f"{{{placeholder}}}" for placeholder in OWN_PLACEHOLDERS)
                    rule = f"has the placeholder {found[0]}, which is neither {known} nor a key of the configuration"
                    raise InvalidValueError("loop.command", " ".join(words), rule)
                value = value[key]
        return value if isinstance(value, str) else json.dumps(value)

    return [PLACEHOLDER.sub(value_of, word) for word in words]


def check_program(command: Any, config: RunConfig) -> None:
    """Refuse a command that cannot be run.

    Raises:
        InvalidValueError: names loop.command.
    """
    words = split_command(command)
    fill_placeholders(words, dict.fromkeys(OWN_PLACEHOLDERS, ""), config.resolved)
    for placeholder in ("curve", "metrics"):
        if not any(f"{{{placeholder}}}" in word for word in words):
            what = "reads the rates from" if placeholder == "curve" else "writes its losses to"
            rule = f"must contain {{{placeholder}}}, the name of the file that the program {what}"
            raise InvalidValueError("loop.command", " ".join(words), rule)
    if PLACEHOLDER.search(words[0]):
        rule = "must name its program without placeholders: a configuration value must not select the program"
        raise InvalidValueError("loop.command", " ".join(words), rule)
    if shutil.which(words[0]) is None:
        raise InvalidValueError("loop.command", " ".join(words), f"cannot be run: there is no program {words[0]}")


def run_program(run: Run, command: Any) -> None:
    """Run the program, and record the lines that it writes until it ends.

    Raises:
        InvalidValueError: names the loop if the program writes a wrong line.
        ProgramError: if the program fails.
    """
    last = run.session.trial.last
    curve, metrics, checkpoint = run.folder / "curve.csv", run.folder / "metrics.jsonl", run.folder / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    with curve.open("w", newline="", encoding="utf-8") as file:
        rows = ((step, repr(rate)) for step, rate in enumerate(run.session.curve[:last]))
        csv.writer(file).writerows([("step", "lr"), *rows])
    earlier = _EarlierAttempts.of(metrics)
    own = {
        "curve": str(curve), "metrics": str(metrics), "checkpoint": str(checkpoint), "seed": run.seed, "steps": last,
        "test": run.test, "device": str(run.device),
    }  # fmt: skip
    words = fill_placeholders(split_command(command), own, run.config)
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
class _EarlierAttempts:
    """Contains the lines of earlier attempts at this trial. Lines of later attempts replace those of earlier ones.

    They are needed because a program may resume from its own checkpoint, at a later step than the trial's last state.

    Args:
        rows: step -> line.
        evaluations: completed updates -> metrics.
    """

    rows: dict[int, Line] = field(default_factory=dict)
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Path) -> "_EarlierAttempts":
        """Read the lines, and start an empty file for the next attempt."""
        kept = metrics.with_name("earlier.jsonl")
        if metrics.exists():
            whole = metrics.read_bytes().rpartition(b"\n")
            with kept.open("ab") as file:
                file.write(whole[0] + whole[1])
        metrics.write_bytes(b"")
        earlier = cls()
        for line in kept.read_bytes().splitlines() if kept.exists() else []:
            with suppress(ValueError, KeyError, TypeError):  # wrong lines were refused when they were new
                content = json.loads(line)
                step = content["step"]
                if "loss" in content:
                    earlier.rows[step] = content
                else:
                    earlier.evaluations[step] = earlier.evaluations.get(step, {}) | _metrics(content)
        return earlier


class _Lines:
    """Reads the lines that a program writes, and checks their content and order.

    Args:
        file: the file to which the program appends its lines.
        earlier: provides the lines of the steps before the one at which the program resumes.
    """

    def __init__(self, run: Run, file: BinaryIO, program: "_Program", earlier: _EarlierAttempts) -> None:
        self._run, self._file, self._program, self._earlier = run, file, program, earlier
        self._rest, self._number = b"", 0
        self._ahead: Line | None = None
        """A line that was read already and belongs to a later step."""
        self._first: int | None = None
        """The first step that this attempt has recorded."""
        self._next = 0
        """The step that this attempt has to record next."""
        self._evaluated = -1
        """Completed updates of the last evaluation that this attempt has written."""

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
        """Wait for the next line, and return it without consuming it; None if the program has ended or is stopped."""
        if self._ahead is None:
            self._ahead = self._read()
            if self._ahead is not None:
                self._check_order(self._ahead["step"], recorded="loss" in self._ahead)
        return self._ahead

    def _check_order(self, step: int, recorded: bool) -> None:
        """Refuse a line that is not in order.

        Args:
            step: the step of the line.
            recorded: whether the line records an update; otherwise it is an evaluation.
        """
        if recorded:
            if self._first is None:
                self._first = self._next = step
            if step < self._next:
                raise self._refused(f"records step {step} twice")
            if step > self._next:
                raise self._refused(f"skips step {self._next}")
            self._next += 1
        elif self._first is not None:  # evaluations before the first update belong to an earlier attempt
            if step != self._next:
                raise self._refused(f"evaluates after {step} updates, but has recorded {self._next}")
            if step == self._evaluated and step != self._run.session.trial.last:
                raise self._refused(f"evaluates twice after {step} updates: all metrics belong in one line")
            self._evaluated = step

    def _read(self) -> Line | None:
        """Read a line. Wait until it is complete or the program has ended."""
        while True:
            ended = self._program.ended  # before reading, so that the read below sees everything
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
                time.sleep(POLL_SECONDS)

    def _parsed(self, line: bytes) -> Line:
        """Return the content of a line.

        Raises:
            InvalidValueError: if it is not a JSON object with step, loss and lr, or with step and metrics.
            ProgramError: if the program failed while it was writing the line.
        """
        expected = 'must be {"step": 0, "loss": 0.5, "lr": 0.1} or {"step": 10, "val_loss": 0.5}'
        try:
            content: Any = json.loads(line)
        except ValueError as error:
            if self._program.ended and self._program.status:
                raise self._program.failure() from error
            raise self._refused(f"has written a line that is not JSON: {self._shown(line)}; it {expected}") from error
        if not isinstance(content, dict):
            raise self._refused(f"has written {self._shown(line)}, which {expected}")
        step = content.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise self._refused(f"has written {self._shown(line)}, which {expected}")
        for name, value in content.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self._refused(f"has written {self._shown(line)}: {name} must be a number")
        if "loss" in content and step >= self._run.session.trial.last:
            raise self._refused(f"records step {step}, which is after the last step")
        if "loss" in content and "lr" not in content:
            raise self._refused(f"records step {step} without lr, the rate that it used")
        if unknown := [name for name in content if "loss" in content and name not in ("step", "loss", "lr")]:
            raise self._refused(f"has written {self._shown(line)}: {unknown[0]} belongs in a separate line")
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
    """A running program, which is a child process of its supervisor."""

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
        """Return the exit status of the program, once `ended` is true; otherwise None."""
        return self._process.returncode

    def failure(self) -> ProgramError:
        """Return the error that describes a program whose exit status is not 0."""
        with self._output.open("rb") as file:
            file.seek(max(self._output.stat().st_size - 20_000, 0))
            lines = file.read().decode(errors="replace").splitlines()[-OUTPUT_LINES_SHOWN:]
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        status = self._process.returncode
        how = f"was ended by signal {status - 128}" if 128 < status < 160 else f"ended with status {status}"
        first = f"the program {self._words[0]} {how}" + (f": {last}" if last else " and printed nothing")
        shown = ["the last lines of its output:", *(f"  {line}" for line in lines)] if len(lines) > 1 else []
        return ProgramError("\n".join([first, *shown]))

    def end(self) -> None:
        """End the program and its child processes: first with SIGTERM, then with SIGKILL."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(supervisor.TERMINATION_SECONDS + 5)
        except subprocess.TimeoutExpired:  # the supervisor is stopped, or a process hangs in the kernel
            self._process.kill()
            self._process.wait()


@contextmanager
def _started(words: Sequence[str], output: Path) -> Iterator[_Program]:
    """Run a program within a context, and end it afterwards."""
    program = _Program(words, output)
    try:
        yield program
    finally:
        program.end()
