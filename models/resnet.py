"""Residual networks for small images."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

STAGES = 3
SHORTCUTS = ("A", "B")


class ResNet(nn.Module):
    """The residual network of He et al. (https://arxiv.org/abs/1512.03385, section 4.2) for CIFAR-10.

    It consists of a 3 x 3 convolution, three stages of n blocks with two 3 x 3 convolutions each, global average
    pooling and a linear layer: 6n + 2 layers with weights. The stages have `width`, 2 `width` and 4 `width`
    channels; the first blocks of the second and third stage halve height and width. Batch normalization follows
    each convolution. Weights of convolutions are drawn from a normal distribution with standard deviation
    sqrt(2 / (9 * outputs)), as in https://github.com/facebookarchive/fb.resnet.torch.

    With shortcut A, 3 input channels and 10 classes, depth 20, 32, 44, 56 and 110 give 0.27, 0.46, 0.66, 0.85 and 1.7
    million parameters.

    Args:
        input_shape: [channels, height, width].
        n_outputs: number of logits or targets.
        depth: number of layers with weights, 6n + 2 with n >= 1.
        width: number of channels of the first stage.
        shortcut: kind of shortcut of a block that changes the shape. "A": every second pixel of the input, and zeros in
            the new channels, without parameters. "B": a 1 x 1 convolution with batch normalization.

    Raises:
        ValueError: names the invalid argument.
    """

    def __init__(
        self, input_shape: Sequence[int], n_outputs: int, depth: int = 20, width: int = 16, shortcut: str = "A"
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(f"needs images [channels, height, width], but an example has shape {list(input_shape)}")
        if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth} must be 6n + 2 with an integer n >= 1: 8, 14, 20, ...")
        if not (isinstance(width, int) and width > 0):
            raise ValueError(f"width={width} must be an integer > 0")
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut={shortcut} must be one of {', '.join(SHORTCUTS)}")
        self.first = _normalized(input_shape[0], width)
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(STAGES):
            for block in range((depth - 2) // 6):
                outputs, stride = width * 2**stage, 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(channels, outputs, stride, shortcut))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Linear(channels, n_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, channels, height, width] to outputs [n, n_outputs]."""
        features: Tensor = self.blocks(functional.relu(self.first(x)))
        outputs: Tensor = self.last(features.mean(dim=(2, 3)))
        return outputs


class Block(nn.Module):
    """Adds the output of two 3 x 3 convolutions to the output of a shortcut.

    Args:
        inputs: number of input channels.
        outputs: number of output channels, at least `inputs`.
        stride: stride of the first convolution and of the shortcut.
        shortcut: "A" or "B", used if input and output differ in shape; otherwise the shortcut is the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.first = _normalized(inputs, outputs, stride=stride)
        self.second = _normalized(outputs, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            padded = Padded(outputs - inputs, stride)
            self.shortcut = padded if shortcut == "A" else _normalized(inputs, outputs, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [n, inputs, h, w] to [n, outputs, ceil(h / stride), ceil(w / stride)]."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class Padded(nn.Module):
    """Selects every stride-th pixel of each row and column, and appends channels of zeros.

    Args:
        channels: number of appended channels.
        stride: distance of the selected pixels, which include the first one.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map features [n, c, h, w] to [n, c + channels, ceil(h / stride), ceil(w / stride)]."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))


def _normalized(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution of size x size pixels with a norm. Height and width stay the same if stride is 1."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(outputs)))
