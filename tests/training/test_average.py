"""Test moving averages of the weights, and the replacement of weights for an evaluation."""

import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.config import AverageConfig, OptimizerConfig
from sweep.training.average import averaged_weights, evaluated_weights, initial_average, update_average
from sweep.training.groups import build_optimizer


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.999])
def test_the_average_follows_the_recurrence(decay):
    """This is TensorFlow's ExponentialMovingAverage with num_updates = s: d = min(decay, (1 + s) / (10 + s))."""
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(2.0)
    average, expected = initial_average(model), 2.0
    for s, weight in enumerate([3.0, -1.0, 0.5, 0.25, 8.0, 8.0, 8.0]):
        model.weight.data.fill_(weight)
        update_average(average, model, decay, s)
        d = min(decay, (1 + s) / (10 + s))
        expected = d * expected + (1 - d) * weight
        assert average["weight"].item() == pytest.approx(expected, rel=1e-13)


def test_the_average_begins_at_the_initial_weights_and_is_no_view_of_them():
    model = nn.Linear(2, 2)
    average = initial_average(model)
    assert average.keys() == {"weight", "bias"}
    assert torch.equal(average["weight"], model.weight)
    before = average["weight"].clone()
    model.weight.data += 1
    assert torch.equal(average["weight"], before)


@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.LSTM(3, 3)], ids=["linear", "lstm"])
def test_a_model_has_the_average_within_and_its_own_weights_after(model):
    average = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    other = type(model)(3, 3)
    other.load_state_dict(average)
    x = torch.randn(4, 2, 3)
    with averaged_weights(model, average), torch.no_grad():
        found, expected = model(x), other(x)
        found, expected = (found[0], expected[0]) if isinstance(found, tuple) else (found, expected)
        assert torch.equal(found, expected)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_its_own_weights_come_back_after_an_error():
    model = nn.Linear(3, 3)
    before = model.weight.detach().clone()
    average = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    with pytest.raises(RuntimeError), averaged_weights(model, average):
        raise RuntimeError
    assert torch.equal(model.weight, before)


def trained_schedule_free():
    torch.manual_seed(0)
    model = nn.Linear(30, 30)
    optimizer = build_optimizer(OptimizerConfig(Component("o", "schedulefree.AdamWScheduleFree", {}), 0.1), model)
    for _ in range(3):
        model(torch.randn(5, 30)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_schedule_free_trains_what_it_trained_before_an_evaluation_to_the_bit():
    model, optimizer = trained_schedule_free()
    before = model.weight.detach().clone()
    with evaluated_weights(model, optimizer):
        assert not torch.allclose(model.weight, before, rtol=1e-3)
        assert not optimizer.param_groups[0]["train_mode"]
    assert torch.equal(model.weight, before)
    assert optimizer.param_groups[0]["train_mode"]
    optimizer.eval()  # by itself it rounds: the test above is not empty
    optimizer.train()
    assert not torch.equal(model.weight, before)


def test_another_optimizer_has_its_weights_evaluated_as_they_are():
    model = nn.Linear(3, 3)
    optimizer = build_optimizer(OptimizerConfig(Component("o", "torch.optim.SGD", {}), 0.1), model)
    before = model.weight.detach().clone()
    with evaluated_weights(model, optimizer):
        assert torch.equal(model.weight, before)


def test_no_average_is_the_default():
    assert AverageConfig() == AverageConfig("none")
