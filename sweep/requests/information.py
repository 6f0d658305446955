"""Answer Hydra's flags that ask for information: --help, --cfg, --info and tab completion."""

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

ASKS = frozenset(
    ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
)
"""Hydra's flags that ask for information. Its others run, read a pickle, or look for configuration elsewhere."""
DETAILS = frozenset(("--resolve", "--package", "-p"))
"""What may stand beside them."""


def answer(information: Sequence[str], composer: Composer, overrides: Sequence[str]) -> bool:
    """Let Hydra answer --help, --cfg, --info and tab completion. Sweep expressions are no part of a configuration.

    Args:
        information: the flags, with their values.

    Returns:
        Whether Hydra could answer.

    Raises:
        InvalidValueError: names a flag or an override that cannot be right.
    """
    given = {flag.partition("=")[0] for flag in information if flag.startswith("-")}
    if not ASKS & given or given - ASKS - DETAILS:
        rule = "no such flag; sweep expressions search without --multirun, and Hydra's --help, --cfg, --info work"
        raise InvalidValueError(information[0], "given", rule)
    if {"--shell-completion", "-sc"} & set(information):
        plain = list(overrides)
        check_words([*overrides, *os.environ.get("COMP_LINE", "").split()])  # which Hydra composes as they are
    elif not overrides and composer.config_dir is None and composer.config_name == "config":
        plain = []  # our own configuration can be composed, and composing it to make sure would double the time
    else:
        asked = parse(overrides).first
        composer.compose(asked)  # refuses what Hydra would end with status 1
        plain = list(composer.for_hydra(asked))
    primary, search_path = composer.places
    sys.argv = ["sweep", *information, *search_path, *plain]
    try:
        with _shown_without_passwords():
            hydra.main(config_path=primary, config_name=composer.config_name, version_base="1.3")(_nothing)()
    except SystemExit as end:
        return not end.code
    return True


def _nothing(config: object) -> None:
    """What Hydra would run; the flags given above never do."""


@contextmanager
def _shown_without_passwords() -> Iterator[None]:
    """What Hydra prints of a configuration, with the passwords of URIs hidden."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        sys.stdout.write(without_passwords(out.getvalue()))
        sys.stderr.write(without_passwords(err.getvalue()))
