"""A multilayer perceptron."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron on the flattened input, with ReLU and dropout after each hidden layer.

    Args:
        input_shape: shape of one example.
        n_outputs: number of logits or targets.
        hidden: number of units of each hidden layer; an empty list for a linear model.
        dropout: probability of dropping a hidden unit.

    Raises:
        ValueError: names `hidden` or `dropout`.
    """

    def __init__(
        self, input_shape: Sequence[int], n_outputs: int, hidden: Sequence[int] = (128,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence) or not all(isinstance(width, int) and width > 0 for width in hidden):
            raise ValueError(f"hidden={hidden} must be a list of integers > 0")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be >= 0 and < 1")
        layers: list[nn.Module] = [nn.Flatten()]
        width = prod(input_shape)
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [n, *input_shape] to outputs [n, n_outputs]."""
        outputs: Tensor = self.layers(x)
        return outputs
