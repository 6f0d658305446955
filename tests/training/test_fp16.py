"""Test that training in float16 with a loss scale equals a plain loop with torch's autocast and GradScaler."""

from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sweep.components import Component
from sweep.config import CriticConfig
from sweep.core import Status
from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS
from sweep.tasks import TASKS
from sweep.training import NotStackableError, SerialEngine, refuse_unstackable
from sweep.training.device import CPU
from tests.training.conftest import ENGINES
from tests.training.test_snapshots import assert_same, content, cut_by_chance
from tests.training.test_snapshots import train as train_to_the_end

STEPS = 20


class Loud(nn.Module):
    """Has gradients that overflow in float16 with the default loss scale of 65,536."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), 8), nn.Tanh(), nn.Linear(8, n_outputs))

    def forward(self, x):
        return self.layers(x) * 500


LOUD = Component("model", f"{__name__}.Loud", {}, trusted=(__name__,))


def weighted(outputs, targets):
    """Return the losses of a batch, and weights that differ between examples."""
    losses = functional.cross_entropy(outputs, targets, reduction="none")
    return losses, 1.0 + targets.to(losses.dtype)


WEIGHTED = TASKS["auto"](loss=Component("task.loss", f"{__name__}.weighted", {}, trusted=(__name__,)))


@pytest.fixture
def make_half(make_trial):
    return partial(make_trial, precision="fp16", optimizer="momentum", steps=STEPS, eval_every=7)


def plainly(trial, data, loss_of):
    """Train with a plain loop. Return the losses, the weights, the loss scale and the skipped updates."""
    config, start = trial.config, SerialEngine(data, CPU, "fp16").initial(trial.config, trial.seed)
    model, scaler = start.model.train(), torch.amp.GradScaler("cpu")
    arguments = config.optimizer.component.arguments
    optimizer = torch.optim.SGD(model.parameters(), config.optimizer.lr, **arguments)
    losses, skipped = [], []
    for step, batch in enumerate(start.batches.range(0, config.train.steps)):
        x, y = batch["x"], batch["y"]
        optimizer.zero_grad()
        parts = list(zip(x.chunk(config.train.accumulate), y.chunk(config.train.accumulate), strict=True))
        total, weight = 0.0, 0.0
        for inputs, targets in parts:
            with torch.autocast("cpu", torch.float16):
                outputs = model(inputs)
                loss, own = loss_of(outputs, targets)
            if len(parts) == 1:
                loss, own = loss / own, 1.0
            scaler.scale(loss).backward()
            total, weight = total + loss.detach(), weight + own
        for parameter in model.parameters():
            parameter.grad /= weight
        losses.append(float(total / weight))
        scaler.unscale_(optimizer)
        if config.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < before:
            skipped.append(step)
    return losses, model.state_dict(), scaler.get_scale(), skipped


def mean(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="sum"), float(len(targets))


def weighted_sum(outputs, targets):
    losses, weights = weighted(outputs, targets)
    return (losses * weights).sum(), weights.sum()


def share_of_64(outputs, targets):
    """Return the terms of a weighted mean, scaled to a mean over a batch of 64."""
    total, weight = weighted_sum(outputs, targets)
    return total / 64, weight / 64


@pytest.mark.parametrize(
    ("keys", "loss_of"),
    [
        ({}, mean),
        ({"clip_norm": 0.5}, mean),
        ({"model": LOUD, "lr": 1e-5}, mean),
        ({"model": LOUD, "lr": 1e-5, "clip_norm": 0.5}, mean),
        ({"task": WEIGHTED}, weighted_sum),
        ({"task": WEIGHTED, "accumulate": 4, "clip_norm": 0.5, "drop_last": True}, share_of_64),
    ],
    ids=["mlp", "clipped", "skipping", "skipping and clipped", "weighted", "weighted in micro-batches"],
)
def test_it_equals_a_plain_loop(make_half, digits, keys, loss_of):
    trial = make_half(**keys)
    losses, weights, scale, skipped = plainly(trial, digits.place(CPU, torch.float32), loss_of)
    (found,) = train_to_the_end(["serial"], digits, "fp16", [trial]).values()
    assert found.status is Status.COMPLETE
    assert [loss for _, _, loss in found.rows] == losses
    held = content(found.state)
    assert held["scaler"]["scale"] == scale
    assert bool(skipped) == ("model" in keys)
    for name, value in weights.items():
        assert value.dtype == torch.float32
        assert torch.equal(held["model"][name], value)


def test_without_weights_micro_batches_equal_the_plain_loop(make_half, digits):
    """Each micro-batch is weighted with its share of the examples."""
    trial = make_half(accumulate=4, drop_last=True)

    def part(outputs, targets):
        return functional.cross_entropy(outputs, targets) / 4, 0.25

    losses, weights, scale, _ = plainly(trial, digits.place(CPU, torch.float32), part)
    (found,) = train_to_the_end(["serial"], digits, "fp16", [trial]).values()
    assert [loss for _, _, loss in found.rows] == losses
    held = content(found.state)
    assert held["scaler"]["scale"] == scale
    for name, value in weights.items():
        assert torch.equal(held["model"][name], value)


def hundredfold(outputs, targets):
    """Return a hundred values per example, as for the tokens of a text, of which the first half has weights."""
    losses, weights = weighted(outputs, targets)
    counted = torch.arange(100, device=targets.device) < 50
    return losses[:, None].expand(-1, 100), weights[:, None] * counted


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("serial", {"accumulate": 4}),
        ("data_parallel", {"workers": 2}),
        ("data_parallel", {"accumulate": 2, "workers": 3}),
    ],
    ids=["micro-batches", "workers", "both"],
)
def test_a_weighted_sum_over_parts_of_a_batch_skips_no_more_updates_than_the_mean(make_half, digits, kind, keys):
    task = TASKS["auto"](loss=Component("task.loss", f"{__name__}.hundredfold", {}, trusted=(__name__,)))
    (whole,) = train_to_the_end(["serial"], digits, "fp16", [make_half(task=task)]).values()
    (parts,) = train_to_the_end([kind], digits, "fp16", [make_half(task=task, **keys)]).values()
    for found in (whole, parts):
        assert content(found.state)["scaler"]["scale"] == 2.0**16
    losses = [[loss for _, _, loss in found.rows] for found in (parts, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-2)


def test_a_weighted_sum_is_added_to_the_gradient_that_is_there(make_half, digits):
    engine, trial = SerialEngine(digits, CPU, "fp16"), make_half(task=WEIGHTED)
    state = engine.initial(trial.config, trial.seed)
    (batch,) = state.batches.range(0, 1)
    gradients = []
    for _ in range(2):
        _, weight = engine.backward(state, batch, 4, 0, 0)
        gradients.append([parameter.grad.clone() for parameter in state.model.parameters()])
    assert weight == (1.0 + batch["y"]).sum()
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(twice, 2 * once)


def test_a_gradient_that_is_not_finite_skips_the_update_and_halves_the_scale(make_half, digits):
    engine, trial = SerialEngine(digits, CPU, "fp16"), make_half(model=LOUD, lr=1e-5, average=0.9)
    initial = engine.initial(trial.config, trial.seed)
    updates = iter(range(100))
    engine.pause = lambda: next(updates) >= 0
    engine.start(trial)
    engine.advance()
    (progress,) = engine.snapshots()
    held = content(progress.state)
    assert held["scaler"]["scale"] == 2.0**15
    assert held["global_step"] == 1, "an update that is skipped is a step"
    (rows,) = progress.rows
    assert rows.steps.tolist() == [0]
    assert np.isfinite(rows.loss).all()
    for name, value in initial.model.state_dict().items():
        assert torch.equal(held["model"][name], value)
    assert not held["optimizer"]["state"], "the optimizer made no update"


@pytest.mark.parametrize("kind", ["serial", "data_parallel"])
@pytest.mark.parametrize("model", [None, LOUD], ids=["mlp", "skipping"])
def test_resumed_equals_uninterrupted(make_half, digits, kind, model):
    workers = {"workers": 2} if kind == "data_parallel" else {}
    trial = make_half(clip_norm=1.0, **workers, **({} if model is None else {"model": model, "lr": 1e-5}))
    expected = train_to_the_end([kind], digits, "fp16", [trial])
    found = cut_by_chance([kind], digits, "fp16", [trial], pauses=0.5, cuts=0.6)
    assert_same(found, expected)
    assert (content(found[0].state)["scaler"]["scale"] < 2.0**16) == (model is not None)


def test_workers_skip_the_same_updates(make_half, digits):
    """A gradient that is not finite in one worker is not finite in the sum, so two workers equal two micro-batches."""
    (alone,) = train_to_the_end(["serial"], digits, "fp16", [make_half(model=LOUD, lr=1e-4, accumulate=2)]).values()
    (shared,) = train_to_the_end(
        ["data_parallel"], digits, "fp16", [make_half(model=LOUD, lr=1e-4, workers=2)]
    ).values()
    assert content(shared.state)["scaler"] == content(alone.state)["scaler"]
    assert content(shared.state)["scaler"]["scale"] < 2.0**16
    losses = [[loss for _, _, loss in found.rows] for found in (shared, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert losses[0][-1] < losses[0][0] / 2


def test_a_search_trains_one_trial_at_a_time_and_says_why(make_half, digits):
    with pytest.raises(NotStackableError, match=r"^fp16 has a loss scale for each trial"):
        refuse_unstackable(digits, CPU, [make_half().config])
    with pytest.raises(NotStackableError, match=r"^fp16 has a loss scale for each trial"):
        ENGINES["fused"].build(digits, CPU, "fp16").start(make_half())


def test_a_gan_refuses_it(make_half, optimizers):
    config, own = make_half().config, optimizers["momentum"]
    critic = CriticConfig(own, DECAYS["constant"](), WARMUPS["none"]())
    with pytest.raises(InvalidValueError, match=r"^train\.precision=fp16: is not supported for a GAN"):
        replace(config, critic=critic)
