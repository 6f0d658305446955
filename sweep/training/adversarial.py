"""Train Wasserstein GANs, which have two optimizers, one trial at a time."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sweep.config import RunConfig
from sweep.core import Evaluation, Trial
from sweep.data import Dataset, Examples
from sweep.data.batch import inputs_of
from sweep.errors import InvalidValueError
from sweep.tracebacks import refusal
from sweep.training.average import evaluated_weights
from sweep.training.base_engine import on_host
from sweep.training.batches import moved
from sweep.training.contents import described
from sweep.training.dropout import set_draws, update_key
from sweep.training.groups import recorded_group, set_rate
from sweep.training.model import silenced
from sweep.training.optimizers import Optimizer
from sweep.training.serial import SerialEngine, Slot
from sweep.training.state import global_steps
from sweep.training.state_io import refuse_unstorable

SAMPLES_PER_EVALUATION = 64
"""Number of generated examples that an evaluation returns as its samples."""

GENERATION_BATCH_SIZE = 4096
"""Number of examples that the generator computes in one call."""

DISTANCE_BLOCK_ROWS = 512
"""Number of examples whose distances to all others are computed in one call."""

DRAWS_OF_CRITIC, DRAWS_OF_GENERATOR, DRAWS_OF_PENALTY, DRAWS_OF_EVALUATION = 0xD1, 0x61, 0xE9, 0xEA
"""Words of the random seed that give each use of random numbers its own sequence."""


class AdversarialEngine(SerialEngine):
    """Trains one Wasserstein GAN at a time (1701.07875, algorithm 1), with two optimizers and two global steps.

    With n = critic.updates, update s of the generator follows the updates n*s..n*s+n-1 of the critic. Update d of the
    critic uses batch d of the data, x [b, ...], and b generated examples G(z), z ~ N(0, 1) [b, latent]:

        D_loss = mean D(G(z)) - mean D(x) + gradient_penalty * mean (|grad D(e x + (1 - e) G(z))| - 1)^2, e ~ U(0, 1)

    (1704.00028). After the update the weights of the critic are clipped. An update of the generator uses new z:

        G_loss = -mean D(G(z)).

    The random numbers of update s depend on the seed and on s only. The engine pauses only after updates of the
    generator. The horizon and the boundaries of evaluations count updates of the generator.
    """

    def __init__(self, data: Dataset, device: torch.device, precision: str) -> None:
        super().__init__(data, device, precision)
        self._mean_distances: dict[str, float] = {}
        """Split -> mean distance between two of its examples."""

    def check(self, config: RunConfig) -> None:
        self._check_batch(config)
        slot, examples = self._begin(Trial(0, config, config.train.seed)), config.train.batch_size
        gan, last = _Gan(self, slot), slot.state.batches.per_epoch - 1
        try:
            before = described(slot.state.model)
            self._train(slot, 0, 1)
            inputs = inputs_of(next(slot.state.batches.range(last, last + 1)))  # the last batch may be smaller
            examples = len(inputs)
            gan.critic_loss(last, inputs)
            slot.state.model.eval()
            made, wanted = gan.samples(1).shape[1:], self.data.input_shape
            if made != wanted:
                raise ValueError(f"its generator returns {list(made)}, not {list(wanted)}")
        except InvalidValueError:
            raise
        except (Exception, SystemExit) as error:
            self._refuse_single(config, examples, error, lambda batch: gan.critic_loss(0, inputs_of(batch)))
            rule = f"cannot be trained as a GAN on examples of shape {list(self.data.input_shape)}: {refusal(error)}"
            raise InvalidValueError("model._target_", config.model.target, rule) from error
        with silenced():
            fresh = self.initial(config, config.train.seed)
        refuse_unstorable(slot.state, before, fresh, config)

    def _train(self, slot: Slot, begin: int, end: int) -> float:
        gan = _Gan(self, slot)
        n, clip = gan.config.updates, gan.config.clip
        generator = _Updater(self, slot, 0, gan.parts.generator, slot.state.optimizer, begin, end)
        critic = _Updater(self, slot, 1, gan.parts.critic, gan.parts.optimizer, begin * n, end * n)
        batches = slot.state.batches.range(begin * n, end * n)
        slot.state.model.train()
        for step in range(begin, end):
            if step > begin and self.pause():
                end = step
                break
            for update in range(step * n, (step + 1) * n):
                inputs = inputs_of(next(batches))
                critic.update(update, gan.critic_loss(update, inputs))
                if clip is not None:
                    _clip(critic.parameters, clip)
            generator.update(step, gan.generator_loss(step))
        losses = on_host(generator.losses[: end - begin]), on_host(critic.losses[: (end - begin) * n])
        in_order = np.column_stack([losses[1].reshape(-1, n), losses[0]]).reshape(-1)
        broken = np.flatnonzero(~np.isfinite(in_order))
        made = int(broken[0]) + 1 if broken.size else len(in_order)
        rounds, rest = divmod(made, n + 1)
        kept = rounds, rounds * n + rest
        for unrecorded, player, column, rows in zip(slot.unrecorded, (generator, critic), losses, kept, strict=True):
            unrecorded.add(player.rates[:rows], column[:rows])
        slot.state.global_step, gan.parts.global_step = begin + kept[0], begin * n + kept[1]
        return float(in_order[made - 1])

    def _evaluate(self, slot: Slot, splits: Mapping[str, Examples]) -> Evaluation:
        gan, state = _Gan(self, slot), slot.state
        state.model.eval()
        with evaluated_weights(gan.parts.generator, state.optimizer):
            metrics = {f"{name}_energy_distance": self._distance(name, split, gan) for name, split in splits.items()}
            samples = gan.samples(SAMPLES_PER_EVALUATION).float().cpu().numpy()
        return Evaluation(slot.trial.number, state.global_step, metrics | global_steps(state), samples)

    def _distance(self, name: str, split: Examples, gan: "_Gan") -> float:
        """Return the energy distance between a split and the same number of generated examples."""
        real = split.inputs.to(self.device)
        if name not in self._mean_distances:  # computed once: it takes half of the time and never changes
            self._mean_distances[name] = mean_distance(real, real)
        return energy_distance(real, gan.samples(len(real)), self._mean_distances[name])


class _Gan:
    """Computes the losses and the samples of a GAN."""

    def __init__(self, engine: SerialEngine, slot: Slot) -> None:
        config, parts = slot.trial.config, slot.state.critic
        assert config.critic is not None
        assert parts is not None
        self.engine, self.seed, self.batch_size = engine, slot.trial.seed, config.train.batch_size
        self.config, self.parts, self.dropouts = config.critic, parts, slot.state.dropouts

    def critic_loss(self, update: int, inputs: Tensor) -> Tensor:
        """Return D_loss of a batch of the data, [b, ...]."""
        weight = self.config.gradient_penalty
        self._set_draws(update)
        with torch.no_grad():
            generated = self._generate(self._normal(len(inputs), self.seed, DRAWS_OF_CRITIC, update))
        with self.engine.computing():
            loss = self._scores(generated).mean() - self._scores(inputs).mean()
        return loss if weight is None else loss + weight * self._penalty(update, inputs, generated)

    def generator_loss(self, step: int) -> Tensor:
        """Return G_loss."""
        self._set_draws(step)
        generated = self._generate(self._normal(self.batch_size, self.seed, DRAWS_OF_GENERATOR, step))
        with self.engine.computing():
            return -self._scores(generated).mean()

    @torch.no_grad()
    def samples(self, n: int) -> Tensor:
        """Return n generated examples, [n, *shape]. Their latent numbers are the same in every training."""
        latent = self._normal(n, 0, DRAWS_OF_EVALUATION, 0)
        return torch.cat(
            [self._generate(latent[i : i + GENERATION_BATCH_SIZE]) for i in range(0, n, GENERATION_BATCH_SIZE)]
        )

    def _set_draws(self, step: int) -> None:
        if self.dropouts:
            set_draws(self.dropouts, update_key(self.seed, step))

    def _scores(self, examples: Tensor) -> Tensor:
        """Return the critic's scores. The critic gets a copy, because it may write into its input."""
        scores: Tensor = self.parts.critic(examples.clone())
        return scores

    def _generate(self, latent: Tensor) -> Tensor:
        with self.engine.computing():
            generated: Tensor = self.parts.generator(latent)
        return generated.to(self.engine.dtype)

    def _penalty(self, update: int, inputs: Tensor, generated: Tensor) -> Tensor:
        """Return the mean of (|grad D| - 1)^2 at points between real and generated examples."""
        numbers = torch.rand(
            len(inputs), *[1] * (inputs.ndim - 1), generator=_generator(self.seed, DRAWS_OF_PENALTY, update)
        )
        share = moved(numbers.to(self.engine.dtype), self.engine.device)
        between = (share * inputs + (1 - share) * generated).requires_grad_()
        with self.engine.computing():
            judged = self._scores(between).sum()
        (slope,) = torch.autograd.grad(judged, between, create_graph=True)
        penalty: Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return penalty

    def _normal(self, n: int, seed: int, use: int, step: int) -> Tensor:
        """Return z [n, latent], drawn on the CPU in float32, so that it is the same on every device and precision."""
        drawn = torch.randn(n, self.parts.latent, generator=_generator(seed, use, step))
        return moved(drawn.to(self.engine.dtype), self.engine.device)


class _Updater:
    """Makes the updates begin..end-1 of one of the two networks and collects their losses and rates.

    Args:
        place: index of the network's series in the configuration.
        begin, end: counted in updates of this network.
    """

    def __init__(
        self,
        engine: SerialEngine,
        slot: Slot,
        place: int,
        network: nn.Module,
        optimizer: Optimizer,
        begin: int,
        end: int,
    ) -> None:
        self.parameters: list[Tensor] = [weights for weights in network.parameters() if weights.requires_grad]
        self.optimizer, self.clip_norm = optimizer, slot.trial.config.series[place].optimizer.clip_norm
        self.planned, self.begin, self.recorded = slot.rates[place], begin, recorded_group(optimizer)
        self.rates = np.empty(end - begin)
        self.losses = torch.empty(end - begin, device=engine.device, dtype=engine.dtype)

    def update(self, step: int, loss: Tensor) -> None:
        """Update the parameters of this network, and no others, with the gradient of a loss."""
        set_rate(self.optimizer, self.planned, step)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        row = step - self.begin
        self.rates[row], self.losses[row] = self.recorded["lr"], loss.detach()


@torch.no_grad()
def _clip(parameters: list[Tensor], bound: float) -> None:
    torch._foreach_clamp_min_(parameters, -bound)
    torch._foreach_clamp_max_(parameters, bound)


def _generator(seed: int, use: int, step: int) -> torch.Generator:
    """Return the random generator of one update, on the CPU."""
    mixed = int(np.random.SeedSequence([seed, use, step]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(mixed)


def energy_distance(x: Tensor, y: Tensor, within_x: float | None = None) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'| of two sets of examples, [n, ...] and [m, ...], with Euclidean norms.

    The means are over all pairs, including pairs of an example with itself (the V-statistic). The result is >= 0, 0 if
    the sets are equal, and nan if a set contains nan. Source: Szekely and Rizzo, 2013, "Energy statistics: a class of
    statistics based on distances".

    Args:
        within_x: E|X - X'| if it is already known.
    """
    within = mean_distance(x, x) if within_x is None else within_x
    distance = 2 * mean_distance(x, y) - within - mean_distance(y, y)
    return 0.0 if distance < 0 else distance  # rounding may make it negative


def mean_distance(x: Tensor, y: Tensor) -> float:
    """Return E|X - Y| of two sets of examples, computed in float64."""
    x, y = (of.flatten(1).cpu().double() if of.device.type == "mps" else of.flatten(1).double() for of in (x, y))
    exactly = "donot_use_mm_for_euclid_dist"
    sums = [
        torch.cdist(x[i : i + DISTANCE_BLOCK_ROWS], y, compute_mode=exactly).sum()
        for i in range(0, len(x), DISTANCE_BLOCK_ROWS)
    ]
    return float(torch.stack(sums).sum()) / (len(x) * len(y))
