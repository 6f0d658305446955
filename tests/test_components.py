"""Tests code that an import path names: which paths are allowed, and how the code is called."""

import sys
from dataclasses import replace

import pytest
import schedulefree
import torch

from models.mlp import MLP
from sweep.components import Component, locate, recorded_target
from sweep.errors import InvalidValueError
from sweep.training.optimizers import Lion
from tests.test_config import run_config

SGD = Component("optimizer", "torch.optim.SGD", {"momentum": 0.9})
DIGITS = Component("dataset", "sweep.data.sources.digits", {})
MODEL = Component("model", "models.mlp.MLP", {"hidden": [16]})


def refused(key):
    return pytest.raises(InvalidValueError, match=rf"^{key}=")


class Outer:
    """Return a component with a nested argument that may be a component."""

    def __init__(self, part=None, **more):
        self.part, self.more = part, more


def outer(**arguments):
    return Component("model", f"{__name__}.Outer", arguments, trusted=(__name__,))


# --- import paths


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("models.mlp.MLP", MLP),
        ("torch.optim.SGD", torch.optim.SGD),
        ("torch.optim.sgd.SGD", torch.optim.SGD),
        ("torch.nn.Linear", torch.nn.Linear),
        ("torch.nn.modules.linear.Linear", torch.nn.Linear),
        ("sweep.training.optimizers.Lion", Lion),
        ("schedulefree.AdamWScheduleFree", schedulefree.AdamWScheduleFree),
    ],
)
def test_a_path_within_the_own_packages_is_found(target, found):
    assert locate("model", target) is found


@pytest.mark.parametrize(
    "target",
    [
        "builtins.open",
        "os.system",
        "torch.hub.load",
        "torch.load",
        "subprocess.Popen",
        "pandas.read_pickle",
        "sweep.components.locate",
        "sweep.cli.main",
        "sweep.database.engine",
        "sweep.training.SerialEngine",
        "sweep.training.optimizersx.Lion",
        "schedulefreex.AdamWScheduleFree",
        "modelsx.mlp.MLP",
        "torch.nnx.Linear",
        "torch.optimizer.SGD",
        "MLP",
        "",
        None,
        5,
        ["models.mlp.MLP"],
    ],
)
def test_a_path_outside_the_own_packages_is_refused(target):
    with refused(r"model\._target_") as error:
        Component("model", target, {})
    assert "models, sweep.data.sources, torch.nn, torch.optim" in str(error.value)
    assert "trusted" in str(error.value)


@pytest.mark.parametrize(
    "target",
    [
        "models.mlp.torch.hub.load",
        "models.mlp.nn.functional.torch.load",
        "models.mlp.prod",
        "models.cnn.Sequence",
        "sweep.data.dataset.torch.hub.load",
        "sweep.data.dataset.np.load",
        "sweep.data.dataset.hashlib.sha256",
        "sweep.data.sources.np.load",
        "sweep.data.sources.Path",
        "sweep.data.sources.zipfile.ZipFile",
        "sweep.data.sources.InvalidValueError",
        "torch.nn.modules.module.torch.load",
        "torch.optim.optimizer.functools.partial",
        "sweep.training.optimizers.torch.load",
        "schedulefree.adamw_schedulefree.torch.load",
        "models.mlp.__loader__.get_data",
        "models.mlp.__builtins__.open",
        "models.mlp.torch.add",
    ],
)
def test_what_an_own_module_merely_imported_is_not_reached_through_it(target):
    with refused(r"model\._target_"):
        Component("model", target, {}).check()


@pytest.mark.parametrize(
    "target",
    ["models.mlp.MLP.__subclasses__", "models.mlp.MLP.__init__.__globals__.get", "models.mlp.__builtins__.get"],
)
def test_what_belongs_to_no_module_is_refused(target):
    with refused(r"model\._target_"):
        Component("model", target, {}).check()


@pytest.mark.parametrize(
    "target",
    [
        "models",
        "models.mlp",
        "models.nothing",
        "models.nothing.MLP",
        "models.mlp.Nothing",
        "models.",
        "models.mlp..MLP",
    ],
)
def test_a_path_to_nothing_that_can_be_called_is_refused(target):
    with refused(r"model\._target_"):
        Component("model", target, {}).check()


@pytest.fixture
def their_models(tmp_path, monkeypatch):
    """Create a user's package named models that follows the project's in sys.path, as with a clone in PYTHONPATH."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "mlp.py").write_text("from models.parts import part\n\nclass MLP:\n    part = part\n")
    (folder / "parts.py").write_text("def part():\n    return 'theirs'\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "models"}
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]
    sys.modules.update(before)


def test_a_package_of_theirs_named_models_is_found_if_it_is_trusted_and_ours_stays_ours(their_models):
    assert locate("model", "models.mlp.MLP") is MLP
    theirs = Component("model", "models.mlp.MLP", {}, ("models",))
    assert locate("model", "models.mlp.MLP", ("models",)).part() == "theirs"
    assert theirs.is_trusted
    assert theirs.own_target == "models.mlp.MLP"
    for target in ("sweep.models.mlp.MLP", "models.cnn.CNN"):
        ours = Component("model", target, {}, ("models",))
        assert not ours.is_trusted
        assert ours.own_target == f"sweep.{recorded_target(ours.target)}"
    assert locate("model", "sweep.models.mlp.MLP", ("models",)) is MLP
    assert locate("model", "models.mlp.MLP") is MLP


def test_what_is_theirs_and_named_as_ours_has_another_identity(their_models):
    config = replace(run_config(), resolved={"train": {}, "optimizer": {}})
    theirs = replace(config, model=replace(config.model, arguments={}, trusted=("models",)))
    assert "trusted" not in config.identity
    assert theirs.identity["trusted"] == ["model"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Create a user's package that writes a file when it is imported; return the path of the file."""
    mark = tmp_path / "imported"
    (tmp_path / "mynets.py").write_text(f"open({str(mark)!r}, 'w').close()\n\ndef net(width=3):\n    return width\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("mynets", None)


def test_a_package_that_is_not_trusted_is_not_even_imported(package):
    with refused(r"model\._target_"):
        Component("model", "mynets.net", {}).check()
    with refused(r"model\._target_"):
        Component("model", "models.mynets.net", {}).check()
    assert not package.exists()


def test_a_trusted_package_is_called(package):
    assert Component("model", "mynets.net", {"width": 7}, trusted=("mynets",)).build() == 7
    assert package.exists()


def test_what_a_trusted_module_imports_from_elsewhere_is_refused_with_the_place_it_comes_from(package, tmp_path):
    (tmp_path / "myaliases.py").write_text("from mynets import net as same\n")
    with pytest.raises(InvalidValueError, match="myaliases imports it from mynets, whose package must be trusted too"):
        Component("model", "myaliases.same", {}, trusted=("myaliases",)).check()
    Component("model", "myaliases.same", {}, trusted=("myaliases", "mynets")).check()


def test_trust_is_in_packages_not_in_beginnings_of_names(package):
    with refused(r"model\._target_"):
        Component("model", "mynets.net", {}, trusted=("my",)).check()
    assert not package.exists()


def test_a_trusted_module_that_needs_what_is_missing_says_so(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with refused(r"model\._target_") as error:
        Component("model", "needy.Net", {}, trusted=("needy",)).check()
    assert "a_module_that_is_not_there" in str(error.value)


def test_an_extra_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with refused(r"optimizer\._target_") as error:
        Component("optimizer", "schedulefree.AdamWScheduleFree", {}).check()
    assert error.value.rule == "is not installed; pip install schedulefree"


# --- arguments


def test_an_unknown_key_is_refused_with_those_that_are_known():
    with refused(r"optimizer\.momentun") as error:
        Component("optimizer", "torch.optim.SGD", {"momentun": 0.9}).check()
    assert "momentum" in str(error.value)
    assert "torch.optim.SGD" in str(error.value)


def test_a_target_without_arguments_says_so():
    with refused(r"dataset\.path") as error:
        Component("dataset", "sweep.data.sources.digits", {"path": "x"}).check()
    assert "no arguments" in str(error.value)


def test_a_target_that_takes_any_key_takes_any_key():
    assert outer(anything=5).build().more == {"anything": 5}


def test_what_is_provided_is_given_where_there_is_a_parameter_for_it():
    model = MODEL.build(input_shape=(4,), n_outputs=3, something_else=1)
    assert model(torch.zeros(2, 4)).shape == (2, 3)
    assert MODEL.has_parameter("n_outputs")
    assert not MODEL.has_parameter("something_else")


def test_positional_arguments_come_first():
    parameter = torch.zeros(1, requires_grad=True)
    group = SGD.build([parameter], lr=0.25).param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.25, 0.9)


@pytest.mark.parametrize(
    ("component", "said"),
    [
        (Component("model", "models.mlp.MLP", {"hidden": [0]}), "list of integers > 0"),
        (Component("model", "models.mlp.MLP", {"hidden": 5}), "models.mlp.MLP"),
        (Component("model", "models.mlp.MLP", {"n_outputs": 7}), "n_outputs"),
    ],
)
def test_what_the_target_refuses_is_refused_with_what_was_given(component, said):
    with refused("model") as error:
        component.build(input_shape=(4,), n_outputs=3)
    assert said in str(error.value)
    assert str(next(iter(component.arguments.values()))) in str(error.value)


def test_a_refusal_of_ours_is_moved_under_the_group(tmp_path):
    with refused(r"dataset\.path"):
        Component("dataset", "sweep.data.sources.arrays", {"path": str(tmp_path / "nothing")}).build()


def test_an_argument_with_a_target_of_its_own_becomes_what_that_gives():
    built = outer(part={"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}).build()
    assert isinstance(built.part, torch.nn.Linear)
    assert built.part.out_features == 3


def test_nesting_goes_as_deep_as_it_is_written():
    inner = {"_target_": f"{__name__}.Outer", "part": {"_target_": "torch.nn.ReLU"}}
    assert isinstance(outer(part=inner).build().part.part, torch.nn.ReLU)


def test_a_mapping_without_a_target_stays_a_mapping():
    assert outer(part={"width": 3}).build().part == {"width": 3}


class Greedy:
    """Changes the lists and mappings in its arguments."""

    def __init__(self, widths, n_outputs=0, part=None):
        widths.append(n_outputs)
        widths[0].clear()
        self.widths, self.part = widths, part


def test_a_target_that_changes_its_arguments_does_not_change_the_next_call():
    inner = {"_target_": f"{__name__}.Greedy", "widths": [[4]]}
    given = {"widths": [[1, 2], 3], "part": inner}
    component = Component("model", f"{__name__}.Greedy", given, trusted=(__name__,))
    for _ in range(2):
        built = component.build(n_outputs=7)
        assert (built.widths, built.part.widths) == ([[], 3, 7], [[], 0])
    assert given == {"widths": [[1, 2], 3], "part": {"_target_": f"{__name__}.Greedy", "widths": [[4]]}}


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", None])
def test_a_nested_target_outside_the_own_packages_is_refused(target):
    with refused(r"model\.part\._target_"):
        outer(part={"_target_": target, "command": "true"}).build()


def test_an_unknown_key_of_a_nested_target_is_named_with_its_path():
    with refused(r"model\.part\.in_feature"):
        outer(part={"_target_": "torch.nn.Linear", "in_feature": 2}).build()
