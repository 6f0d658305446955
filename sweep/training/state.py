"""What a training consists of between two updates."""

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
"""1 - accuracy on the training batches since the last regular evaluation; only where a reaction watches it."""


@dataclass
class TrainState:
    """Parameters and buffers, optimizer state, random state, position in the data, and the only step counter.

    Args:
        model, optimizer: on the device, in the precision of the run.
        objective: the loss and the metrics; None of a GAN.
        batches: the data order; batch s is a function of the seed and s alone.
        random: state of the generators that a model of the user's may draw from.
        dropouts: the dropout layers of the model, which draw by seed and step.
        average: moving average of the weights, by the names of the parameters; None where none is wanted.
        events: what the schedule waited for and has seen.
        memories: what its reactions remember, by their names.
        mistakes: examples of the training batches that were misclassified since the last regular evaluation; None
            where no reaction asks.
        seen: examples of those batches.
        global_step: completed updates; of a GAN, of its generator, whose optimizer `optimizer` is.
        critic: what a GAN has beside it; its batches are the critic's.
        scaler: the loss scale of fp16; None in another precision.
        threads: of the CPU, which the serial engine computes updates with; None if it has not chosen them. A resumed
            training keeps the number, because sums are formed in another order with another one.
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
        """The optimizers: one, or the generator's and the critic's."""
        return [self.optimizer, *([] if self.critic is None else [self.critic.optimizer])]


@dataclass
class CriticState:
    """What a GAN has beside its model and the optimizer of its generator.

    Args:
        generator, critic: of the model; [n, latent] -> examples, and examples -> [n].
        optimizer: of the critic.
        global_step: completed updates of the critic.
    """

    generator: nn.Module
    critic: nn.Module
    latent: int
    optimizer: Optimizer
    global_step: int = 0


def global_steps(state: TrainState) -> dict[str, float]:
    """The completed updates as they are recorded: of the optimizer, or of the generator's and the critic's."""
    if state.critic is None:
        return {"global_step": float(state.global_step)}
    return {"G_global_step": float(state.global_step), "D_global_step": float(state.critic.global_step)}


def initial_state(config: RunConfig, seed: int, data: Dataset, device: torch.device, dtype: torch.dtype) -> TrainState:
    """The state before update 0: a function of configuration and seed. Initial weights are drawn on the CPU.

    Raises:
        InvalidValueError: if the model or the optimizer refuses its arguments, or the two averages of the weights
            would be one of the other.
    """
    model = build_model(config, seed, data)
    dropouts = seed_dropouts(model)
    _bring_to(model, device, dtype)
    critic = _critic_state(config, model)
    optimizer = build_optimizer(config.optimizer, model if critic is None else critic.generator)
    average = initial_average(model) if config.average.name == "ema" else None
    if average is not None and isinstance(optimizer, TwoWeights):
        rule = f"is not for {config.optimizer.component.target}, which is evaluated with an average of its own"
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
    """Return torch's loss scaler, whose tensors exist: a worker without an example of a batch scales no loss."""
    scaler = GradScaler(device.type, init_scale=scale)
    scaler.scale(torch.zeros((), device=device))
    return scaler


def _bring_to(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model to the device and into the precision of the run.

    Tensors of torch's default type (float32) get `dtype`, complex ones of its complex counterpart (complex64) that of
    `dtype`. A model has tensors of other types on purpose, and they keep them.
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
