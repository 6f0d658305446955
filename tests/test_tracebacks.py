"""Tests errors of the user's code, in one line and with the user's stack frames."""

import sys
import textwrap

import pytest
import torch

from sweep.errors import InvalidValueError
from sweep.tracebacks import MAX_FRAMES, MAX_LINE_CHARACTERS, refusal, summary, user_frames, user_traceback

SOURCE = """
    import json

    import numpy as np
    import torch
    from torch import nn


    class OwnError(Exception):
        def __init__(self, code, text):
            super().__init__(text)


    class Unspeakable(Exception):
        def __str__(self):
            raise RuntimeError


    class Net(nn.Module):
        def forward(self, x):
            return self.inner(x)

        def inner(self, x):
            return x @ torch.zeros(3, 3)


    def net():
        return Net()(torch.zeros(2, 2))


    def array():
        return np.zeros(3).reshape(2, 2)


    def library():
        return json.loads("{")


    def raising(error):
        raise error


    def endless(n):
        return endless(n + 1)


    def chained():
        try:
            {}["width"]
        except KeyError as error:
            raise RuntimeError("no width") from error


    def hidden():
        try:
            {}["width"]
        except KeyError:
            raise RuntimeError("no width") from None
"""


def at(source, function):
    """Return file and number of a line of the module."""
    lines = [line.strip() for line in SOURCE.splitlines()]
    return f"mylab_errors.py:{lines.index(source) + 1} in {function}"


NET = {
    "net": "return Net()(torch.zeros(2, 2))",
    "forward": "return self.inner(x)",
    "inner": "return x @ torch.zeros(3, 3)",
}
CAUSE = '{}["width"]'
RAISED = at("raise error", "raising")


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    """Create a user's module in the working directory."""
    (tmp_path / "mylab_errors.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("mylab_errors")
    del sys.modules["mylab_errors"]


def raised(function, *arguments):
    try:
        function(*arguments)
    except BaseException as error:
        error.__traceback__ = error.__traceback__.tb_next  # without the frame of this test
        return error
    raise AssertionError("nothing is raised")


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("net", NET),
        ("array", {"array": "return np.zeros(3).reshape(2, 2)"}),
        ("library", {"library": 'return json.loads("{")'}),
    ],
)
def test_frames_of_torch_numpy_and_the_standard_library_are_left_out(mylab, name, sources):
    error = raised(getattr(mylab, name))
    assert [(frame.name, frame.line) for frame in user_frames(error)] == list(sources.items())
    places = [at(source, function) for function, source in sources.items()]
    assert summary(error) == f"{type(error).__name__}: {error} ({places[-1]})"
    lines = [f"  {place}\n    {source}" for place, source in zip(places, sources.values(), strict=True)]
    assert user_traceback(error) == "\n".join([f"{type(error).__name__}: {error}", *lines])


def test_frames_of_this_package_are_left_out(mylab):
    frames = user_frames(raised(InvalidValueError("a", 1, "b").under))  # too few arguments are given
    assert frames == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(), "ValueError"),
        (KeyError("a"), "KeyError: 'a'"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("\n one\ntwo"), "ValueError: one"),
        (ValueError("x" * 10_000), f"ValueError: {'x' * MAX_LINE_CHARACTERS} ..."),
        (ValueError("Größe \u2603 \ud83d \x1b[31m\0"), "ValueError: Größe \u2603 \\ud83d \\x1b[31m\\x00"),
        (InvalidValueError("model.width", 3, "must be even"), "model.width=3: must be even"),
    ],
)
def test_an_error_in_one_line(mylab, error, line):
    found = raised(mylab.raising, error)
    assert summary(found) == f"{line} ({RAISED})"
    user_traceback(found).encode()


def test_errors_that_the_user_defines(mylab):
    assert summary(raised(mylab.raising, mylab.OwnError(1, "own"))).startswith("OwnError: own (")
    assert summary(raised(mylab.raising, mylab.Unspeakable())).startswith("Unspeakable (")


def test_a_refusal_names_the_type_only_where_the_message_needs_it(mylab):
    assert refusal(raised(mylab.raising, ValueError("too wide"))) == f"too wide ({RAISED})"
    assert refusal(raised(mylab.raising, KeyError("a"))) == f"KeyError: 'a' ({RAISED})"


def test_of_endless_recursion_few_frames_are_shown(mylab):
    shown = user_traceback(raised(mylab.endless, 0))
    assert shown.startswith("RecursionError: ")
    assert shown.count("return endless(n + 1)") == MAX_FRAMES
    assert " more frames ..." in shown


def test_the_cause_of_an_error_is_shown_unless_it_is_hidden(mylab):
    shown = user_traceback(raised(mylab.chained))
    place = at('raise RuntimeError("no width") from error', "chained")
    assert shown.startswith(f"RuntimeError: no width\n  {place}\n")
    assert f"\ncaused by KeyError: 'width'\n  {at(CAUSE, 'chained')}\n    {CAUSE}" in shown
    assert "caused by" not in user_traceback(raised(mylab.hidden))


def test_the_place_is_found_in_the_cause_where_this_package_has_raised_the_error(mylab):
    cause = raised(mylab.raising, ZeroDivisionError("by zero"))
    error = InvalidValueError("model", "{}", f"was refused: {refusal(cause)}")
    error.__cause__ = cause
    assert summary(error) == f"model={{}}: was refused: ZeroDivisionError: by zero ({RAISED})"
    assert user_traceback(error).endswith(f"caused by ZeroDivisionError: by zero\n  {RAISED}\n    raise error")


def test_without_frames_of_the_user_the_whole_traceback_is_shown():
    try:
        torch.nn.Linear(2, 2)(torch.zeros(3))
    except RuntimeError as error:
        error.__traceback__ = error.__traceback__.tb_next  # without the frame of this test
        found = user_traceback(error)
    assert found.startswith("Traceback (most recent call last):\n")
    assert "linear.py" in found
