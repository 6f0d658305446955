"""Test GANs, which have two optimizers, two steps and two curves, against plain PyTorch."""

from dataclasses import replace
from math import prod
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.config import CriticConfig
from sweep.core import Status, Trial
from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS
from sweep.training import NotStackableError, check, refuse_unstackable
from sweep.training.adversarial import (
    DRAWS_OF_CRITIC,
    DRAWS_OF_EVALUATION,
    DRAWS_OF_GENERATOR,
    DRAWS_OF_PENALTY,
    AdversarialEngine,
    _generator,
    energy_distance,
)
from sweep.training.batches import permutation
from sweep.training.device import CPU
from tests.training.user_models import own

SMALL = Component("model", "models.wgan.WGAN", {"generator_hidden": [32], "critic_hidden": [32], "latent": 8})


@pytest.fixture
def make_gan(make_trial, optimizers):
    """Build a trial of a GAN with two different schedules."""

    def make(*, optimizer="rmsprop", critic_optimizer=None, model=SMALL, steps=12, decay=None, warmup=None, **keys):
        trial = make_trial(
            model=model,
            optimizer=optimizer,
            lr=keys.pop("lr", 1e-3),
            decay=DECAYS["exponential"](decay_rate=0.5, decay_steps=5),
            warmup=WARMUPS["linear"](steps=3),
            **{"steps": steps, "eval_every": 5, "batch_size": 32}
            | {
                key: keys.pop(key)
                for key in ("eval_every", "batch_size", "precision", "clip_norm", "seed")
                if key in keys
            },
        )
        own = optimizers[critic_optimizer or optimizer]
        component = replace(own.component, key="critic.optimizer")
        critic = CriticConfig(
            optimizer=replace(own, component=component, lr=keys.pop("critic_lr", 2e-3)),
            decay=decay or DECAYS["cosine"](decay_steps=5 * steps - 7),
            warmup=warmup or WARMUPS["linear"](steps=7),
            **keys,
        )
        return replace(trial, config=replace(trial.config, critic=critic))

    return make


def engine(data, precision="float64"):
    return AdversarialEngine(data, CPU, precision)


def trained(data, trial, precision="float64", pause=lambda: False, cut=lambda: False):
    """Train a trial, with `cut` in two engines. Return its rows by series, evaluations, and last progress."""
    found, evaluations, status, trains = {}, [], None, engine(data, precision)
    trains.pause = pause
    trains.start(trial)

    def take(progress):
        for rows in progress.rows:
            steps, lr, loss = found.setdefault(rows.series, ([], [], []))
            steps += rows.steps.tolist()
            lr += rows.lr.tolist()
            loss += rows.loss.tolist()
        if progress.evaluation is not None:
            evaluations.append(progress.evaluation)
        return progress.status

    while status is None:
        for progress in trains.advance():
            status = take(progress)
        if status is None and cut():
            (progress,) = trains.snapshots()
            take(progress)
            trains = engine(data, precision)
            trains.pause = pause
            trains.start(replace(trial, state=progress.state))
    return found, evaluations, status


def by_hand(data, trial):
    """Train with algorithm 1 of 1701.07875, or of 1704.00028 with a penalty, in plain PyTorch and float64.

    Random numbers are those of the engine. The order of the updates, losses and rates are computed independently.
    """
    config, seed, b = trial.config, trial.seed, trial.config.train.batch_size
    torch.manual_seed(seed)
    model = config.model.build(input_shape=data.input_shape, n_outputs=data.n_outputs).double()
    real = data.train.inputs.double()
    g_optimizer = config.optimizer.component.build(model.generator.parameters(), lr=1.0)
    d_optimizer = config.critic.optimizer.component.build(model.critic.parameters(), lr=1.0)
    g_schedule, d_schedule = (series.schedule for series in config.series)
    n, per_epoch = config.critic.updates, -(-len(real) // b)
    losses = {"G_": [], "D_": []}

    def z(count, use, step):
        return torch.randn(count, model.latent, generator=_generator(seed, use, step)).double()

    for s in range(config.train.steps):
        for d in range(s * n, s * n + n):
            at = (d % per_epoch) * b
            x = real[permutation(len(real), seed, d // per_epoch)[at : at + b]]
            fake = model.generator(z(len(x), DRAWS_OF_CRITIC, d)).detach()
            loss = model.critic(fake).mean() - model.critic(x).mean()
            if config.critic.gradient_penalty:
                e = torch.rand(len(x), *[1] * (x.ndim - 1), generator=_generator(seed, DRAWS_OF_PENALTY, d)).double()
                mixed = (e * x + (1 - e) * fake).requires_grad_()
                slope = torch.autograd.grad(model.critic(mixed).sum(), mixed, create_graph=True)[0]
                norm = slope.reshape(len(x), -1).pow(2).sum(1).sqrt()
                loss = loss + config.critic.gradient_penalty * ((norm - 1) ** 2).mean()
            losses["D_"].append(loss.item())
            d_optimizer.param_groups[0]["lr"] = d_schedule(d)
            model.zero_grad()
            loss.backward()
            if config.critic.optimizer.clip_norm:
                nn.utils.clip_grad_norm_(model.critic.parameters(), config.critic.optimizer.clip_norm)
            d_optimizer.step()
            if config.critic.clip:
                with torch.no_grad():
                    for weights in model.critic.parameters():
                        weights.clamp_(-config.critic.clip, config.critic.clip)
        loss = -model.critic(model.generator(z(b, DRAWS_OF_GENERATOR, s))).mean()
        losses["G_"].append(loss.item())
        g_optimizer.param_groups[0]["lr"] = g_schedule(s)
        model.zero_grad()
        loss.backward()
        g_optimizer.step()
    return model, losses


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"clip": None, "gradient_penalty": 10.0, "optimizer": "adam"},
        {"updates": 1, "clip": 0.1, "optimizer": "sgd"},
        {"updates": 3, "critic_optimizer": "momentum", "clip": None},
    ],
    ids=["clipped", "penalty", "one to one", "three to one"],
)
def test_it_trains_as_by_hand(digits, make_gan, keys):
    trial = make_gan(**keys)
    found, evaluations, status = trained(digits, trial)
    model, losses = by_hand(digits, trial)
    assert status is Status.COMPLETE
    for series, expected in losses.items():
        np.testing.assert_allclose(found[series][2], expected, rtol=1e-10, atol=1e-14)
    latent = torch.randn(len(digits.val), model.latent, generator=_generator(0, DRAWS_OF_EVALUATION, 0)).double()
    with torch.no_grad():
        expected = naive_energy_distance(digits.val.inputs.double(), model.generator(latent))
    assert evaluations[-1].metrics["val_energy_distance"] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("keys", [{}, {"clip": None, "gradient_penalty": 10.0}], ids=["clipped", "penalty"])
def test_networks_that_write_into_their_inputs_train_as_those_that_copy_them(digits, make_gan, keys):
    wanted, found = (
        trained(digits, make_gan(model=own("WritingGan", copies=copies), steps=4, **keys)) for copies in (True, False)
    )
    assert found == wanted
    check(digits, [make_gan(model=own("WritingGan"), **keys).config])


def test_a_gan_in_parts_has_the_attributes_of_the_gan_in_one(digits, make_gan):
    trial = make_gan(model=own("CountingGan"), steps=6)
    assert trained(digits, trial, pause=lambda: True, cut=lambda: True) == trained(digits, trial)


@pytest.mark.parametrize("updates", [1, 5])
def test_each_series_has_every_update_once_at_its_own_rate(digits, make_gan, updates):
    trial = make_gan(updates=updates)
    found, evaluations, _ = trained(digits, trial)
    assert set(found) == {"G_", "D_"}
    for series, per_step in (("G_", 1), ("D_", updates)):
        steps, lr, _ = found[series]
        assert steps == list(range(12 * per_step))
        schedule = next(of.schedule for of in trial.config.series if of.name == series)
        assert lr == schedule.curve(12 * per_step).tolist()
    assert [evaluation.step for evaluation in evaluations] == [5, 10, 12]
    for evaluation in evaluations:
        assert evaluation.metrics["G_global_step"] == evaluation.step
        assert evaluation.metrics["D_global_step"] == evaluation.step * updates
        assert set(evaluation.metrics) == {"G_global_step", "D_global_step", "val_energy_distance"}


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    "keys", [{}, {"clip": None, "gradient_penalty": 10.0, "optimizer": "adam"}], ids=["wgan", "gp"]
)
def test_a_training_in_parts_is_the_training_in_one_to_the_bit(digits, make_gan, precision, keys):
    trial = make_gan(steps=40, precision=precision, **keys)
    whole, evaluations, _ = trained(digits, trial, precision)
    chance = Random(1)
    parts, again, status = trained(
        digits, trial, precision, pause=lambda: chance.random() < 0.2, cut=lambda: chance.random() < 0.5
    )
    assert status is Status.COMPLETE
    assert parts == whole
    assert again == evaluations
    for one, other in zip(evaluations, again, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


def test_the_critic_s_weights_are_within_the_clip_and_the_generator_s_are_not(digits, make_gan):
    trains, trial = engine(digits), make_gan(clip=0.02, steps=30)
    trains.start(trial)
    while trains.advance()[0].status is None:
        model = trains._slot.state.model
        assert max(float(weights.abs().max()) for weights in model.critic.parameters()) <= 0.02
        assert max(float(weights.abs().max()) for weights in model.generator.parameters()) > 0.02


def test_the_norm_of_a_gradient_is_clipped(digits, make_gan):
    sgd = {"optimizer": "sgd", "critic_optimizer": "sgd", "clip": None}
    free, _, _ = trained(digits, make_gan(**sgd))
    same, _, _ = trained(digits, make_gan(clip_norm=1e9, **sgd))
    bound, _, _ = trained(digits, make_gan(clip_norm=1e-9, **sgd))
    assert same == free
    assert bound["G_"][2] != free["G_"][2]


def test_the_samples_are_of_the_same_latent_numbers(digits, make_gan):
    _, evaluations, _ = trained(digits, make_gan(lr=1e-30, critic_lr=1e-30))
    assert evaluations[0].samples.shape == (64, *digits.input_shape)
    np.testing.assert_allclose(evaluations[0].samples, evaluations[-1].samples, atol=1e-7)
    _, other, _ = trained(digits, make_gan())
    assert not np.allclose(other[0].samples, other[-1].samples)


def test_the_seed_decides(digits, make_gan):
    first, again, other = (trained(digits, make_gan(seed=seed))[0] for seed in (3, 3, 4))
    assert first == again
    assert first["D_"][2] != other["D_"][2]


def test_evaluating_more_often_does_not_change_the_training(digits, make_gan):
    assert trained(digits, make_gan(eval_every=1))[0] == trained(digits, make_gan(eval_every=12))[0]


def test_a_final_trial_is_tested_at_its_end(digits, make_gan):
    _, evaluations, _ = trained(digits, replace(make_gan(), final=True))
    assert ["test_energy_distance" in evaluation.metrics for evaluation in evaluations] == [False, False, True]


def test_it_trains_more_steps_than_its_horizon(digits, make_gan):
    trial = make_gan()
    longer = replace(trial, config=replace(trial.config, train=replace(trial.config.train, more_steps=20)))
    found, _, _ = trained(digits, longer)
    assert found["G_"][0] == list(range(20))
    assert found["D_"][0] == list(range(100))
    assert found["D_"][1][60:] == [series.schedule for series in trial.config.series][1].curve(100)[60:].tolist()


class Breaking(nn.Module):
    """A GAN whose critic returns nan after a number of batches."""

    def __init__(self, input_shape, after: int) -> None:
        super().__init__()
        self.latent = 2
        n = prod(input_shape)
        self.generator = nn.Sequential(nn.Linear(2, n), nn.Unflatten(1, input_shape))
        self.critic = Until(n, after)


class Until(nn.Module):
    def __init__(self, n: int, after: int) -> None:
        super().__init__()
        self.inner, self.left = nn.Linear(n, 1), after

    def forward(self, x):
        self.left -= self.training
        return self.inner(x.flatten(1)).squeeze(1) * (1.0 if self.left >= 0 else float("nan"))


@pytest.mark.parametrize(
    ("calls", "generator", "critic"),
    [(0, 0, 1), (3, 0, 2), (10, 1, 5), (11, 1, 6), (13, 1, 7), (21, 2, 10)],
)
def test_it_diverges_at_the_first_loss_that_is_not_finite(digits, make_gan, calls, generator, critic):
    """The critic is called twice in each of its updates and once in each update of the generator."""
    trial = make_gan(model=Component("model", f"{__name__}.Breaking", {"after": calls}, trusted=(__name__,)))
    found, evaluations, status = trained(digits, trial)
    assert status is Status.DIVERGED
    assert [len(found.get(series, ([],))[0]) for series in ("G_", "D_")] == [generator, critic]
    last = found["G_" if calls % 11 == 10 else "D_"][2]
    assert np.isnan(last[-1])
    assert sum(np.isnan(of[2]).sum() for of in found.values()) == 1
    assert evaluations[-1].metrics == {"G_global_step": generator, "D_global_step": critic}


def naive_energy_distance(x, y):
    x, y = x.flatten(1).numpy(), y.flatten(1).numpy()

    def mean(a, b):
        return np.mean([[np.sqrt(((p - q) ** 2).sum()) for q in b] for p in a])

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def test_the_energy_distance():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 3, 2, generator=draw), torch.randn(50, 3, 2, generator=draw) + 0.3
    assert energy_distance(x, y) == pytest.approx(naive_energy_distance(x, y), rel=1e-5)
    assert energy_distance(x, y) == energy_distance(y, x) > 0
    assert energy_distance(x, x[torch.randperm(60, generator=draw)]) == pytest.approx(0, abs=1e-12)
    assert energy_distance(torch.zeros(4, 1), torch.ones(700, 1)) == pytest.approx(2.0)
    assert energy_distance(x, y + 5) > energy_distance(x, y)
    y[7, 1, 1] = torch.nan
    assert np.isnan(energy_distance(x, y))
    assert np.isnan(energy_distance(y, x))


def test_a_generator_that_its_last_update_has_broken_has_diverged(digits, make_gan):
    """The losses are finite, but the generated examples are not."""
    _, evaluations, status = trained(digits, make_gan(lr=1e300, steps=5))
    assert status is Status.DIVERGED
    assert "val_energy_distance" not in evaluations[-1].metrics


def test_a_schedule_free_generator_is_evaluated_with_its_average(digits, make_gan):
    trains, trial = engine(digits), make_gan(optimizer="schedulefree", lr=0.05, steps=10, eval_every=10)
    trains.start(trial)
    (progress,) = trains.advance()
    fresh = engine(digits)
    fresh.start(replace(trial, keeps_state=True))
    state = fresh._slot.state
    (_,) = fresh.advance()
    latent = torch.randn(len(digits.val), 8, generator=_generator(0, DRAWS_OF_EVALUATION, 0)).double()
    distances = []
    for mode in (state.optimizer.train, state.optimizer.eval):
        mode()
        with torch.no_grad():
            distances.append(energy_distance(digits.val.inputs.double(), state.critic.generator(latent)))
    assert progress.evaluation.metrics["val_energy_distance"] == pytest.approx(distances[1], rel=1e-9)
    assert distances[0] != pytest.approx(distances[1], rel=1e-3)


def test_it_is_not_stacked(digits, make_gan):
    with pytest.raises(NotStackableError, match="two optimizers"):
        refuse_unstackable(digits, CPU, [make_gan().config])


class Misshapen(nn.Module):
    def __init__(self, input_shape) -> None:
        super().__init__()
        self.latent, self.generator = 2, nn.Linear(2, 3)
        self.critic = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(1), nn.Linear(1, 1), nn.Flatten(0))


@pytest.mark.parametrize(
    ("model", "key", "rule"),
    [
        (Component("model", "models.mlp.MLP", {"hidden": [4]}), "model._target_", "modules generator and critic"),
        (
            Component("model", f"{__name__}.Misshapen", {}, (__name__,)),
            "model._target_",
            r"returns \[3\], not \[1, 8, 8\]",
        ),
    ],
)
def test_a_model_that_is_no_gan_is_refused(digits, make_gan, model, key, rule):
    with pytest.raises(InvalidValueError, match=rule) as error:
        check(digits, [make_gan(model=model, clip=None).config])
    assert error.value.key == key


def test_a_gan_without_a_critic_is_refused(digits, make_trial):
    with pytest.raises(InvalidValueError, match="critic=wgan") as error:
        check(digits, [make_trial(model=SMALL).config])
    assert error.value.key == "critic"


def test_what_the_critic_is_given_is_named_as_the_critic_s(digits, make_gan):
    trial: Trial = make_gan()
    critic = trial.config.critic
    component = replace(critic.optimizer.component, arguments={"alpha": -1.0})
    wrong = replace(critic, optimizer=replace(critic.optimizer, component=component))
    with pytest.raises(InvalidValueError) as error:
        check(digits, [replace(trial.config, critic=wrong)])
    assert error.value.key == "critic.optimizer"
