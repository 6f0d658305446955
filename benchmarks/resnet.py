"""Defines a network that is large enough to keep a GPU busy with one training."""

from collections.abc import Sequence

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut, which is a 1 x 1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        changes = inputs != outputs or stride != 1
        convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 (1512.03385) with a first layer for small images: 3 x 3, stride 1, no pooling. 11 M parameters."""

    def __init__(self, input_shape: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        ]
        width = 64
        for features, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [Block(width, features, stride), Block(features, features, 1)]
            width = features
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, channels, h, w] to [n, n_outputs]."""
        outputs: Tensor = self.layers(x)
        return outputs
