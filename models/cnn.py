"""A small convolutional network."""

from collections.abc import Sequence

from torch import Tensor, nn


class CNN(nn.Module):
    """A network of 3 x 3 convolutions with ReLU and 2 x 2 max pooling, followed by one hidden layer.

    Args:
        input_shape: [channels, height, width].
        n_outputs: number of logits or targets.
        channels: number of channels of each convolution.
        hidden: number of units of the hidden layer.
        dropout: probability of dropping a hidden unit.

    Raises:
        ValueError: names the invalid argument.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_outputs: int,
        channels: Sequence[int] = (16, 32),
        hidden: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(f"needs images [channels, height, width], but an example has shape {list(input_shape)}")
        listed = isinstance(channels, Sequence) and len(channels) > 0
        if not listed or not all(isinstance(width, int) and width > 0 for width in channels):
            raise ValueError(f"channels={channels} must be a list of integers > 0")
        if not (isinstance(hidden, int) and hidden > 0):
            raise ValueError(f"hidden={hidden} must be an integer > 0")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be >= 0 and < 1")
        depth, height, width = input_shape
        if min(height, width) < 2 ** len(channels):
            raise ValueError(f"{len(channels)} poolings need images of at least {2 ** len(channels)} pixels per side")
        layers: list[nn.Module] = []
        for features in channels:
            layers += [nn.Conv2d(depth, features, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            depth, height, width = features, height // 2, width // 2
        layers += [nn.Flatten(), nn.Linear(depth * height * width, hidden), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels, height, width] to outputs [n, n_outputs]."""
        outputs: Tensor = self.layers(x)
        return outputs
