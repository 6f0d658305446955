import math

import pytest
import torch
from torch import nn

from models.resnet import Padded, ResNet


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)], ids=lambda value: str(value)
)
def test_the_numbers_of_parameters_are_those_of_table_6_of_the_paper(depth, millions):
    with torch.device("meta"):
        count = parameters(ResNet((3, 32, 32), 10, depth=depth))
    assert round(count / 1e6, 1 if depth == 110 else 2) == millions


def test_depth_counts_convolutions_outside_shortcuts_and_the_linear_layer():
    model = ResNet((3, 32, 32), 10, depth=26, shortcut="B")
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == 26
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(convolutions) + 2  # and one in each projection


def test_each_later_stage_has_twice_the_channels_and_half_the_height_and_width():
    model, shapes = ResNet((3, 32, 24), 10, depth=14, width=4), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape[1:])))
    model(torch.randn(2, 3, 32, 24))
    assert shapes == [(4, 32, 24)] * 2 + [(8, 16, 12)] * 2 + [(16, 8, 6)] * 2


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("input_shape", [(3, 32, 32), (1, 28, 28), (2, 7, 9), (1, 1, 1)])
def test_one_row_of_outputs_for_each_example(input_shape, shortcut):
    model = ResNet(input_shape, 5, depth=8, width=4, shortcut=shortcut)
    assert model(torch.randn(3, *input_shape)).shape == (3, 5)


def test_shortcut_a_takes_every_second_pixel_and_pads_channels_of_zeros():
    x = torch.randn(2, 3, 5, 4)
    found = Padded(channels=2, stride=2)(x)
    assert found.shape == (2, 5, 3, 2)
    assert torch.equal(found[:, :3], x[:, :, ::2, ::2])
    assert not found[:, 3:].any()


def test_shortcut_b_adds_a_projection_to_each_of_the_two_blocks_that_change_the_shape():
    one, other = (parameters(ResNet((3, 32, 32), 10, depth=20, shortcut=shortcut)) for shortcut in "BA")
    assert one - other == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_a_block_adds_its_shortcut():
    """With all weights 0, a block that keeps the shape returns the ReLU of its input."""
    block = ResNet((3, 8, 8), 10, depth=8, width=4).blocks[0]
    nn.init.zeros_(block.second.conv.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x.relu())


def test_weights_of_convolutions_have_the_deviation_of_the_paper_s_code():
    torch.manual_seed(0)
    for module in ResNet((3, 32, 32), 10, depth=8, width=64, shortcut="B").modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
            assert abs(module.weight.mean().item()) < 0.1 * expected


@pytest.mark.parametrize("input_shape", [(64,), (8, 8), (1, 1, 8, 8)])
def test_an_input_that_is_no_image_is_refused_with_its_shape(input_shape):
    with pytest.raises(ValueError, match="image") as refused:
        ResNet(input_shape, 10)
    assert str(list(input_shape)) in str(refused.value)


@pytest.mark.parametrize("depth", [2, 0, -4, 7, 18, 21, 20.0, "20", None])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=rf"^depth={depth} must be 6n \+ 2"):
        ResNet((3, 32, 32), 10, depth=depth)


@pytest.mark.parametrize(("argument", "value"), [("width", 0), ("width", 2.5), ("shortcut", "C"), ("shortcut", None)])
def test_an_argument_that_cannot_be_right_is_refused_by_its_name(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}={value} must be"):
        ResNet((3, 32, 32), 10, **{argument: value})
