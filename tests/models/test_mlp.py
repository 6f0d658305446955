import pytest
import torch
from torch import nn

from models.mlp import MLP


def linear_layers(model):
    return [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("input_shape", [(30,), (1, 8, 8), (3, 4)])
@pytest.mark.parametrize("n_outputs", [1, 10])
def test_one_row_of_outputs_for_each_example(input_shape, n_outputs):
    model = MLP(input_shape=input_shape, n_outputs=n_outputs)
    assert model(torch.randn(5, *input_shape)).shape == (5, n_outputs)


def test_hidden_layers_have_the_widths_that_were_asked_for():
    assert linear_layers(MLP((1, 8, 8), 10, hidden=[32, 16])) == [(64, 32), (32, 16), (16, 10)]


def test_without_hidden_layers_the_model_is_linear():
    model = MLP((4,), 2, hidden=[])
    assert linear_layers(model) == [(4, 2)]
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(model(a + b) + model(torch.zeros(3, 4)), model(a) + model(b))


def test_a_hidden_layer_is_not_linear():
    torch.manual_seed(0)
    model, x = MLP((4,), 2), torch.randn(3, 4)
    assert not torch.allclose(model(x) + model(-x), 2 * model(torch.zeros(3, 4)), atol=1e-3)


def test_dropout_drops_in_training_and_not_in_evaluation():
    torch.manual_seed(0)
    model, x = MLP((8,), 3, hidden=[64], dropout=0.5), torch.randn(2, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_no_dropout_draws_no_random_numbers():
    model = MLP((8,), 3, dropout=0.0)
    before = torch.get_rng_state()
    model(torch.zeros(2, 8))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("hidden", [[0], [-3], [16, 2.5], ["16"], [None]])
def test_widths_that_cannot_be_right_are_refused(hidden):
    with pytest.raises(ValueError, match="hidden="):
        MLP((8,), 3, hidden=hidden)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2, float("nan")])
def test_a_dropout_that_cannot_be_right_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout="):
        MLP((8,), 3, dropout=dropout)
