"""Run a command line."""

import argparse
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType

from sweep import forking
from sweep.cli.exits import DONE, INTERRUPTED, REFUSED
from sweep.errors import InvalidValueError
from sweep.output import protect
from sweep.passwords import without_passwords
from sweep.requests.command import Command
from sweep.requests.compose import Composer
from sweep.requests.current_trainer import started_trainer
from sweep.requests.expressions import COMPARISON_MODES, check_searchable, parse
from sweep.requests.information import answer
from sweep.requests.resolvers import register_resolvers
from sweep.requests.spaces import check_alone
from sweep.terminal.interrupt import ending_at_signals, ignore_signals
from sweep.validation import check_one_of

MODES = {
    "search": "trainings", "train": "trainings", "compare": "trainings", "preview": "preview", "report": "records",
    "ui": "records",
    "sync": "records",
}  # fmt: skip
"""Mode -> the module of this package that has a function of that name. Each imports what its modes need."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    0: done. 1: failed. 2: the request cannot be carried out. 130: interrupted, with the work saved. Output that cannot
    be written does not change the status.
    """
    protect()
    if argv is None:
        gc.set_threshold(10_000)  # imports create hardly any garbage; collecting it takes a fifth of their time
    try:
        return _main(list(sys.argv[1:] if argv is None else argv), ends_process=argv is None)
    finally:
        if argv is None:
            ignore_signals()  # all work is done; a signal must not change the exit status
            gc.freeze()  # otherwise Python spends a second on a garbage collection before it exits


def _main(arguments: list[str], ends_process: bool) -> int:
    os.umask(0o077)  # only their owner can read records, checkpoints and reports
    sys.excepthook = _without_passwords
    register_resolvers()
    flags, overrides, information = _split(arguments)
    try:
        _import_from_here(trusting=any(text.lstrip("+").startswith("trusted=") for text in overrides))
        composer = Composer(flags.config_dir, flags.config_name)
        with started_trainer():
            if information:
                return DONE if answer(information, composer, overrides) else REFUSED
            command = Command(composer, parse(overrides), _given(flags))
            with ending_at_signals(ignored_after=ends_process):  # also while the trainer is closed
                return _carry_out(command)
    except InvalidValueError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("sweep: interrupted; run the same command to resume", file=sys.stderr)
        return INTERRUPTED


def _carry_out(command: Command) -> int:
    try:
        return _in_mode(command)
    except InvalidValueError:
        raise
    except Exception as error:
        from sweep.cli.failures import explained

        told = explained(error)
        if told is None:
            raise
        print(f"sweep: {told[0]}", file=sys.stderr)
        return told[1]


def _in_mode(command: Command) -> int:
    mode = command.compose().get("mode")
    check_one_of("mode", mode, MODES)
    datasets = command.request.datasets
    if datasets and mode not in COMPARISON_MODES:
        check_searchable("dataset", ",".join(datasets))
    check_alone(command.composer, command.request, mode)  # before starting processes and imports that take seconds
    if mode in ("search", "train", "compare"):
        forking.prepare()
    if sys.stdout.isatty():
        print("starting ...", flush=True)
    return int(getattr(import_module(f"sweep.cli.{MODES[mode]}"), mode)(command))


def _split(arguments: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Split arguments into flags that name configuration files, overrides, and Hydra's flags for information."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-name", "-cn", default="config")
    flags, rest = parser.parse_known_args(arguments)
    information, overrides = [], []
    takes_value = False
    for argument in rest:
        if takes_value or argument.startswith("-"):
            takes_value = argument in ("--cfg", "-c", "--package", "-p", "--info", "-i", "--shell-completion", "-sc")
            information.append(argument)
        else:
            overrides.append(argument)
    return flags, overrides, information


def _without_passwords(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unexpected error as Python does, without passwords."""
    sys.stderr.write(without_passwords("".join(traceback.format_exception(kind, error, trace))))


def _given(flags: argparse.Namespace) -> tuple[str, ...]:
    given = ["--config-dir", flags.config_dir] if flags.config_dir else []
    return (*given, *(["--config-name", flags.config_name] if flags.config_name != "config" else []))


def _import_from_here(trusting: bool) -> None:
    """Let packages of the user be imported from the working directory, if the command line trusts a package.

    The directory comes last in sys.path, so that a folder named models replaces no installed package. Without trust it
    is left out: otherwise a module beside a configuration could replace one that is not installed.
    """
    sys.modules.setdefault("hydra_plugins", None)  # type: ignore[arg-type]  # Hydra would import all plug-ins
    here = os.getcwd()
    if here == str(Path(__file__).parents[2]):
        return  # a clone, whose own packages are here
    if sys.path and sys.path[0] in ("", here):
        del sys.path[0]  # where `python -m` puts it
    if trusting and here not in sys.path:
        sys.path.append(here)
