"""Trains in a loop as a practitioner writes it: one training after another, plain PyTorch, nothing recorded.

It knows nothing of sweep, and does the same work as a trial of its default search: the split of the digits, models,
optimizer, batches and evaluations are those of conf/.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

BATCH_SIZE = 64
EVAL_EVERY = 100
MOMENTUM = 0.9

Record = Callable[[int, float, float], None]
"""A function that gets step, rate and loss of each update."""


@dataclass(frozen=True)
class Data:
    """Images [n, 1, 8, 8] between 0 and 1 and labels [n], for training and validation."""

    train_inputs: Tensor
    train_targets: Tensor
    val_inputs: Tensor
    val_targets: Tensor


def digits(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Data:
    """Return the digits on the device, with the splits of conf/dataset/digits.yaml: 60 % train, 20 % validation."""
    loaded = load_digits()
    inputs = torch.from_numpy((loaded.images[:, None] / 16).astype(np.float32)).to(device, dtype)
    targets = torch.from_numpy(loaded.target).to(device, torch.int64)
    n = len(targets)
    held_out = round(0.2 * n)
    order = torch.from_numpy(np.random.default_rng(0).permutation(n)).to(device)
    train, val, _ = order.tensor_split([n - 2 * held_out, n - held_out])
    return Data(inputs[train], targets[train], inputs[val], targets[val])


def curve(
    steps: int, lr: float = 0.05, decay_rate: float = 0.5, decay_steps: int = 120, warmup: int = 30
) -> list[float]:
    """Return the rate of every update: linear warmup to lr, then exponential decay."""
    decayed = (lr * decay_rate ** ((step - warmup) / decay_steps) for step in range(warmup, steps))
    return [lr * step / warmup for step in range(min(warmup, steps))] + list(decayed)


def batches(data: Data, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an infinite sequence of batches. Each epoch is permuted as a whole, which is faster than batch by batch."""
    epoch = 0
    while True:
        mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
        order = torch.randperm(len(data.train_targets), generator=torch.Generator().manual_seed(mixed))
        order = order.to(data.train_inputs.device)
        yield from zip(
            data.train_inputs[order].split(BATCH_SIZE), data.train_targets[order].split(BATCH_SIZE), strict=True
        )
        epoch += 1


def crop_flip(inputs: Tensor) -> Tensor:
    """Return images [n, c, h, w], randomly cropped after padding with 4 zeros, and half of them mirrored."""
    n, channels, height, width = inputs.shape
    padded = nn.functional.pad(inputs, (4, 4, 4, 4))
    rows = torch.randint(9, (n, 1)) + torch.arange(height)
    columns = torch.randint(9, (n, 1)) + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    picture, channel = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]


def train(
    build: Callable[[], nn.Module],
    data: Data,
    rates: Sequence[float],
    seed: int = 0,
    record: Record | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> tuple[float, float]:
    """Train once; return val_loss and val_accuracy at the end. Call `record` after each update, if it is given."""
    torch.manual_seed(seed)
    model = build().to(data.train_inputs.device, data.train_inputs.dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=rates[0], momentum=MOMENTUM)
    criterion = nn.CrossEntropyLoss()
    val_loss = val_accuracy = float("nan")
    model.train()
    for step, (rate, (inputs, targets)) in enumerate(zip(rates, batches(data, seed), strict=False)):
        optimizer.param_groups[0]["lr"] = rate
        if augment is not None:
            inputs = augment(inputs)
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if record is not None:
            record(step, rate, loss.item())
        if (step + 1) % EVAL_EVERY == 0 or step + 1 == len(rates):
            val_loss, val_accuracy = evaluate(model, data)
    return val_loss, val_accuracy


@torch.no_grad()
def evaluate(model: nn.Module, data: Data) -> tuple[float, float]:
    """Return mean loss and accuracy over the validation split."""
    model.eval()
    outputs = model(data.val_inputs)
    loss = nn.functional.cross_entropy(outputs, data.val_targets).item()
    accuracy = (outputs.argmax(dim=1) == data.val_targets).float().mean().item()
    model.train()
    return loss, accuracy


Training = Callable[[Sequence[float], int], object]
"""A function that trains with given rates and a given seed."""


class Loop:
    """Repeats a training with the fastest number of threads.

    Args:
        training: the training to repeat.
    """

    def __init__(self, training: Training) -> None:
        self.training, self.threads = training, best_threads(training)

    def speed(self, steps: int) -> float:
        """Return the updates/s of trainings of `steps` updates."""
        torch.set_num_threads(self.threads)
        return speed(self.training, steps)


def speed(training: Training, steps: int, seconds: float = 5.0) -> float:
    """Return the updates/s of whole trainings of `steps` updates, repeated with different rates for `seconds`."""
    rng = np.random.default_rng(0)
    trained, began = 0, _now()
    while (passed := _now() - began) < seconds:
        training(curve(steps, lr=float(10 ** rng.uniform(-2, -0.5)), warmup=steps // 20), trained)
        trained += 1
    return trained * steps / passed


def best_threads(training: Training, steps: int = 200) -> int:
    """Return and set the faster number of threads of torch: one, or the number of cores."""
    choices = sorted({1, os.cpu_count() or 1})
    found = dict.fromkeys(choices, 0.0)
    for threads in choices * 2:  # in turns, because something else may run at the same time
        torch.set_num_threads(threads)
        found[threads] = max(found[threads], speed(training, steps, seconds=1.0))
    best = max(found, key=found.__getitem__)
    torch.set_num_threads(best)
    return best


def _now() -> float:
    """Return the time after the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
