import pytest
import torch
from torch import nn

from models.cnn import CNN


@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 9, 7), (2, 4, 16)])
@pytest.mark.parametrize("n_outputs", [1, 10])
def test_one_row_of_outputs_for_each_example(input_shape, n_outputs):
    model = CNN(input_shape=input_shape, n_outputs=n_outputs)
    assert model(torch.randn(5, *input_shape)).shape == (5, n_outputs)


def test_each_convolution_keeps_and_each_pooling_halves_the_picture():
    model = CNN((3, 16, 12), 10, channels=[4, 8], hidden=20)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(3, 4), (4, 8)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(8 * 4 * 3, 20), (20, 10)]


def test_the_smallest_picture_has_two_pixels_a_side_for_each_pooling():
    assert CNN((1, 4, 4), 2, channels=[2, 2])(torch.randn(1, 1, 4, 4)).shape == (1, 2)
    with pytest.raises(ValueError, match="at least 4 pixels"):
        CNN((1, 4, 3), 2, channels=[2, 2])


def test_dropout_drops_in_training_and_not_in_evaluation():
    torch.manual_seed(0)
    model, x = CNN((1, 8, 8), 3, dropout=0.5), torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("input_shape", [(64,), (8, 8), (1, 1, 8, 8)])
def test_what_is_no_picture_is_refused_with_its_shape(input_shape):
    with pytest.raises(ValueError, match="needs images") as refused:
        CNN(input_shape, 10)
    assert str(list(input_shape)) in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("channels", []),
        ("channels", [0]),
        ("channels", [16, 1.5]),
        ("hidden", 0),
        ("hidden", 2.5),
        ("hidden", [64]),
        ("dropout", -0.1),
        ("dropout", 1.0),
        ("dropout", float("nan")),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_name(argument, value):
    with pytest.raises(ValueError, match=f"{argument}="):
        CNN((1, 8, 8), 10, **{argument: value})
