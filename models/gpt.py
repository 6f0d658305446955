"""Decoder-only transformer for language modelling, after nanoGPT."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STD = 0.02
"""Standard deviation of initial weights."""


class GPT(nn.Module):
    """Pre-norm transformer with causal attention, learned positions, and one matrix for embedding and output.

    Weights are initialised as in nanoGPT: normal with deviation 0.02; those that project back into the residual stream
    with 0.02 / sqrt(2 * layers), because that many of them are added up; biases 0.

    Args:
        input_shape: [tokens] of one example.
        n_outputs: size of the vocabulary.
        layers: number of blocks of attention and MLP.
        heads: attention heads; they divide `width`.
        width: features of a token.
        block: positions, the most tokens that the model reads; None for those of an example.
        dropout: probability of dropping a feature of the embedding, of an attention output, and of an MLP output.

    Raises:
        ValueError: names what cannot be right.
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
            raise ValueError(f"tokens [n] are needed, an example has shape {list(input_shape)}")
        sizes = {"layers": layers, "heads": heads, "width": width, "block": input_shape[0] if block is None else block}
        for name, size in sizes.items():
            if not (isinstance(size, int) and size > 0):
                raise ValueError(f"{name}={size} must be an integer > 0")
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        if sizes["block"] < input_shape[0]:
            raise ValueError(f"block={block} must be at least the tokens of an example, {input_shape[0]}")
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
        """Return the logits of each following token, [n, t, n_outputs], for tokens [n, t]; t is at most `block`."""
        positions = self.positions(torch.arange(x.shape[1], device=x.device))
        hidden = self.norm(self.blocks(self.dropout(self.tokens(x) + positions)))
        return functional.linear(hidden, self.tokens.weight)


class Block(nn.Module):
    """Adds the outputs of an attention and of an MLP to the residual stream, each computed of its normalized values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), MLP(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, width] -> [n, t, width]."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        hidden: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return hidden


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, width] -> [n, t, width]: each position attends to itself and to those before it."""
        n, t, width = x.shape
        parts = self.queries_keys_values(x).view(n, t, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        projected: Tensor = self.project(attended.transpose(1, 2).reshape(n, t, width))
        return projected


class MLP(nn.Module):
    """One hidden layer of four times the width, with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, width] -> [n, t, width]."""
        projected: Tensor = self.project(functional.gelu(self.expand(x)))
        return projected
