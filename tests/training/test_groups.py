"""Test which parameters are in which group, and which groups are refused."""

import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.config import OptimizerConfig
from sweep.errors import InvalidValueError
from sweep.training.groups import build_optimizer, recorded_group, set_rate

MOMENTUM = Component("optimizer", "torch.optim.SGD", {"momentum": 0.9})


def model():
    return nn.ModuleDict(
        {"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "first": nn.Linear(2, 3), "last": nn.Linear(3, 1)}
    )


def grouped(groups, component=MOMENTUM):
    """Return the names of the parameters in each group, and the optimizer."""
    built = model()
    names = {parameter: name for name, parameter in built.named_parameters()}
    optimizer = build_optimizer(OptimizerConfig(component, 0.1, groups=groups), built)
    return [[names[p] for p in group["params"]] for group in optimizer.param_groups], optimizer


def test_without_groups_there_is_one_at_the_rate_itself():
    for none in (None, {}):
        names, optimizer = grouped(none)
        assert len(names) == 1
        assert optimizer.param_groups[0]["lr_factor"] == 1


class Cooling(torch.optim.SGD):
    """Changes the list in its groups."""

    def __init__(self, params, lr, scales=(1.0,)):
        super().__init__(params, lr)
        for group in self.param_groups:
            group.setdefault("scales", list(scales)).append(0.5)
        self.defaults["scales"] = scales


def test_an_optimizer_that_changes_its_groups_does_not_change_the_configuration():
    groups = {"*.bias": {"scales": [1.0]}}
    component = Component("optimizer", f"{__name__}.Cooling", {}, trusted=(__name__,))
    for _ in range(2):
        _, optimizer = grouped(groups, component)
        assert optimizer.param_groups[1]["scales"] == [1.0, 0.5]
    assert groups == {"*.bias": {"scales": [1.0]}}


def test_biases_and_normalizations_are_what_has_at_most_one_dimension():
    (rest, named), optimizer = grouped({"bias_and_norm": {"weight_decay": 0.5}})
    assert rest == ["conv.weight", "first.weight", "last.weight"]
    assert named == ["conv.bias", "norm.weight", "norm.bias", "first.bias", "last.bias"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.5]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]


def test_a_pattern_matches_whole_names_and_the_first_counts():
    (rest, biases, first), _ = grouped({"*.bias": {}, "first*": {}})
    assert biases == ["conv.bias", "norm.bias", "first.bias", "last.bias"]
    assert first == ["first.weight"]
    assert rest == ["conv.weight", "norm.weight", "last.weight"]
    (_, first, biases), _ = grouped({"first*": {}, "*.bias": {}})
    assert first == ["first.weight", "first.bias"]
    assert biases == ["conv.bias", "norm.bias", "last.bias"]


def test_a_rate_reaches_every_group_times_its_factor():
    _, optimizer = grouped({"first.*": {"lr_factor": 0}, "last.*": {"lr_factor": 2.5}, "norm.*": {"momentum": 0.5}})
    set_rate(optimizer, {None: [0.3]}, 0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0, 0.75, 0.3]
    assert recorded_group(optimizer)["lr"] == 0.3


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"nothing": {}}, r"optimizer\.groups=nothing: matches no parameter .* the model has conv\.weight, .*\.\.\.$"),
        ({"Conv.*": {}}, r"optimizer\.groups=Conv\.\*: matches no parameter"),
        ({"bias_and_norm": {}, "*.bias": {}}, r"optimizer\.groups=\*\.bias: matches no parameter"),
        ({"*": {"lr_factor": 2}}, r"optimizer\.groups=\*: must leave at least one parameter"),
        ({"*.weight": {}, "*.bias": {}}, r"optimizer\.groups=\*\.weight, \*\.bias: must leave at least one parameter"),
        ({"first.*": {"foo": 1}}, r"optimizer\.groups\.first\.\*\.foo=1: is not a key .*lr_factor, schedule, momentum"),
        ({"first.*": {"params": []}}, r"optimizer\.groups\.first\.\*\.params=\[\]: is not a key"),
        ({"first.*": {"weight_decay": -1}}, r"optimizer\.groups\.first\.\*=.*-1.*: .*Invalid weight_decay value: -1"),
        ({"first.*": {"momentum": "much"}}, r"optimizer\.groups\.first\.\*=.*much"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(groups, said):
    with pytest.raises(InvalidValueError, match=f"^{said}"):
        grouped(groups)


class Groupless:
    """An optimizer that takes parameters only."""

    def __init__(self, params, lr):
        self.param_groups = [{"params": [p.requires_grad_() for p in params], "lr": lr}]


class Stern(torch.optim.Optimizer):
    """An optimizer that refuses groups by itself."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        if len(self.param_groups) > 1:
            raise ValueError("one group only")


@pytest.mark.parametrize(("name", "said"), [("Groupless", "does not support groups"), ("Stern", "one group only")])
def test_an_optimizer_without_groups_is_refused_with_them_alone(name, said):
    component = Component("optimizer", f"{__name__}.{name}", {}, trusted=(__name__,))
    assert len(grouped(None, component)[0]) == 1
    with pytest.raises(InvalidValueError, match=said):
        grouped({"bias_and_norm": {"lr_factor": 2}}, component)


def test_muon_has_groups_of_matrices_and_of_the_rest_which_share_what_both_have():
    muon = Component("optimizer", "sweep.training.optimizers.Muon", {})
    names, optimizer = grouped({"first.*": {"lr_factor": 2.0, "weight_decay": 0.5}}, muon)
    assert names == [
        ["last.weight"],
        ["first.weight"],
        ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "last.bias"],
        ["first.bias"],
    ]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.5, 0.01, 0.5]
    set_rate(optimizer, {None: [0.3]}, 0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.6, 0.3, 0.6]
    with pytest.raises(InvalidValueError, match=r"^optimizer\.groups\.first\.\*\.momentum=0\.5: is not a key"):
        grouped({"first.*": {"momentum": 0.5}}, muon)
