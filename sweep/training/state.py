"""What a training consists of between two updates."""

from dataclasses import dataclass

import torch
from torch import nn

from sweep.config import RunConfig
from sweep.data import Dataset
from sweep.training.batches import Batches
from sweep.training.device import choose_threads


@dataclass
class TrainState:
    """Parameters and buffers, optimizer state, random state, position in the data, and the only step counter.

    Args:
        model, optimizer: on the device, in the precision of the run.
        batches: the data order; batch s is a function of the seed and s alone.
        random: state of the generators that dropout draws from: CPU, and the device's own where it has one.
        global_step: completed updates.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches
    random: "RandomState"
    global_step: int = 0


@dataclass
class RandomState:
    """torch's default generators: of the CPU, and of the device where it has one."""

    cpu: torch.Tensor
    device: torch.Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> "RandomState":
        own = None
        if device.type == "cuda":
            own = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            own = torch.mps.get_rng_state()
        return cls(torch.get_rng_state(), own)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.device is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.device, device)
        elif self.device is not None:
            torch.mps.set_rng_state(self.device)


def initial_state(config: RunConfig, seed: int, data: Dataset, device: torch.device, dtype: torch.dtype) -> TrainState:
    """The state before update 0: a function of configuration and seed. Initial weights are drawn on the CPU.

    Raises:
        InvalidValueError: if the model or the optimizer refuses its arguments.
    """
    torch.manual_seed(seed)
    model = config.model.build(input_shape=data.input_shape, n_outputs=data.n_outputs).to(device, dtype)
    choose_threads(model, device)
    optimizer = config.optimizer.component.build(model.parameters(), lr=config.optimizer.lr)
    batches = Batches(data.train, config.train.batch_size, seed, device)
    return TrainState(model, optimizer, batches, RandomState.capture(device))
