"""Trains experiment=gpt_text in a plain loop like nanoGPT's: one file, plain PyTorch, nothing recorded."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.plain import Record

BLOCK, BATCH_SIZE, EVAL_EVERY, EVALUATED_AT_ONCE = 64, 16, 500, 128


@dataclass(frozen=True)
class Text:
    """Tokens [N] for training and validation, and the size of the vocabulary."""

    train: Tensor
    val: Tensor
    vocabulary: int


def text() -> Text:
    """Return the characters of Python's language reference: 80 % for training, the next 10 % for validation."""
    written = "".join(topics[name] for name in sorted(topics))
    characters = {character: number for number, character in enumerate(sorted(set(written)))}
    tokens = torch.tensor([characters[character] for character in written])
    tenth = round(0.1 * len(tokens))
    return Text(tokens[: -2 * tenth], tokens[-2 * tenth : -tenth], len(characters))


def curve(steps: int, lr: float = 8e-3) -> list[float]:
    """Return the rate of every update: linear warmup over 100 updates to lr, then cosine decay to 0."""
    warmup = min(100, steps // 2)
    decayed = (0.5 * (1 + math.cos(math.pi * step / (steps - warmup))) for step in range(steps - warmup))
    return [lr * step / warmup for step in range(warmup)] + [lr * factor for factor in decayed]


def batches(tokens: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an infinite sequence of batches of windows that begin at random tokens."""
    windows, epoch = tokens.unfold(0, BLOCK + 1, 1), 0
    while True:
        mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(mixed)
        begins = torch.randint(len(tokens) - BLOCK, (len(tokens) // BLOCK,), generator=generator)
        for some in begins.split(BATCH_SIZE)[: len(begins) // BATCH_SIZE]:
            yield windows[some][:, :-1], windows[some][:, 1:]
        epoch += 1


def train(
    build: Callable[[], nn.Module], data: Text, rates: Sequence[float], seed: int = 0, record: Record | None = None
) -> float:
    """Train once; return the bits per character of the validation split at the end."""
    torch.manual_seed(seed)
    model = build()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rates[0], betas=(0.9, 0.99))
    bits = float("nan")
    model.train()
    for step, (rate, (inputs, targets)) in enumerate(zip(rates, batches(data.train, seed), strict=False)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if record is not None:
            record(step, rate, loss.item())
        if (step + 1) % EVAL_EVERY == 0 or step + 1 == len(rates):
            bits = evaluate(model, data.val)
    return bits


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor) -> float:
    """Return the mean bits per character over windows that do not overlap."""
    model.eval()
    n = (len(tokens) - 1) // BLOCK
    inputs, targets = tokens[: n * BLOCK].view(n, BLOCK), tokens[1 : n * BLOCK + 1].view(n, BLOCK)
    total = 0.0
    for some, following in zip(inputs.split(EVALUATED_AT_ONCE), targets.split(EVALUATED_AT_ONCE), strict=True):
        outputs = model(some).flatten(0, 1)
        total += functional.cross_entropy(outputs, following.flatten(), reduction="sum").item()
    model.train()
    return total / (n * BLOCK) / math.log(2)
