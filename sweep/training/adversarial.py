"""The engine for two optimizers: a Wasserstein GAN, one at a time."""

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

SAMPLES = 64
"""Examples of an evaluation that are given as its samples."""

AT_ONCE = 4096
"""Examples that are generated at once."""

ROWS = 512
"""Examples whose distances to all others are computed at once."""

DRAWS_OF_CRITIC, DRAWS_OF_GENERATOR, DRAWS_OF_PENALTY, DRAWS_OF_EVALUATION = 0xD1, 0x61, 0xE9, 0xEA
"""What the numbers that are drawn are for: each has a sequence of its own."""


class AdversarialEngine(SerialEngine):
    """Trains one Wasserstein GAN at a time (1701.07875, algorithm 1), with two optimizers and two global steps.

    With n = critic.updates, update s of the generator comes after the updates n*s..n*s+n-1 of the critic. Update d of
    the critic takes batch d of the data, x [b, ...], and as many generated examples G(z), z ~ N(0, 1) [b, latent]:

        D_loss = mean D(G(z)) - mean D(x) + gradient_penalty * mean (|grad D(e x + (1 - e) G(z))| - 1)^2, e ~ U(0, 1)

    (1704.00028), and its weights are clipped after it; the generator's takes a batch of other z:

        G_loss = -mean D(G(z)).

    What update s draws is a function of the seed and s alone. It pauses after updates of the generator. The horizon
    counts these, and so does the boundary of an evaluation.
    """

    def __init__(self, data: Dataset, device: torch.device, precision: str) -> None:
        super().__init__(data, device, precision)
        self._within: dict[str, float] = {}
        """Mean distance between two examples of each split."""

    def check(self, config: RunConfig) -> None:
        self._check_batch(config)
        slot, examples = self._begin(Trial(0, config, config.train.seed)), config.train.batch_size
        gan, last = _Gan(self, slot), slot.state.batches.per_epoch - 1
        try:
            before = described(slot.state.model)
            self._train(slot, 0, 1)
            inputs = inputs_of(next(slot.state.batches.range(last, last + 1)))  # it may be smaller
            examples = len(inputs)
            gan.critic_loss(last, inputs)
            slot.state.model.eval()
            made, wanted = gan.samples(1).shape[1:], self.data.input_shape
            if made != wanted:
                raise ValueError(f"its generator gives {list(made)}, not {list(wanted)}")
        except InvalidValueError:
            raise
        except (Exception, SystemExit) as error:
            self._refuse_single(config, examples, error, lambda batch: gan.critic_loss(0, inputs_of(batch)))
            rule = f"cannot be trained as a GAN on examples of shape {list(self.data.input_shape)}: {refusal(error)}"
            raise InvalidValueError("model._target_", config.model.target, rule) from error
        with silenced():
            another = self.initial(config, config.train.seed)
        refuse_unstorable(slot.state, before, another, config)

    def _train(self, slot: Slot, begin: int, end: int) -> float:
        gan = _Gan(self, slot)
        n, clip = gan.config.updates, gan.config.clip
        generator = _Player(self, slot, 0, gan.parts.generator, slot.state.optimizer, begin, end)
        critic = _Player(self, slot, 1, gan.parts.critic, gan.parts.optimizer, begin * n, end * n)
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
        slot.add(0, begin, generator.rates[: kept[0]], losses[0][: kept[0]])
        slot.add(1, begin * n, critic.rates[: kept[1]], losses[1][: kept[1]])
        slot.state.global_step, gan.parts.global_step = begin + kept[0], begin * n + kept[1]
        return float(in_order[made - 1])

    def _evaluate(self, slot: Slot, splits: Mapping[str, Examples]) -> Evaluation:
        gan, state = _Gan(self, slot), slot.state
        state.model.eval()
        with evaluated_weights(gan.parts.generator, state.optimizer):
            metrics = {f"{name}_energy_distance": self._distance(name, split, gan) for name, split in splits.items()}
            samples = gan.samples(SAMPLES).float().cpu().numpy()
        return Evaluation(slot.trial.number, state.global_step, metrics | global_steps(state), samples)

    def _distance(self, name: str, split: Examples, gan: "_Gan") -> float:
        """The energy distance between a split and as many generated examples."""
        real = split.inputs.to(self.device)
        if name not in self._within:  # which is half of the work, and the same at every evaluation
            self._within[name] = mean_distance(real, real)
        return energy_distance(real, gan.samples(len(real)), self._within[name])


class _Gan:
    """The losses of a training, and its samples."""

    def __init__(self, engine: SerialEngine, slot: Slot) -> None:
        config, parts = slot.trial.config, slot.state.critic
        assert config.critic is not None
        assert parts is not None
        self.engine, self.seed, self.batch_size = engine, slot.trial.seed, config.train.batch_size
        self.config, self.parts, self.dropouts = config.critic, parts, slot.state.dropouts

    def critic_loss(self, update: int, inputs: Tensor) -> Tensor:
        """D_loss of a batch of the data, [b, ...]."""
        weight = self.config.gradient_penalty
        self._set_draws(update)
        with torch.no_grad():
            generated = self._generate(self._normal(len(inputs), self.seed, DRAWS_OF_CRITIC, update))
        with self.engine.computing():
            loss = self._scores(generated).mean() - self._scores(inputs).mean()
        return loss if weight is None else loss + weight * self._penalty(update, inputs, generated)

    def generator_loss(self, step: int) -> Tensor:
        """G_loss."""
        self._set_draws(step)
        generated = self._generate(self._normal(self.batch_size, self.seed, DRAWS_OF_GENERATOR, step))
        with self.engine.computing():
            return -self._scores(generated).mean()

    @torch.no_grad()
    def samples(self, n: int) -> Tensor:
        """Generated examples, [n, *shape], of latent numbers that are the same whatever the training."""
        latent = self._normal(n, 0, DRAWS_OF_EVALUATION, 0)
        return torch.cat([self._generate(latent[i : i + AT_ONCE]) for i in range(0, n, AT_ONCE)])

    def _set_draws(self, step: int) -> None:
        if self.dropouts:
            set_draws(self.dropouts, update_key(self.seed, step))

    def _scores(self, examples: Tensor) -> Tensor:
        """Return the critic's scores. It gets a copy, because the examples are used again, and it may write into it."""
        scores: Tensor = self.parts.critic(examples.clone())
        return scores

    def _generate(self, latent: Tensor) -> Tensor:
        with self.engine.computing():
            generated: Tensor = self.parts.generator(latent)
        return generated.to(self.engine.dtype)

    def _penalty(self, update: int, inputs: Tensor, generated: Tensor) -> Tensor:
        """Mean squared distance from 1 of the critic's slope between real and generated examples."""
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
        """z: [n, latent]; drawn on the CPU in float32, the same on every device and in every precision."""
        drawn = torch.randn(n, self.parts.latent, generator=_generator(seed, use, step))
        return moved(drawn.to(self.engine.dtype), self.engine.device)


class _Player:
    """One of the two networks, in its own updates begin..end-1.

    Args:
        place: of its series.
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
        """One update of its own parameters, and of no others, down the gradient of a loss."""
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
    """What draws the numbers of one update, on the CPU."""
    mixed = int(np.random.SeedSequence([seed, use, step]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(mixed)


def energy_distance(x: Tensor, y: Tensor, within_x: float | None = None) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two sets of examples, [n, ...] and [m, ...], with Euclidean norms.

    Means over all pairs, an example with itself included (the V-statistic): >= 0, and 0 where the sets are the same;
    nan where one of them has a nan. Szekely and Rizzo, 2013, "Energy statistics: a class of statistics based on
    distances".

    Args:
        within_x: E|X - X'|, where it is known.
    """
    within = mean_distance(x, x) if within_x is None else within_x
    distance = 2 * mean_distance(x, y) - within - mean_distance(y, y)
    return 0.0 if distance < 0 else distance  # by rounding


def mean_distance(x: Tensor, y: Tensor) -> float:
    """E|X - Y|, in float64."""
    x, y = (of.flatten(1).cpu().double() if of.device.type == "mps" else of.flatten(1).double() for of in (x, y))
    exactly = "donot_use_mm_for_euclid_dist"
    sums = [torch.cdist(x[i : i + ROWS], y, compute_mode=exactly).sum() for i in range(0, len(x), ROWS)]
    return float(torch.stack(sums).sum()) / (len(x) * len(y))
