"""Answers Hydra's flags that print information: --help, --cfg, --info and tab completion."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import hydra

from sweep.errors import InvalidValueError
from sweep.passwords import without_passwords
from sweep.requests.compose import Composer
from sweep.requests.expressions import parse
from sweep.requests.scan import check_words

INFORMATION_FLAGS = frozenset(
    ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
)
"""Hydra's flags that print information. Other flags run a job, read a pickle, or change the configuration folder."""
DETAIL_FLAGS = frozenset(("--resolve", "--package", "-p"))
"""Flags that may accompany them."""


def answer(information: Sequence[str], composer: Composer, overrides: Sequence[str]) -> bool:
    """Let Hydra answer --help, --cfg, --info and tab completion, for a configuration without the sweep expressions.

    Args:
        information: the flags, with their values.

    Returns:
        Whether Hydra could answer.

    Raises:
        InvalidValueError: names an invalid flag or override.
    """
    given = {flag.partition("=")[0] for flag in information if flag.startswith("-")}
    if not INFORMATION_FLAGS & given or given - INFORMATION_FLAGS - DETAIL_FLAGS:
        rule = "no such flag; sweep expressions search without --multirun, and Hydra's --help, --cfg, --info work"
        raise InvalidValueError(information[0], "given", rule)
    if {"--shell-completion", "-sc"} & set(information):
        plain = list(overrides)
        check_words([*overrides, *os.environ.get("COMP_LINE", "").split()])  # Hydra composes these words unchanged
    elif not overrides and composer.config_dir is None and composer.config_name == "config":
        plain = []  # conf is valid, and to check that would double the time
    else:
        asked = parse(overrides).first
        composer.compose(asked)  # refuses errors for which Hydra would exit with status 1
        plain = list(composer.for_hydra(asked))
    primary, search_path = composer.places
    sys.argv = ["sweep", *information, *search_path, *plain]
    try:
        with _shown_without_passwords():
            hydra.main(config_path=primary, config_name=composer.config_name, version_base="1.3")(_do_nothing)()
    except SystemExit as end:
        return not end.code
    return True


def _do_nothing(config: object) -> None:
    """Stand in for the job of Hydra, which these flags do not run."""


@contextmanager
def _shown_without_passwords() -> Iterator[None]:
    """Hide passwords in what Hydra prints within the context."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        sys.stdout.write(without_passwords(out.getvalue()))
        sys.stderr.write(without_passwords(err.getvalue()))
