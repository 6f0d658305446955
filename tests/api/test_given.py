"""Tests the identity of objects that are given in Python, which depends on their code and what it uses."""

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sweep import given
from sweep.components import Component
from sweep.errors import InvalidValueError
from sweep.targets import is_given, name_of
from tests.conftest import ROOT


def target_in(source: str, name: str = "f") -> str:
    """Return the target of an object that a module with this text defines."""
    space: dict[str, object] = {"__name__": "users_module"}
    exec(source, space)
    return given.target_of("model", space[name])


def test_a_target_names_the_object() -> None:
    target = target_in("class Net:\n    def forward(self): return 1\n", "Net")
    assert target.startswith("python.Net_")
    assert name_of(target) == "Net"
    assert is_given(target)
    assert not is_given("models.mlp.MLP")


WRAPS = (
    "import functools\ndef twice(g):\n    @functools.wraps(g)\n    def h(*a): return g(*a) * {}\n    return h\n"
    "@twice\ndef f(x): return x"
)
SAME = [
    ("def f(x): return x + 1", "# adds\ndef f(x):\n    return (x\n      + 1)  # one"),
    ("def f(x):\n    'Adds.'\n    return x + 1", "def f(x):\n    'Adds one.'\n    return x + 1"),
    ("def f(x):\n    return x + 1", "def f(x):\n    'Adds one.'\n    return x + 1"),
    ("a = 1\nb = 2\ndef f(x): return x + a", "a = 1\nb = 3\ndef f(x): return x + a"),
    ("size = 1\ndef f(x): return x.size", "size = 2\ndef f(x): return x.size"),
    ("class f:\n    version = 1\n    def g(self): return 1", "class f:\n    version = 1\n    def g(self): return 2"),
    (
        "import threading\nl = threading.Lock()\ndef f(x): return l",
        "import threading\nl = threading.Lock()\ndef f(x): return l",
    ),
    ("f, n = (lambda x: x + 1), 1", "f, n = (lambda x: x + 1), 2"),
]
DIFFERENT = [
    ("def f(x): return x + 1", "def f(x): return x + 2"),
    ("def f(x): return x.sin()", "def f(x): return x.cos()"),
    (
        "def f(x):\n    try: return x\n    except ValueError: return 1",
        "def f(x):\n    try: return x\n    except TypeError: return 1",
    ),
    ("def f(x, a=1): return x", "def f(x, a=2): return x"),
    ("def f(x): return ['a' for _ in x]", "def f(x): return ['b' for _ in x]"),
    ("a = 1\ndef f(x): return x + a", "a = 2\ndef f(x): return x + a"),
    ("def g(x): return 1\ndef f(x): return g(x)", "def g(x): return 2\ndef f(x): return g(x)"),
    ("def g(x): return 1\ndef f(x): return (lambda: g(x))()", "def g(x): return 2\ndef f(x): return (lambda: g(x))()"),
    ("class B:\n    a = 1\nclass f(B): pass", "class B:\n    a = 2\nclass f(B): pass"),
    ("class B:\n    version = 1\nclass f(B):\n    a = 1", "class B:\n    version = 1\nclass f(B):\n    a = 2"),
    ("class f:\n    @property\n    def a(self): return 1", "class f:\n    @property\n    def a(self): return 2"),
    ("class f:\n    @staticmethod\n    def a(): return 1", "class f:\n    @staticmethod\n    def a(): return 2"),
    (
        "import functools\nclass f:\n    @functools.cached_property\n    def a(self): return 1",
        "import functools\nclass f:\n    @functools.cached_property\n    def a(self): return 2",
    ),
    (
        "import functools\n@functools.lru_cache\ndef f(x): return 1",
        "import functools\n@functools.lru_cache\ndef f(x): return 2",
    ),
    (WRAPS.format(2), WRAPS.format(3)),
    ("def m(k):\n    return lambda x: x * k\nf = m(1)", "def m(k):\n    return lambda x: x * k\nf = m(2)"),
    ("f = [lambda x: x + 1, lambda x: x + 2][0]", "f = [lambda x: x + 1, lambda x: x + 2][1]"),
    ("from math import sin as g\ndef f(x): return g(x)", "from math import cos as g\ndef f(x): return g(x)"),
    (
        "import torch\ng = {'a': torch.relu}\ndef f(x): return g",
        "import torch\ng = {'a': torch.sigmoid}\ndef f(x): return g",
    ),
    ("import torch\nd = torch.float32\ndef f(x): return d", "import torch\nd = torch.float64\ndef f(x): return d"),
    (
        "from pathlib import Path\nd = Path('a')\ndef f(x): return d",
        "from pathlib import Path\nd = Path('b')\ndef f(x): return d",
    ),
    ("d = range(3)\ndef f(x): return d", "d = range(4)\ndef f(x): return d"),
    ("d = [[8, 16], [32]]\ndef f(x): return d", "d = [[8], [16, 32]]\ndef f(x): return d"),
    ("d = [8]\ndef f(x): return d", "d = (8,)\ndef f(x): return d"),
    ("d = {1: 2}\ndef f(x): return d", "d = {'1': 2}\ndef f(x): return d"),
    (
        "class A: a = 1\nclass B: a = 2\nD = A\ndef f(x): return A, B, D",
        "class A: a = 1\nclass B: a = 2\nD = B\ndef f(x): return A, B, D",
    ),
    ("class f:\n    version = 1", "class f:\n    version = 2"),
    ("import numpy as n\na = n.zeros(3)\ndef f(x): return a", "import numpy as n\na = n.ones(3)\ndef f(x): return a"),
    (
        "class F:\n    def __call__(self): return 1\nf = F()",
        "class F:\n    def __call__(self): return 2\nf = F()",
    ),
    (
        "class F:\n    def __init__(self, a): self.a = a\n    def g(self): return 1\nf = F(1).g",
        "class F:\n    def __init__(self, a): self.a = a\n    def g(self): return 1\nf = F(2).g",
    ),
    (
        "class F:\n    __slots__ = ('a',)\n    def __init__(self, a): self.a = a\nd = F(1)\ndef f(x): return d",
        "class F:\n    __slots__ = ('a',)\n    def __init__(self, a): self.a = a\nd = F(2)\ndef f(x): return d",
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_does_not_change_results_does_not_change_the_target(one: str, other: str) -> None:
    assert target_in(one) == target_in(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_changes_results_changes_the_target(one: str, other: str) -> None:
    assert target_in(one) != target_in(other)


@pytest.mark.parametrize(
    "source",
    [
        "up = str.upper\nadd = (1).__add__\ndef f(x): return up, add",
        "import torch\ndef f(x, kind=torch.Tensor): return kind",
        "d = {}\nd['self'] = d\ndef f(x): return d",
        "def m():\n    def f(x): return y\n    if 0: y = 1\n    return f\nf = m()",
        "import torch\nd = torch.eye(3).to_sparse()\ndef f(x): return d",
        "import logging, sys\nlog = logging.getLogger('a')\ndef f(x): return log, sys, open('/dev/null')",
        "import threading\nclass F:\n    def __init__(self): self.lock = threading.Lock()\n    g = print\nf = F().g",
        "def f(x): return f(x - 1)",
    ],
)
def test_whatever_code_refers_to_it_has_a_target(source: str) -> None:
    assert target_in(source) == target_in(source)


def test_what_is_installed_counts_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\nclass f(nn.Module):\n    a = nn.ReLU\n    def g(self, b=nn.BatchNorm2d): return b"
    before = target_in(source)
    monkeypatch.setattr(nn.ReLU, "added", 1, raising=False)
    assert target_in(source) == before


def test_what_another_module_of_the_users_defines_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    targets = set()
    for name, factor in (("one", 2), ("two", 3)):
        (tmp_path / f"scaling_{name}.py").write_text(f"def scale(x): return x * {factor}\n")
        targets.add(target_in(f"import scaling_{name} as helpers\ndef f(x): return helpers.scale(x)"))
        targets.add(target_in(f"from scaling_{name} import scale\ndef f(x): return scale(x)"))
    assert len(targets) == 4


def test_an_object_without_a_digest_is_refused() -> None:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(InvalidValueError, match=r"^model=f: has no digest \(RecursionError.*version = 1"):
        given.target_of("model", _function(nested))


def _function(value: object) -> object:
    def f(x: object = value) -> object:
        return x

    return f


def test_another_process_gives_the_same_target(tmp_path: Path) -> None:
    """The target of a script's object does not depend on Python's hash seed."""
    script = tmp_path / "script.py"
    script.write_text(
        "from sweep import given\nimport torch\nK = {'b', 'a'}\n"
        "class Net(torch.nn.Module):\n    def forward(self, x):\n        return x if 'a' in K else {'p', 'q'}\n"
        "print(given.target_of('model', Net))\n"
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
    same = given.target_of("model", {"y": torch.arange(3), "x": torch.zeros(3, 2, dtype=torch.float64)})
    assert given.target_of("model", {"x": x, "y": y}) == same
    for other in ({"x": x + 1, "y": y}, {"x": x.astype("f4"), "y": y}, {"x": x.T, "y": y}, {"x2": x, "y": y}):
        assert given.target_of("model", other) != same
    assert given.target_of("model", {"x": torch.zeros(2, 2, dtype=torch.bfloat16)}).startswith("python.arrays_")


def test_a_partial_is_known_by_its_function_and_arguments() -> None:
    one, other = (functools.partial(int, base=base) for base in (2, 3))
    assert given.target_of("model", one) != given.target_of("model", other)


def test_an_object_is_found_as_long_as_it_is_registered() -> None:
    def build(width: int = 3) -> int:
        return width

    target = given.target_of("model", build)
    component = Component("model", target, {"width": 7})
    with given.registered({target: build}):
        assert component.is_trusted
        assert component.build() == 7
        with pytest.raises(InvalidValueError, match=r"^model\.depth=2: is not a key of build, which has width$"):
            Component("model", target, {"depth": 2}).check()
    with pytest.raises(InvalidValueError, match=r"was given in Python, and must be given there again: model=build"):
        component.build()


def test_a_model_goes_with_its_component_to_another_process_and_a_data_set_does_not() -> None:
    def build() -> str:
        return "built"

    target = given.target_of("model", build)
    with given.registered({target: build}):
        model = pickle.dumps(Component("model", target, {}))
        data = pickle.dumps(Component("dataset", target, {}))
    with pytest.raises(InvalidValueError, match="must be given there again"):
        pickle.loads(data).check()
    restored = pickle.loads(model)
    assert restored.build() == "built"
    given._registry.pop(target)


def test_what_cannot_be_pickled_is_refused() -> None:
    lock = __import__("threading").Lock()

    def build() -> object:
        return lock

    target = "python.build_1"
    with (
        given.registered({target: build}),
        pytest.raises(InvalidValueError, match=r"^model=build: cannot be sent to the process that trains"),
    ):
        Component("model", target, {}).check()
