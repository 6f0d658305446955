"""From arguments to an exit status."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from sweep import forking
from sweep.cli.compose import Composer, register_resolvers
from sweep.cli.expressions import OF_COMPARISONS, Request, check_searchable, parse
from sweep.cli.interrupt import ending_at_signals
from sweep.validation import InvalidValueError, one_of

MODES = ("search", "train", "compare", "preview", "report", "ui")
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Command:
    """A command line, ready to be carried out.

    Args:
        composer: with the configuration folder of the command line.
        request: its overrides, taken apart.
        flags: --config-dir and --config-name as they were given, for command lines that repeat this one.
    """

    composer: Composer
    request: Request
    flags: tuple[str, ...]

    def compose(self) -> DictConfig:
        """The configuration; of a choice among groups, that of the first options."""
        return self.composer.compose(self.request.first)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; the exit status.

    0: done. 1: failed. 2: a request that cannot be carried out. 130: interrupted, the work saved.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    register_resolvers()
    _import_from_here()
    flags, overrides, information = _split(arguments)
    try:
        if information:
            return _inform(information, flags, overrides)
        command = Command(Composer(flags.config_dir, flags.config_name), parse(overrides), _given(flags))
        with ending_at_signals():
            return _carry_out(command)
    except InvalidValueError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("sweep: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _carry_out(command: Command) -> int:
    mode = command.compose().get("mode")
    one_of("mode", mode, MODES)
    datasets = command.request.datasets
    if datasets and mode not in OF_COMPARISONS:
        check_searchable("dataset", ",".join(datasets))
    if mode in ("search", "compare"):
        forking.prepare()
    if sys.stdout.isatty():
        print("starting ...", flush=True)  # the imports take seconds
    from sweep.cli import failures, modes  # import torch, mlflow and optuna, which --help and --cfg do without

    try:
        return int(getattr(modes, mode)(command))
    except Exception as error:
        told = failures.explained(error)
        if told is None:
            raise
        print(f"sweep: {told}", file=sys.stderr)
        return FAILED


def _split(arguments: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Where configuration is found, the overrides, and Hydra's flags that ask for information."""
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


def _inform(information: list[str], flags: argparse.Namespace, overrides: list[str]) -> int:
    """Let Hydra answer --help, --cfg, --info and tab completion. Sweep expressions are no part of a configuration."""
    import hydra

    asks = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
    given = {flag.partition("=")[0] for flag in information}
    if not asks & given or given & {"--multirun", "-m", "--run", "-r"}:
        rule = "no such flag; sweep expressions search without --multirun, and Hydra's --help, --cfg, --info work"
        raise InvalidValueError(information[0], "given", rule)
    composer = Composer(flags.config_dir, flags.config_name)
    if {"--shell-completion", "-sc"} & set(information):
        plain = overrides
    else:
        plain = list(parse(overrides).first)
        composer.compose(plain)  # refuses what Hydra would end with status 1
    primary, search_path = composer.places
    sys.argv = ["sweep", *information, *search_path, *plain]
    try:
        hydra.main(config_path=primary, config_name=flags.config_name, version_base="1.3")(_nothing)()
    except SystemExit as end:
        return REFUSED if end.code else DONE
    return DONE


def _nothing(config: object) -> None:
    """What Hydra would run; the flags given above never do."""


def _given(flags: argparse.Namespace) -> tuple[str, ...]:
    given = ["--config-dir", flags.config_dir] if flags.config_dir else []
    return (*given, *(["--config-name", flags.config_name] if flags.config_name != "config" else []))


def _import_from_here() -> None:
    """The console script finds a user's packages as `python -m sweep` does: in the working directory."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # behind our own packages, which a folder named models must not replace
