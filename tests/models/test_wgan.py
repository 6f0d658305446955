import pytest
import torch
from torch import nn

from models.wgan import WGAN


def linear_layers(model):
    return [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("input_shape", [(30,), (1, 8, 8), (3, 4)])
@pytest.mark.parametrize("n", [1, 5])
def test_an_example_for_each_row_of_noise_and_a_score_for_each_example(input_shape, n):
    model = WGAN(input_shape=input_shape)
    examples = model.generator(torch.randn(n, model.latent))
    assert examples.shape == (n, *input_shape)
    assert model.critic(examples).shape == (n,)


def test_examples_are_between_0_and_1_and_scores_are_not():
    torch.manual_seed(0)
    model = WGAN((1, 8, 8))
    examples = model.generator(10 * torch.randn(100, model.latent))
    assert 0 < examples.min() < examples.max() < 1
    scores = model.critic(1000 * torch.randn(100, 1, 8, 8))
    assert scores.min() < 0
    assert scores.max() > 1


def test_noise_and_hidden_layers_have_the_widths_that_were_asked_for():
    model = WGAN((1, 8, 8), latent=7, generator_hidden=[32, 16], critic_hidden=[24])
    assert model.latent == 7
    assert linear_layers(model.generator) == [(7, 32), (32, 16), (16, 64)]
    assert linear_layers(model.critic) == [(64, 24), (24, 1)]


def test_without_hidden_layers_the_critic_is_linear():
    critic = WGAN((4,), generator_hidden=[], critic_hidden=[]).critic
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(critic(a + b) + critic(torch.zeros(3, 4)), critic(a) + critic(b))


def test_every_weight_belongs_to_one_of_the_two_networks():
    model = WGAN((1, 8, 8))
    generator, critic = set(model.generator.parameters()), set(model.critic.parameters())
    assert not generator & critic
    assert generator | critic == set(model.parameters())
    assert not list(model.buffers())


@pytest.mark.parametrize("network", ["generator", "critic"])
def test_a_row_of_outputs_depends_on_its_row_of_inputs_alone(network):
    torch.manual_seed(0)
    model = WGAN((4,), latent=4)
    inputs = torch.rand(5, 4, requires_grad=True)
    outputs = getattr(model, network)(inputs)
    (gradient,) = torch.autograd.grad(outputs[2].sum(), inputs)
    assert gradient[2].any()
    assert not gradient[[0, 1, 3, 4]].any()


def test_the_norm_of_the_gradient_of_a_score_can_be_penalized():
    torch.manual_seed(0)
    model = WGAN((1, 8, 8))
    x = torch.rand(5, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.critic(x).sum(), x, create_graph=True)
    ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
    weights = [m.weight for m in model.critic.modules() if isinstance(m, nn.Linear)]
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("latent", 0),
        ("latent", 2.5),
        ("latent", [32]),
        ("latent", True),
        ("generator_hidden", [0]),
        ("generator_hidden", 512),
        ("generator_hidden", [16, 2.5]),
        ("critic_hidden", [-3]),
        ("critic_hidden", 128),
        ("critic_hidden", [None]),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_name(argument, value):
    with pytest.raises(ValueError, match=f"{argument}="):
        WGAN((1, 8, 8), **{argument: value})
