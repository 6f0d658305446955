"""Define the state of a training between two updates, and build the initial one."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from sweep.config import RunConfig
from sweep.data import Dataset
from sweep.errors import InvalidValueError
from sweep.schedules import Event, Memory
from sweep.training.augmentation import augmentation_of
from sweep.training.average import initial_average
from sweep.training.batches import Batches
from sweep.training.dropout import SeededDropout, seed_dropouts
from sweep.training.generators import RandomState
from sweep.training.groups import build_optimizer
from sweep.training.model import build_model
from sweep.training.objectives import Objective, objective_of
from sweep.training.optimizers import Optimizer, TwoWeights

TRAIN_ERROR = "train_error"
"""Metric 1 - accuracy on the training batches since the last regular evaluation. Computed if a reaction watches it."""


@dataclass
class TrainState:
    """Holds parameters, buffers, optimizer state, random state, position in the data, and the only step counter.

    Args:
        model, optimizer: on the device, in the precision of the training.
        objective: the loss and the metrics; None for a GAN.
        batches: the order of the data. Batch s depends on the seed and on s only.
        random: states of the global generators that user code may use.
        dropouts: the dropout layers of the model, whose masks depend on seed and step.
        average: name of a parameter -> moving average of it; None if no average is configured.
        events: events of the schedule that have occurred.
        memories: name of a reaction -> its memory.
        mistakes: number of training examples that were misclassified since the last regular evaluation; None if no
            reaction needs it.
        seen: number of training examples since the last regular evaluation.
        global_step: completed updates; for a GAN those of the generator, to which `optimizer` belongs.
        critic: the critic of a GAN, to which `batches` belongs; None for other models.
        scaler: the loss scaler of fp16; None in other precisions.
        threads: number of CPU threads with which the serial engine computes updates; None if it is not chosen yet. A
            resumed training keeps the number, because it determines the order of sums and therefore the rounding.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective | None
    batches: Batches
    random: RandomState
    dropouts: list[SeededDropout] = field(default_factory=list)
    average: dict[str, Tensor] | None = None
    events: tuple[Event, ...] = ()
    memories: dict[str, Memory] = field(default_factory=dict)
    mistakes: Tensor | None = None
    seen: int = 0
    global_step: int = 0
    critic: "CriticState | None" = None
    scaler: GradScaler | None = None
    threads: int | None = None

    @property
    def optimizers(self) -> list[Optimizer]:
        """Return the optimizers: one, or those of the generator and of the critic."""
        return [self.optimizer, *([] if self.critic is None else [self.critic.optimizer])]


@dataclass
class CriticState:
    """Holds the parts of a GAN and the state of its critic.

    Args:
        generator: module of the model, [n, latent] -> n examples.
        critic: module of the model, n examples -> [n].
        latent: number of random numbers per generated example.
        optimizer: the optimizer of the critic.
        global_step: completed updates of the critic.
    """

    generator: nn.Module
    critic: nn.Module
    latent: int
    optimizer: Optimizer
    global_step: int = 0


def global_steps(state: TrainState) -> dict[str, float]:
    """Return the completed updates as recorded metrics: of the model, or of the generator and of the critic."""
    if state.critic is None:
        return {"global_step": float(state.global_step)}
    return {"G_global_step": float(state.global_step), "D_global_step": float(state.critic.global_step)}


def initial_state(config: RunConfig, seed: int, data: Dataset, device: torch.device, dtype: torch.dtype) -> TrainState:
    """Return the state before update 0, which depends on the configuration and the seed only.

    Initial weights are drawn on the CPU.

    Raises:
        InvalidValueError: if the model or the optimizer refuses its arguments, or if average=ema is combined with an
            optimizer that averages weights itself.
    """
    model = build_model(config, seed, data)
    dropouts = seed_dropouts(model)
    _move_model(model, device, dtype)
    critic = _critic_state(config, model)
    optimizer = build_optimizer(config.optimizer, model if critic is None else critic.generator)
    average = initial_average(model) if config.average.name == "ema" else None
    if average is not None and isinstance(optimizer, TwoWeights):
        rule = f"cannot be used with {config.optimizer.component.target}, which averages the weights itself"
        raise InvalidValueError("average", config.average.name, rule)
    augmentation = augmentation_of(config.augment, dtype)
    batches = Batches(data.train, config.train.batch_size, seed, device, config.train.drop_last, augmentation)
    objective = None if config.critic else objective_of(config.task, data.train.example, data.n_outputs, device, dtype)
    random = RandomState.capture(device)
    state = TrainState(model, optimizer, objective, batches, random, dropouts, average, critic=critic)
    if config.train.precision == "fp16":
        state.scaler = loss_scaler(device)
    if any(reaction.watches == TRAIN_ERROR for reaction in config.schedule.reactions):
        state.mistakes = torch.zeros((), device=device, dtype=torch.int64)
    return state


def loss_scaler(device: torch.device, scale: float = 2.0**16) -> GradScaler:
    """Return an initialized loss scaler: a data-parallel worker without examples would not initialize it."""
    scaler = GradScaler(device.type, init_scale=scale)
    scaler.scale(torch.zeros((), device=device))
    return scaler


def _move_model(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model to the device, and convert it to the precision of the training.

    Tensors of torch's default type (float32) are converted to `dtype`, and those of its complex counterpart (complex64)
    to that of `dtype`. Tensors of other types are intentional and keep their type.
    """
    default = torch.get_default_dtype()
    types = {default: dtype, default.to_complex(): dtype.to_complex()}
    model._apply(lambda tensor: tensor.to(device, types.get(tensor.dtype, tensor.dtype)))  # type: ignore[no-untyped-call]


def _critic_state(config: RunConfig, model: nn.Module) -> CriticState | None:
    """Return the state of a GAN's critic; None for other trainings."""
    if config.critic is None:
        return None
    generator, critic, latent = model.generator, model.critic, model.latent
    assert isinstance(generator, nn.Module)  # as build_model has checked
    assert isinstance(critic, nn.Module)
    assert isinstance(latent, int)
    return CriticState(generator, critic, latent, build_optimizer(config.critic.optimizer, critic))
