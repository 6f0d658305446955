"""A decoder-only transformer for language modelling, after nanoGPT."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STD = 0.02
"""Standard deviation of initial weights."""


class GPT(nn.Module):
    """A pre-norm transformer with causal attention, learned positions, and one matrix for embedding and output.

    Weights are initialized as in nanoGPT, from a normal distribution with standard deviation 0.02. For the 2 * layers
    projections that are added to the residual stream it is 0.02 / sqrt(2 * layers). Biases are 0.

    Args:
        input_shape: [number of tokens of one example].
        n_outputs: size of the vocabulary.
        layers: number of blocks of attention and MLP.
        heads: number of attention heads, a divisor of `width`.
        width: number of features of a token.
        block: number of positions, the largest number of tokens of an input; None for the tokens of an example.
        dropout: probability of dropping a feature of the embedding, of an attention output, and of an MLP output.

    Raises:
        ValueError: names the invalid argument.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_outputs: int,
        layers: int = 2,
        heads: int = 4,
        width: int = 96,
        block: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ValueError(f"needs tokens [n], but an example has shape {list(input_shape)}")
        sizes = {"layers": layers, "heads": heads, "width": width, "block": input_shape[0] if block is None else block}
        for name, size in sizes.items():
            if not (isinstance(size, int) and size > 0):
                raise ValueError(f"{name}={size} must be an integer > 0")
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        if sizes["block"] < input_shape[0]:
            raise ValueError(f"block={block} must be at least {input_shape[0]}, the number of tokens of an example")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be >= 0 and < 1")
        self.tokens = nn.Embedding(n_outputs, width)
        self.positions = nn.Embedding(sizes["block"], width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                residual = name.endswith("project.weight")
                nn.init.normal_(parameter, std=STD / (2 * layers) ** 0.5 if residual else STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [n, t], t <= block, to the logits of the following tokens, [n, t, n_outputs]."""
        positions = self.positions(torch.arange(x.shape[1], device=x.device))
        hidden = self.norm(self.blocks(self.dropout(self.tokens(x) + positions)))
        return functional.linear(hidden, self.tokens.weight)


class Block(nn.Module):
    """Adds the outputs of attention and MLP, each computed from normalized values, to the residual stream."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), MLP(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [n, t, width] to [n, t, width]."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        hidden: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return hidden


class Attention(nn.Module):
    """Computes causal self-attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [n, t, width] to [n, t, width]. Each position attends to itself and to earlier positions."""
        n, t, width = x.shape
        parts = self.queries_keys_values(x).view(n, t, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        projected: Tensor = self.project(attended.transpose(1, 2).reshape(n, t, width))
        return projected


class MLP(nn.Module):
    """A network with one hidden layer of four times the width, and GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [n, t, width] to [n, t, width]."""
        projected: Tensor = self.project(functional.gelu(self.expand(x)))
        return projected
