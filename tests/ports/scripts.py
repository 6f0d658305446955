"""Defines models and data sets as in training scripts, in plain torch without this project."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A transformer block of nanoGPT."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        n, t, width = x.shape
        parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (part.view(n, t, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.c_proj(y.transpose(1, 2).contiguous().view(n, t, width)))
        return x + self.drop(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    """A small nanoGPT: forward(idx, targets) returns (logits, loss), with the weights of the head tied."""

    def __init__(self, vocabulary=17, block=12, width=16, heads=2, layers=1, dropout=0.0):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(block, width)
        self.h = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        loss = None
        if targets is not None:
            loss = functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        return logits, loss


def text(n=4000, vocabulary=17, seed=0):
    """Return tokens [n] from a noisy rule."""
    generator = np.random.default_rng(seed)
    tokens = np.zeros(n, dtype=np.uint16)
    for place in range(2, n):
        tokens[place] = (tokens[place - 1] + tokens[place - 2] + (generator.random() < 0.2)) % vocabulary
    return tokens


def windows(n=120, block=12, seed=0):
    """Return tokens idx [n, block] and the next tokens as targets, the names of nanoGPT's forward."""
    tokens = text(n * block + 1, seed=seed).astype(np.int64)
    return {"idx": tokens[:-1].reshape(n, block), "targets": tokens[1:].reshape(n, block)}


class LSTM(nn.Module):
    """The word language model of pytorch/examples: forward(tokens) returns [n, t, vocabulary]."""

    def __init__(self, vocabulary=17, width=12):
        super().__init__()
        self.encoder, self.rnn = nn.Embedding(vocabulary, width), nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.decoder(self.rnn(self.encoder(tokens))[0])


class UNet(nn.Module):
    """A U-Net of one level: forward(x) returns [n, classes, H, W]."""

    def __init__(self, classes=3, width=4):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.out = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x):
        first = self.down(x)
        deep = self.deep(functional.max_pool2d(first, 2))
        return self.out(torch.cat([first, self.up(deep)], dim=1))


def shapes(n=48, size=8, seed=0):
    """Return images x [n, 1, size, size] and the class of each pixel, y [n, size, size]."""
    generator = np.random.default_rng(seed)
    y = np.zeros((n, size, size), dtype=np.uint8)
    for picture in y:
        row, column = generator.integers(0, size - 3, 2)
        picture[row : row + 3, column : column + 3] = generator.integers(1, 3)
    return {"x": (y[:, None] + 0.3 * generator.normal(size=(n, 1, size, size))).astype(np.float32), "y": y}


def dice_loss(logits, target):
    """Return 1 - the soft Dice of a batch, averaged over images and classes."""
    probabilities = logits.softmax(1)
    expected = torch.stack([(target == label).to(logits.dtype) for label in range(logits.shape[1])], dim=1)
    both = (probabilities * expected).sum((2, 3))
    return 1 - ((2 * both + 1) / (probabilities.sum((2, 3)) + expected.sum((2, 3)) + 1)).mean()


class VAE(nn.Module):
    """The variational autoencoder of pytorch/examples, which draws random numbers in its forward pass."""

    def __init__(self, width=64, hidden=16, latent=4):
        super().__init__()
        self.width = width
        self.fc1, self.fc21, self.fc22 = nn.Linear(width, hidden), nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.fc3, self.fc4 = nn.Linear(latent, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        hidden = functional.relu(self.fc1(x.view(-1, self.width)))
        mu, logvar = self.fc21(hidden), self.fc22(hidden)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(functional.relu(self.fc3(z)))), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    """Return the loss of pytorch/examples, which is a sum over the batch."""
    bce = functional.binary_cross_entropy(recon_x, x.view(-1, recon_x.shape[1]), reduction="sum")
    return bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


class GraphNet(nn.Module):
    """Two graph convolutions over one graph, whose adjacency is a sparse buffer; x is [n, nodes, features]."""

    def __init__(self, nodes=10, features=3, width=8):
        super().__init__()
        ring = torch.arange(nodes)
        index = torch.cat([torch.stack([ring, (ring + 1) % nodes]), torch.stack([(ring + 1) % nodes, ring])], dim=1)
        adjacency = torch.sparse_coo_tensor(index, torch.full((2 * nodes,), 0.5), (nodes, nodes)).coalesce()
        self.register_buffer("adjacency", adjacency)
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, 1)

    def forward(self, x):
        def spread(h):
            n, nodes, width = h.shape
            return (
                torch.sparse.mm(self.adjacency, h.transpose(0, 1).reshape(nodes, -1))
                .view(nodes, n, width)
                .transpose(0, 1)
            )

        return spread(self.second(functional.relu(spread(self.first(x))))).mean(1)


def signals(n=60, nodes=10, seed=0):
    """Return signals x [n, nodes, 3] on a graph, and a number y [n] for each."""
    x = np.random.default_rng(seed).normal(size=(n, nodes, 3))
    return {"x": x, "y": np.sin(x[:, :, 0]).mean(1) + x[:, :, 1].mean(1)}


class Masked(nn.Module):
    """A classifier of sequences with several inputs of different types."""

    def __init__(self, vocabulary=11, width=8, classes=3):
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, width), nn.Linear(width + 2, classes)

    def forward(self, tokens, mask, extra):
        kept = mask.unsqueeze(-1).to(extra["size"].dtype)
        pooled = (self.embedding(tokens) * kept).sum(1) / kept.sum(1)
        return self.head(torch.cat([pooled, extra["size"], extra["flag"].to(pooled.dtype).unsqueeze(1)], dim=1))


def sequences(n=80, seed=0):
    """Return token sequences with a mask, nested further inputs, and labels."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 11, (n, 6))
    return {
        "tokens": tokens,
        "mask": np.arange(6) < generator.integers(2, 7, n)[:, None],
        "extra": {"size": generator.normal(size=(n, 1)), "flag": generator.integers(0, 2, n).astype(np.uint8)},
        "labels": (tokens[:, 0] + tokens[:, 1]) % 3,
    }


def rate(step, steps, lr):
    """Return the rate of a cosine schedule without warmup."""
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))
