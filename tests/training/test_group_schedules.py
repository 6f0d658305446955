"""Test groups of parameters with their own schedules."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.mlp import MLP
from sweep.components import Component
from sweep.config import CriticConfig, GroupSchedule
from sweep.errors import InvalidValueError
from sweep.schedules import DECAYS, WARMUPS, Event, Schedule
from sweep.training import FusedEngine
from sweep.training.batches import Batches
from sweep.training.groups import build_optimizer, recorded_group, set_rate
from sweep.training.state_io import read

COSINE = GroupSchedule(DECAYS["cosine"](decay_steps=30, end_factor=0.1), WARMUPS["linear"](steps=6))
HEAD = {"layers.3.*": {"lr_factor": 3.0, "weight_decay": 0.1}}


def grouped_trial(make_trial, optimizer="momentum", **options):
    """Return a trial that halves the rate every 4 updates after a warmup of 5, with a cosine for the last layer."""
    main = {"decay": DECAYS["exponential"](decay_rate=0.5, decay_steps=4), "warmup": WARMUPS["linear"](steps=5)}
    groups = {"groups": HEAD, "schedules": {"layers.3.*": COSINE}}
    return make_trial(optimizer=optimizer, **{"steps": 36, "lr": 0.05} | main | groups | options)


def main_factor(step):
    return step / 5 if step < 5 else 0.5 ** ((step - 5) / 4)


def head_factor(step):
    u = min(step - 6, 30) / 30
    return step / 6 if step < 6 else 0.9 * 0.5 * (1 + math.cos(math.pi * u)) + 0.1


PLAIN = {
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.05, weight_decay=0.01),
}


def plain_losses(data, optimizer):
    """Return the losses of a plain loop with torch's LambdaLR: float64, 36 updates."""
    torch.manual_seed(0)
    model = MLP(data.input_shape, data.n_outputs, hidden=(16,)).double()
    head = [p for name, p in model.named_parameters() if name.startswith("layers.3.")]
    body = [p for name, p in model.named_parameters() if not name.startswith("layers.3.")]
    update = PLAIN[optimizer]([{"params": body}, {"params": head, "lr": 0.15, "weight_decay": 0.1}])
    scheduler = torch.optim.lr_scheduler.LambdaLR(update, [main_factor, head_factor])
    order, losses, per_epoch = Batches(data.train, 64, 0, torch.device("cpu")).order, [], -(-len(data.train) // 64)
    for step in range(36):
        epoch, index = divmod(step, per_epoch)
        chosen = order(epoch)[index * 64 : (index + 1) * 64]
        update.zero_grad()
        loss = nn.functional.cross_entropy(model(data.train.inputs[chosen]), data.train.targets[chosen])
        loss.backward()
        update.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", list(PLAIN))
def test_a_training_equals_a_plain_loop_with_a_lambda_for_each_group(
    kind, make_engine, make_trial, train, digits, optimizer
):
    trial = grouped_trial(make_trial, optimizer)
    history = train(make_engine(digits), trial)[0]
    tolerance = kind.rtol or 1e-12
    np.testing.assert_allclose(history.loss, plain_losses(digits, optimizer), rtol=tolerance, atol=tolerance)
    assert history.lr == trial.config.schedule.curve(36).tolist()  # of the other parameters
    without = train(make_engine(digits), grouped_trial(make_trial, optimizer, schedules={}))[0]
    assert without.loss != history.loss


def test_a_training_that_was_interrupted_equals_one_that_was_not(kind, make_engine, make_trial, train, digits):
    trial = grouped_trial(make_trial, "adamw")
    whole = train(make_engine(digits), trial)[0]
    engine = make_engine(digits)
    engine.start(trial)
    engine.advance()
    (stopped,) = engine.snapshots()
    assert stopped.state.step == 10
    rest = train(make_engine(digits), replace(trial, state=stopped.state))[0]
    assert rest.loss == whole.loss[10:]
    assert rest.lr == whole.lr[10:]


def test_slots_with_and_without_such_a_group_do_not_mix(kind, make_engine, make_trial, train, digits):
    """A slot that takes the next trial keeps nothing of the previous schedule."""
    trials = [
        grouped_trial(make_trial, number=number, schedules={"layers.3.*": COSINE} if number % 2 else {})
        for number in range(4)
    ]
    engine = make_engine(digits)
    together = train(engine, *[replace(trial, keeps_state=True) for trial in trials])
    for trial in trials:
        alone = train(make_engine(digits), trial)[trial.number]
        assert together[trial.number].loss == pytest.approx(alone.loss, rel=kind.rtol)


def test_a_kept_state_has_the_schedules_of_its_own_trial(make_trial, digits):
    engine = FusedEngine(digits, torch.device("cpu"), "float64", 2)
    for number, schedules in enumerate([{"layers.3.*": COSINE}, {}]):
        engine.start(grouped_trial(make_trial, number=number, schedules=schedules))
    engine.advance()
    states = [read(progress.state) for progress in engine.snapshots()]
    named = [[group.get("lr_schedule") for group in state["optimizer"]["param_groups"]] for state in states]
    assert named == [[None, "layers.3.*"], [None, None]]


def test_a_group_without_a_warmup_of_its_own_has_that_of_the_others(make_trial):
    own = GroupSchedule(DECAYS["constant"]())
    (series,) = grouped_trial(make_trial, schedules={"layers.3.*": own}).config.series
    assert series.curves()["layers.3.*"][:7] == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.05])
    none = GroupSchedule(DECAYS["constant"](), WARMUPS["none"]())
    (series,) = grouped_trial(make_trial, schedules={"layers.3.*": none}).config.series
    assert series.curves()["layers.3.*"].tolist() == [0.05] * 36


def test_a_warmup_that_ends_on_a_condition_ends_for_the_groups_too(make_trial):
    own = {"layers.3.*": GroupSchedule(DECAYS["constant"]())}
    trial = grouped_trial(make_trial, schedules=own, warmup=WARMUPS["until_error"]())
    (series,) = trial.config.series
    curve = series.curves((Event(10, "warmup_end"),))["layers.3.*"]
    assert curve.tolist() == pytest.approx([0.005] * 10 + [0.05] * 26)


def test_beyond_the_horizon_the_schedules_of_groups_go_on(make_trial):
    (series,) = grouped_trial(make_trial).config.series
    beyond = series.curves(last=50)
    assert {name: len(curve) for name, curve in beyond.items()} == {None: 50, "layers.3.*": 50}
    assert beyond["layers.3.*"][36:] == pytest.approx([0.005] * 14)


def test_a_critic_counts_its_own_updates(make_trial):
    config = grouped_trial(make_trial).config
    critic = CriticConfig(config.optimizer, config.decay, config.warmup, updates=5)
    generator, other = replace(config, critic=critic).series
    assert len(generator.curves()["layers.3.*"]) == 36
    own = Schedule(0.05, COSINE.decay, COSINE.warmup)
    assert other.curves()["layers.3.*"].tolist() == own.curve(180).tolist()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            (DECAYS["plateau"](),),
            r"schedule\.name=plateau: depends on val_loss, which is possible for the schedule of all",
        ),
        ((DECAYS["constant"](), WARMUPS["until_error"]()), r"warmup\.name=until_error: depends on train_error"),
    ],
)
def test_a_group_waits_for_no_evaluation(parts, said):
    with pytest.raises(InvalidValueError, match=f"^{said}"):
        GroupSchedule(*parts)


@pytest.mark.parametrize(
    ("own", "lr", "said"),
    [
        (
            GroupSchedule(DECAYS["constant"](), WARMUPS["linear"](steps=36)),
            0.05,
            r"optimizer\.groups\.layers\.3\.\*\.warmup\.steps=36: must be less than the horizon of 36 updates",
        ),
        (
            GroupSchedule(DECAYS["power"]()),
            2.0,
            r"optimizer\.lr=2\.0: .* with optimizer\.groups\.layers\.3\.\*\.schedule",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make_trial, own, lr, said):
    with pytest.raises(InvalidValueError, match=f"^{said}"):
        grouped_trial(make_trial, schedules={"layers.3.*": own}, lr=lr)


def test_each_group_gets_its_rate_and_the_one_recorded_follows_the_main_schedule(make_trial):
    """This also holds if an optimizer divides a group, as Muon does."""
    config = grouped_trial(make_trial).config.optimizer
    muon = replace(config, component=Component("optimizer", "sweep.training.optimizers.Muon", {}))
    unscaled = {**config.groups, "layers.3.*": {}}
    for groups, factor in ((config.groups | {"layers.3.*": {"lr_factor": 3.0}}, 3.0), (unscaled, 1.0)):
        optimizer = build_optimizer(replace(muon, groups=groups), MLP((64,), 10, hidden=(16,)))
        set_rate(optimizer, {None: [0.1, 0.2], "layers.3.*": [0.3, 0.4]}, 1)
        rates = [(group["params"][0].shape[0], group["lr"]) for group in optimizer.param_groups]
        assert rates == [(16, 0.2), (10, pytest.approx(0.4 * factor)), (16, 0.2), (10, pytest.approx(0.4 * factor))]
        assert recorded_group(optimizer)["lr"] == 0.2
