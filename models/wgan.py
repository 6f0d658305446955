"""A Wasserstein generative adversarial network: a generator and a critic."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn


class WGAN(nn.Module):
    """Two multilayer perceptrons: `generator` generates examples from noise, and `critic` scores examples.

    The critic has no normalization, so that a score depends on one example only and the norm of its gradient can be
    penalized (https://arxiv.org/abs/1704.00028). The generator uses layer normalization, with which it trains in fewer
    updates against a clipped critic (https://arxiv.org/abs/1701.07875).

    Args:
        input_shape: shape of one example, whose values are between 0 and 1.
        latent: number of normal random numbers from which an example is generated.
        generator_hidden: number of units of each hidden layer of the generator, with layer normalization and ReLU.
        critic_hidden: number of units of each hidden layer of the critic, with leaky ReLU.

    Raises:
        ValueError: names `latent`, `generator_hidden` or `critic_hidden`.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent: int = 32,
        generator_hidden: Sequence[int] = (512, 512),
        critic_hidden: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        if isinstance(latent, bool) or not (isinstance(latent, int) and latent > 0):
            raise ValueError(f"latent={latent} must be an integer > 0")
        for name, hidden in (("generator_hidden", generator_hidden), ("critic_hidden", critic_hidden)):
            if not isinstance(hidden, Sequence) or not all(isinstance(width, int) and width > 0 for width in hidden):
                raise ValueError(f"{name}={hidden} must be a list of integers > 0")
        self.latent = latent
        self.generator = Generator(latent, generator_hidden, input_shape)
        self.critic = Critic(input_shape, critic_hidden)


class Generator(nn.Module):
    """Generates examples with values between 0 and 1 from noise."""

    def __init__(self, latent: int, hidden: Sequence[int], output_shape: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = latent
        for units in hidden:
            layers += [nn.Linear(width, units), nn.LayerNorm(units), nn.ReLU()]
            width = units
        layers += [nn.Linear(width, prod(output_shape)), nn.Sigmoid(), nn.Unflatten(1, tuple(output_shape))]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map noise [n, latent] to examples [n, *output_shape]."""
        examples: Tensor = self.layers(z)
        return examples


class Critic(nn.Module):
    """Computes unbounded scores of examples, which are higher for examples that look real."""

    def __init__(self, input_shape: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = prod(input_shape)
        for units in hidden:
            layers += [nn.Linear(width, units), nn.LeakyReLU(0.2)]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        """Map examples [n, *input_shape] to scores [n]."""
        scores: Tensor = self.layers(x)
        return scores
