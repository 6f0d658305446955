"""The identity of objects that are given in Python: their source, and what it uses."""

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sweep import given
from sweep.components import Component
from sweep.errors import InvalidValueError
from tests.conftest import ROOT


def target_in(source: str, name: str = "f") -> str:
    """Return the target of what a source text defines, as in an interactive session."""
    space: dict[str, object] = {"__name__": "session"}
    exec(source, space)
    return given.target_of(space[name])


def test_a_target_names_the_object() -> None:
    target = target_in("class Net:\n    def forward(self): return 1\n", "Net")
    assert target.startswith("python.Net_")
    assert given.name_of(target) == "Net"
    assert given.is_given(target)
    assert not given.is_given("models.mlp.MLP")


SAME = [
    ("def f(x): return x + 1", "def f(x):\n    return x + 1"),
    ("a = 1\nb = 2\ndef f(x): return x + a", "a = 1\nb = 3\ndef f(x): return x + a"),
    ("size = 1\ndef f(x): return x.size", "size = 2\ndef f(x): return x.size"),
    ("class f:\n    version = 1\n    def g(self): return 1", "class f:\n    version = 1\n    def g(self): return 2"),
]
DIFFERENT = [
    ("def f(x): return x + 1", "def f(x): return x + 2"),
    ("def f(x): return x.sin()", "def f(x): return x.cos()"),
    ("def f(x, a=1): return x", "def f(x, a=2): return x"),
    ("a = 1\ndef f(x): return x + a", "a = 2\ndef f(x): return x + a"),
    ("def g(x): return 1\ndef f(x): return g(x)", "def g(x): return 2\ndef f(x): return g(x)"),
    ("def g(x): return 1\ndef f(x): return (lambda: g(x))()", "def g(x): return 2\ndef f(x): return (lambda: g(x))()"),
    ("class B:\n    a = 1\nclass f(B): pass", "class B:\n    a = 2\nclass f(B): pass"),
    ("class f:\n    @property\n    def a(self): return 1", "class f:\n    @property\n    def a(self): return 2"),
    ("class f:\n    @staticmethod\n    def a(): return 1", "class f:\n    @staticmethod\n    def a(): return 2"),
    ("def m(k):\n    return lambda x: x * k\nf = m(1)", "def m(k):\n    return lambda x: x * k\nf = m(2)"),
    ("from math import sin as g\ndef f(x): return g(x)", "from math import cos as g\ndef f(x): return g(x)"),
    ("class f:\n    version = 1", "class f:\n    version = 2"),
    ("import numpy as n\na = n.zeros(3)\ndef f(x): return a", "import numpy as n\na = n.ones(3)\ndef f(x): return a"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_does_not_change_results_does_not_change_the_target(one: str, other: str) -> None:
    assert target_in(one) == target_in(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_changes_results_changes_the_target(one: str, other: str) -> None:
    assert target_in(one) != target_in(other)


def test_comments_and_formatting_do_not_change_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    targets = []
    for name, body in (("one", "return x + 1"), ("two", "# adds\n    return (x\n      + 1)")):
        (tmp_path / f"formatted_{name}.py").write_text(f"def f(x):\n    {body}\n")
        targets.append(given.target_of(__import__(f"formatted_{name}").f))
    assert targets[0] == targets[1]


def test_another_process_gives_the_same_target(tmp_path: Path) -> None:
    """A script has the same target at every start, whatever the seed of its hashes."""
    script = tmp_path / "script.py"
    script.write_text(
        "from sweep import given\nimport torch\nK = {'b', 'a'}\n"
        "class Net(torch.nn.Module):\n    def forward(self, x):\n        return x if 'a' in K else {'p', 'q'}\n"
        "print(given.target_of(Net))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert found.pop().startswith("python.Net_")


def test_arrays_are_known_by_their_contents() -> None:
    x, y = np.zeros((3, 2)), np.arange(3)
    same = given.target_of({"y": torch.arange(3), "x": torch.zeros(3, 2, dtype=torch.float64)})
    assert given.target_of({"x": x, "y": y}) == same
    for other in ({"x": x + 1, "y": y}, {"x": x.astype("f4"), "y": y}, {"x": x.T, "y": y}, {"x2": x, "y": y}):
        assert given.target_of(other) != same
    assert given.target_of((torch.zeros(2, 2, dtype=torch.bfloat16), y)).startswith("python.arrays_")


def test_a_partial_is_known_by_its_function_and_arguments() -> None:
    one, other = (functools.partial(int, base=base) for base in (2, 3))
    assert given.target_of(one) != given.target_of(other)


def test_an_object_is_found_as_long_as_it_is_registered() -> None:
    def build(width: int = 3) -> int:
        return width

    target = given.target_of(build)
    component = Component("model", target, {"width": 7})
    with given.registered({target: build}):
        assert component.is_trusted
        assert component.build() == 7
        with pytest.raises(InvalidValueError, match=r"model\.depth=2: is not a key of python\.build_"):
            Component("model", target, {"depth": 2}).check()
    with pytest.raises(InvalidValueError, match=r"was given in Python; give it again there: model=build"):
        component.build()


def test_a_model_goes_with_its_component_to_another_process_and_a_data_set_does_not() -> None:
    def build() -> str:
        return "built"

    target = given.target_of(build)
    with given.registered({target: build}):
        model = pickle.dumps(Component("model", target, {}))
        data = pickle.dumps(Component("dataset", target, {}))
    with pytest.raises(InvalidValueError, match="give it again"):
        pickle.loads(data).check()
    restored = pickle.loads(model)
    assert restored.build() == "built"
    given._objects.pop(target)


def test_what_cannot_be_pickled_is_refused() -> None:
    lock = __import__("threading").Lock()

    def build() -> object:
        return lock

    target = "python.build_1"
    with (
        given.registered({target: build}),
        pytest.raises(InvalidValueError, match=r"model\._target_=build|model=build: cannot be sent to the process"),
    ):
        pickle.dumps(Component("model", target, {}))
