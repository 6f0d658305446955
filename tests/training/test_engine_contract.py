"""Test the common contract of the engines. Each test runs for every kind in conftest.ENGINES."""

import copy
import dataclasses

import numpy as np
import pytest
import schedulefree
import torch
from torch import nn

from models.mlp import MLP
from sweep.components import Component
from sweep.core import Status
from sweep.data import Split
from sweep.schedules import DECAYS, WARMUPS
from sweep.training import SerialEngine, fused, serial
from sweep.training.batches import Batches

CPU = torch.device("cpu")


def grouped(parameters):
    """Return parameters, or groups of parameters, as groups."""
    given = list(parameters)
    return given if isinstance(given[0], dict) else [{"params": given}]


class PlainLion:
    """Implements 2302.06675, algorithm 2."""

    def __init__(self, parameters, lr):
        self.param_groups = grouped(parameters)
        self.momentum = {p: torch.zeros_like(p) for group in self.param_groups for p in group["params"]}
        for group in self.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                m, g = self.momentum[w], w.grad
                w -= group["lr"] * torch.sign(0.9 * m + (1 - 0.9) * g)
                self.momentum[w] = 0.99 * m + (1 - 0.99) * g


class PlainMuon:
    """Uses Muon for parameters with two dimensions, and AdamW for the others."""

    def __init__(self, parameters, lr):
        groups = grouped(parameters)
        matrices = [group | {"params": [p for p in group["params"] if p.ndim == 2]} for group in groups]
        others = [group | {"params": [p for p in group["params"] if p.ndim != 2]} for group in groups]
        self.parts = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, weight_decay=0.01),
        ]
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self):
        for part in self.parts:
            part.step()


def plain_schedulefree(parameters, lr):
    optimizer = schedulefree.AdamWScheduleFree(parameters, lr=lr)
    optimizer.train()
    return optimizer


PLAIN = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr),
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "nesterov": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True),
    "rmsprop": lambda parameters, lr: torch.optim.RMSprop(parameters, lr=lr, alpha=0.99),
    "adagrad": lambda parameters, lr: torch.optim.Adagrad(parameters, lr=lr),
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.999)),
    "adam_gp": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, betas=(0.0, 0.9)),
    "adamw": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01),
    "adadelta": lambda parameters, lr: torch.optim.Adadelta(parameters, lr=lr, rho=0.9),
    "nadam": lambda parameters, lr: torch.optim.NAdam(parameters, lr=lr, betas=(0.9, 0.999)),
    "radam": lambda parameters, lr: torch.optim.RAdam(parameters, lr=lr, betas=(0.9, 0.999)),
    "lion": PlainLion,
    "muon": PlainMuon,
    "schedulefree": plain_schedulefree,
}


def plain_training(
    data,
    optimizer,
    lr,
    *,
    updates,
    seed=0,
    network=None,
    batch_size=64,
    rate=None,
    norm=None,
    groups=None,
    look=None,
    drop_last=False,
    criterion=None,
):
    """Train with a handwritten loop in float64; return the losses and (val_loss, val_accuracy) after each update.

    The rate is the float lr, or rate(step) if it is given, times the "factor" of a group.

    Args:
        network: builds the model; None for an MLP with 16 hidden units.
        groups: model -> groups of its parameters.
        criterion: of (outputs, targets); None for cross entropy or the mean squared error.
        look: called with (step, model, optimizer) after each update, and with step -1 before the first.
    """
    torch.manual_seed(seed)
    model = (network or (lambda: MLP(data.input_shape, data.n_outputs, hidden=(16,))))().double()
    update = PLAIN[optimizer](groups(model) if groups else model.parameters(), lr)
    look = look or (lambda *_: None)
    look(-1, model, update)
    criterion = criterion or (nn.CrossEntropyLoss() if data.classification else nn.MSELoss())
    order = Batches(data.train, batch_size, seed, CPU).order
    batches_of_an_epoch = len(data.train) // batch_size if drop_last else -(-len(data.train) // batch_size)
    losses, validations = [], []
    for step in range(updates):
        epoch, index = divmod(step, batches_of_an_epoch)
        chosen = order(epoch)[index * batch_size : (index + 1) * batch_size]
        for group in update.param_groups:
            group["lr"] = (lr if rate is None else rate(step)) * group.get("factor", 1)
        model.zero_grad()
        loss = criterion(model(data.train.inputs[chosen]), data.train.targets[chosen])
        loss.backward()
        if norm is not None:
            clip(model, norm)
        update.step()
        losses.append(loss.item())
        validations.append(validated(data, model, criterion))
        look(step, model, update)
    return losses, validations


@torch.no_grad()
def validated(data, model, criterion=None):
    """Return (val_loss, val_accuracy) of a model without changing it."""
    criterion = criterion or (nn.CrossEntropyLoss() if data.classification else nn.MSELoss())
    model.eval()
    outputs = model(data.val.inputs)
    model.train()
    right = (outputs.argmax(1) == data.val.targets).double().mean() if data.classification else torch.nan
    return float(criterion(outputs, data.val.targets)), float(right)


def clip(model, norm):
    """Scale the whole gradient down to a norm of at most `norm`."""
    total = sum(float((p.grad**2).sum()) for p in model.parameters()) ** 0.5
    for p in model.parameters():
        p.grad *= min(1.0, norm / (total + 1e-6))


def assert_equal(found, expected, kind):
    """Assert equality, or equality within the tolerance of the kind of engine."""
    np.testing.assert_allclose(found, expected, rtol=kind.rtol, atol=kind.rtol)


def test_every_optimizer_that_ships_has_its_plain_counterpart_here(optimizers):
    assert PLAIN.keys() == optimizers.keys()


# --- rows


@pytest.mark.parametrize(
    ("steps", "eval_every"), [(25, 10), (30, 10), (1, 10), (7, 1), (10, 100), (36, 17)], ids=lambda v: str(v)
)
def test_every_update_has_its_row_once(make_engine, make_trial, train, digits, steps, eval_every):
    history = train(make_engine(digits), make_trial(steps=steps, eval_every=eval_every))[0]
    assert history.steps == list(range(steps))
    assert history.status is Status.COMPLETE


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("decay", ["exponential", "cosine", "piecewise"])
def test_the_rate_recorded_is_the_schedule_s(make_engine, make_trial, train, digits, optimizer, decay):
    keys = {
        "exponential": {"decay_rate": 0.7, "decay_steps": 3},
        "cosine": {"decay_steps": 18},
        "piecewise": {"boundaries": [9, 10], "values": [1, 0.3, 0.1]},
    }
    warmup = WARMUPS["linear"](steps=7, start_factor=0.1)
    trial = make_trial(optimizer=optimizer, decay=DECAYS[decay](**keys[decay]), warmup=warmup)
    history = train(make_engine(digits), trial)[0]
    assert history.lr == trial.config.schedule.curve(25).tolist()


# --- losses


@pytest.mark.parametrize("optimizer", list(PLAIN))
def test_a_constant_schedule_trains_exactly_as_a_plain_float(kind, make_engine, make_trial, train, digits, optimizer):
    trial = make_trial(optimizer=optimizer, steps=40)  # more than two epochs, with their smaller last batches
    lr = trial.config.optimizer.lr
    history = train(make_engine(digits), trial)[0]
    losses, _ = plain_training(digits, optimizer, lr, updates=40)
    assert_equal(history.loss, losses, kind)
    assert history.lr == [lr] * 40


@pytest.mark.parametrize("optimizer", list(PLAIN))
def test_update_s_uses_the_rate_of_step_s(kind, make_engine, make_trial, train, digits, optimizer):
    decay = DECAYS["exponential"](decay_rate=0.5, decay_steps=4, staircase=True)
    trial = make_trial(seed=5, optimizer=optimizer, decay=decay, eval_every=7)
    lr = trial.config.optimizer.lr
    history = train(make_engine(digits), trial)[0]
    losses, _ = plain_training(digits, optimizer, lr, updates=25, seed=5, rate=lambda step: lr * 0.5 ** (step // 4))
    assert_equal(history.loss, losses, kind)


def test_a_regression_trains_exactly_as_by_hand(kind, make_engine, make_trial, train, line):
    trial = make_trial(optimizer="sgd", lr=0.05, batch_size=16, steps=20)
    history = train(make_engine(line), trial)[0]
    losses, _ = plain_training(line, "sgd", 0.05, updates=20, batch_size=16)
    assert_equal(history.loss, losses, kind)


class Weight(nn.Module):
    """Multiplies the input by a weight that starts at 5."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[5.0]]))

    def forward(self, x):
        return x * self.weight


def test_with_drop_last_the_smaller_last_batch_is_left_out(kind, make_engine, make_trial, train, digits):
    """An epoch of 1079 examples has two batches of 500. Then the plain loop continues with the next epoch."""
    until = WARMUPS["until_error"](until_error=0.9, start_factor=0.5)
    trial = make_trial(steps=10, eval_every=5, batch_size=500, drop_last=True, optimizer="sgd", lr=0.2)
    counted = make_trial(steps=10, eval_every=5, batch_size=500, drop_last=True, warmup=until)
    engine = make_engine(digits)
    history = train(engine, trial)[0]
    losses, validations = plain_training(digits, "sgd", 0.2, updates=10, batch_size=500, drop_last=True)
    assert_equal(history.loss, losses, kind)
    assert_equal([e.metrics["val_loss"] for e in history.evaluations], [validations[4][0], validations[9][0]], kind)
    serial = train(SerialEngine(digits, CPU, "float64"), counted)[0]
    errors = [e.metrics["train_error"] for e in train(make_engine(digits), counted)[0].evaluations]
    assert errors == [e.metrics["train_error"] for e in serial.evaluations]
    assert all(round(error * 2500) == pytest.approx(error * 2500, abs=1e-6) for error in errors)  # 5 x 500 examples


def test_the_case_that_can_be_checked_by_hand(make_engine, make_trial, train, line):
    """The loss is (w + 1)^2, and w starts at 5: w(s+1) = w(s) - lr(s) * 2 (w(s) + 1)."""
    ones = Split({"x": torch.ones(8, 1), "y": -torch.ones(8, 1)})
    data = dataclasses.replace(line, train=ones, val=ones, test=ones)
    trial = make_trial(
        model=Component("model", f"{__name__}.Weight", {}, trusted=(__name__,)),
        optimizer="sgd",
        lr=0.2,
        decay=DECAYS["exponential"](decay_rate=0.95, decay_steps=1, staircase=True),
        batch_size=8,
        steps=100,
    )
    history = train(make_engine(data), trial)[0]
    w, losses, rates = 5.0, [], []
    for s in range(100):
        losses.append((w + 1) ** 2)
        rates.append(0.2 * 0.95**s)
        w -= rates[-1] * 2 * (w + 1)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-9)
    np.testing.assert_allclose(history.lr, rates, rtol=1e-12)


def test_gradients_are_clipped_by_the_norm_of_all_of_them(make_engine, make_trial, train, digits):
    history = train(make_engine(digits), make_trial(optimizer="sgd", clip_norm=0.3))[0]
    clipped, _ = plain_training(digits, "sgd", 0.1, updates=25, norm=0.3)
    free, _ = plain_training(digits, "sgd", 0.1, updates=25)
    np.testing.assert_allclose(history.loss, clipped, rtol=1e-9)
    assert not np.allclose(clipped, free, rtol=1e-3)


def test_a_clip_norm_above_every_gradient_changes_nothing(kind, make_engine, make_trial, train, digits):
    history = train(make_engine(digits), make_trial(optimizer="sgd", clip_norm=1e6))[0]
    assert_equal(history.loss, plain_training(digits, "sgd", 0.1, updates=25)[0], kind)


# --- groups of parameters


def weights_and_biases(model, **of_biases):
    """Return two groups as arguments of an optimizer."""
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    return [{"params": weights}, {"params": biases, **of_biases}]


@pytest.mark.parametrize("optimizer", list(PLAIN))
def test_a_group_is_updated_at_its_factor_of_the_rate(kind, make_engine, make_trial, train, digits, optimizer):
    decay = DECAYS["exponential"](decay_rate=0.5, decay_steps=4, staircase=True)
    trial = make_trial(optimizer=optimizer, decay=decay, groups={"bias_and_norm": {"lr_factor": 3.0}})
    lr = trial.config.optimizer.lr
    history = train(make_engine(digits), trial)[0]
    hand = {"updates": 25, "rate": lambda step: lr * 0.5 ** (step // 4)}
    losses, _ = plain_training(digits, optimizer, lr, groups=lambda m: weights_and_biases(m, factor=3.0), **hand)
    assert_equal(history.loss, losses, kind)
    assert losses != plain_training(digits, optimizer, lr, **hand)[0]
    assert history.lr == trial.config.schedule.curve(25).tolist()  # of the others


@pytest.mark.parametrize("optimizer", ["momentum", "muon"])
@pytest.mark.parametrize("name", ["layers.1.*", "layers.3.*", "bias_and_norm", "*.weight"])
def test_the_rate_recorded_is_of_the_parameters_in_no_group(make_engine, make_trial, train, digits, optimizer, name):
    """This holds wherever the optimizer stores these parameters."""
    trial = make_trial(optimizer=optimizer, lr=0.03, groups={name: {"lr_factor": 0.5}})
    assert train(make_engine(digits), trial)[0].lr == [0.03] * 25


def test_a_group_has_the_arguments_it_is_given_and_the_optimizer_s_own_for_the_rest(
    kind, make_engine, make_trial, train, digits
):
    trial = make_trial(optimizer="adamw", groups={"bias_and_norm": {"weight_decay": 5.0}})
    lr = trial.config.optimizer.lr
    history = train(make_engine(digits), trial)[0]
    losses, _ = plain_training(
        digits, "adamw", lr, updates=25, groups=lambda m: weights_and_biases(m, weight_decay=5.0)
    )
    assert_equal(history.loss, losses, kind)
    assert losses != plain_training(digits, "adamw", lr, updates=25)[0]


def test_the_first_name_that_matches_counts(kind, make_engine, make_trial, train, digits):
    def first_layer_then_biases(model):
        (weight, bias), (last_weight, last_bias) = model.layers[1].parameters(), model.layers[3].parameters()
        return [
            {"params": [last_weight]},
            {"params": [weight, bias], "factor": 0.1},
            {"params": [last_bias], "factor": 10.0},
        ]

    groups = {"layers.1.*": {"lr_factor": 0.1}, "bias_and_norm": {"lr_factor": 10.0}}
    history = train(make_engine(digits), make_trial(optimizer="sgd", groups=groups))[0]
    losses, _ = plain_training(digits, "sgd", 0.1, updates=25, groups=first_layer_then_biases)
    assert_equal(history.loss, losses, kind)
    other_way = {name: groups[name] for name in reversed(groups)}
    assert train(make_engine(digits), make_trial(optimizer="sgd", groups=other_way))[0].loss != history.loss


# --- micro-batches


@pytest.mark.parametrize("accumulate", [2, 3, 7, 60, 64])  # the last batch of an epoch has 55 examples
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_micro_batches_give_the_training_of_the_whole_batch(
    make_engine, make_trial, train, digits, optimizer, accumulate
):
    whole = train(make_engine(digits), make_trial(optimizer=optimizer, steps=40))[0]
    parts = train(make_engine(digits), make_trial(optimizer=optimizer, steps=40, accumulate=accumulate))[0]
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-9)
    assert (parts.steps, parts.lr, parts.status) == (list(range(40)), whole.lr, Status.COMPLETE)
    for found, expected in zip(parts.evaluations, whole.evaluations, strict=True):
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-9)


def test_micro_batches_of_a_regression_give_the_training_of_the_whole_batch(make_engine, make_trial, train, line):
    """The last batch, of 12 examples, is divided into parts of 3, 3, 2, 2, 2."""
    keys = {"optimizer": "sgd", "lr": 0.05, "batch_size": 16, "steps": 20}
    parts = train(make_engine(line), make_trial(**keys, accumulate=5))[0]
    np.testing.assert_allclose(parts.loss, train(make_engine(line), make_trial(**keys))[0].loss, rtol=1e-9)


def test_gradients_are_clipped_once_for_all_micro_batches(make_engine, make_trial, train, digits):
    history = train(make_engine(digits), make_trial(optimizer="sgd", clip_norm=0.3, accumulate=4))[0]
    clipped, _ = plain_training(digits, "sgd", 0.1, updates=25, norm=0.3)
    np.testing.assert_allclose(history.loss, clipped, rtol=1e-9)


# --- evaluations


@pytest.mark.parametrize(
    ("steps", "eval_every", "evaluated"), [(25, 10, [10, 20, 25]), (20, 10, [10, 20]), (5, 10, [5]), (3, 1, [1, 2, 3])]
)
def test_evaluations_are_every_eval_every_updates_and_at_the_end(
    make_engine, make_trial, train, digits, steps, eval_every, evaluated
):
    history = train(make_engine(digits), make_trial(steps=steps, eval_every=eval_every))[0]
    assert [evaluation.step for evaluation in history.evaluations] == evaluated
    assert [evaluation.metrics["global_step"] for evaluation in history.evaluations] == evaluated


def test_an_evaluation_is_of_the_whole_validation_split_after_its_updates(make_engine, make_trial, train, digits):
    history = train(make_engine(digits), make_trial(optimizer="sgd"))[0]
    _, validations = plain_training(digits, "sgd", 0.1, updates=25)
    for evaluation in history.evaluations:
        val_loss, val_accuracy = validations[evaluation.step - 1]
        assert evaluation.metrics["val_loss"] == pytest.approx(val_loss, rel=1e-9)
        assert evaluation.metrics["val_accuracy"] == pytest.approx(val_accuracy, rel=1e-9)


def test_a_validation_split_larger_than_one_evaluation_batch_is_averaged_over_its_examples(
    make_engine, make_trial, train, line
):
    history = train(make_engine(line), make_trial(optimizer="sgd", lr=0.05, batch_size=16, steps=20))[0]
    _, validations = plain_training(line, "sgd", 0.05, updates=20, batch_size=16)
    assert history.evaluations[-1].metrics["val_loss"] == pytest.approx(validations[-1][0], rel=1e-9)


@pytest.mark.parametrize(
    ("eval_batch_size", "memory", "largest"),
    [
        (None, 0, {"serial": 16, "fused": 48, "data_parallel": 16}),  # the memory of an update
        (None, 2**25, 2**11),
        (7, 2**25, 7),
    ],
)
def test_an_evaluation_takes_the_memory_of_an_update_or_a_little_or_as_many_examples_as_are_asked_for(
    kind, make_engine, make_trial, train, line, monkeypatch, request, eval_batch_size, memory, largest
):
    """The fused engine evaluates one of its three slots at a time, with the examples of all of them."""
    taken, name = [], request.node.callspec.params["kind"]
    monkeypatch.setattr("sweep.training.costs.EVALUATION_BYTES", memory)
    for module in (serial, fused):

        def in_order(split, size, device, given=module.in_order):
            taken.append(size)
            return given(split, size, device)

        monkeypatch.setattr(module, "in_order", in_order)
    engine = make_engine(line)
    monkeypatch.setattr(engine, "_examples_within", {})  # the data-parallel engine is shared by all tests
    trial = make_trial(optimizer="sgd", lr=0.05, batch_size=16, steps=20, eval_batch_size=eval_batch_size)
    history = train(engine, trial)[0]
    if memory and eval_batch_size is None:
        assert min(taken) >= largest
    else:
        assert set(taken) == {largest[name] if isinstance(largest, dict) else largest}
    _, validations = plain_training(line, "sgd", 0.05, updates=20, batch_size=16)
    assert history.evaluations[-1].metrics["val_loss"] == pytest.approx(validations[-1][0], rel=1e-9)


def test_a_regression_has_no_accuracy(make_engine, make_trial, train, line):
    history = train(make_engine(line), make_trial(batch_size=16))[0]
    assert {name for evaluation in history.evaluations for name in evaluation.metrics} == {"val_loss", "global_step"}


DROPPING = Component("model", "models.mlp.MLP", {"hidden": [16], "dropout": 0.3})


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    "keys",
    [{"optimizer": "momentum"}, {"optimizer": "momentum", "average": 0.9}, {"optimizer": "schedulefree", "lr": 0.1}],
    ids=["raw", "ema", "schedulefree"],
)
def test_evaluating_more_often_does_not_change_the_training(make_engine, make_trial, train, digits, keys, precision):
    keys = {**keys, "model": DROPPING, "precision": precision}
    often = train(make_engine(digits, precision), make_trial(**keys, eval_every=3))[0]
    rarely = train(make_engine(digits, precision), make_trial(**keys, eval_every=100))[0]
    assert often.loss == rarely.loss
    assert often.evaluations[-1].metrics == rarely.evaluations[-1].metrics


def test_schedule_free_evaluates_its_average_of_the_weights(make_engine, make_trial, train, digits):
    """It evaluates x and trains y = (1 - beta1) z + beta1 x (2405.15682)."""
    validations = {}

    def look(step, model, optimizer):
        if step >= 0:
            x = copy.deepcopy(model)
            for average, y in zip(x.parameters(), model.parameters(), strict=True):
                average.data = (y.data - (1 - 0.9) * optimizer.state[y]["z"]) / 0.9
            validations[step + 1] = validated(digits, x)

    trial = make_trial(optimizer="schedulefree", lr=0.1)
    history = train(make_engine(digits), trial)[0]
    _, trained = plain_training(digits, "schedulefree", 0.1, updates=25, look=look)
    for evaluation in history.evaluations:
        val_loss, val_accuracy = validations[evaluation.step]
        assert evaluation.metrics["val_loss"] == pytest.approx(val_loss, rel=1e-9)
        assert evaluation.metrics["val_accuracy"] == pytest.approx(val_accuracy, rel=1e-9)
        assert evaluation.metrics["val_loss"] != pytest.approx(trained[evaluation.step - 1][0], rel=1e-3)


# --- the average of the weights


class Average:
    """Computes a = d * a + (1 - d) * w after update s, with d = min(decay, (1 + s) / (10 + s))."""

    def __init__(self, data, decay):
        self.data, self.decay, self.validations = data, decay, {}

    def __call__(self, step, model, optimizer):
        if step < 0:
            self.weights = {name: w.detach().clone() for name, w in model.named_parameters()}
            return
        d = min(self.decay, (1 + step) / (10 + step))
        for name, w in model.named_parameters():
            self.weights[name] = d * self.weights[name] + (1 - d) * w.detach()
        averaged = copy.deepcopy(model)  # buffers too
        for name, w in averaged.named_parameters():
            w.data = self.weights[name]
        self.validations[step + 1] = validated(self.data, averaged)


class Normed(nn.Module):
    """A model with statistics in buffers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("decay", [0.0, 0.2, 0.999])  # 0.2: from the second update on
@pytest.mark.parametrize("model", ["mlp", "normed"])
def test_the_average_is_evaluated_beside_the_weights(kind, make_engine, make_trial, train, digits, decay, model):
    if model == "normed" and kind.splits_batches:
        pytest.skip("its statistics are those of a part of each batch")
    normed = Component("model", f"{__name__}.Normed", {}, trusted=(__name__,))
    given = {"model": normed} if model == "normed" else {}
    trial = make_trial(optimizer="sgd", average=decay, steps=15, eval_every=1, **given)
    history = train(make_engine(digits), trial)[0]
    look = Average(digits, decay)
    _, validations = plain_training(
        digits, "sgd", 0.1, updates=15, look=look, network=Normed if model == "normed" else None
    )
    for evaluation in history.evaluations:
        val_loss, val_accuracy = validations[evaluation.step - 1]
        val_loss_ema, val_accuracy_ema = look.validations[evaluation.step]
        assert evaluation.metrics == pytest.approx(
            {
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "val_loss_ema": val_loss_ema,
                "val_accuracy_ema": val_accuracy_ema,
                "global_step": evaluation.step,
            },
            rel=1e-9,
        )


def test_an_average_changes_neither_the_training_nor_what_else_is_evaluated(make_engine, make_trial, train, digits):
    plain = train(make_engine(digits), make_trial(model=DROPPING))[0]
    averaged = train(make_engine(digits), make_trial(model=DROPPING, average=0.99))[0]
    assert averaged.loss == plain.loss
    for with_average, without in zip(averaged.evaluations, plain.evaluations, strict=True):
        assert without.metrics.items() < with_average.metrics.items()


def test_the_average_of_a_regression_has_no_accuracy(make_engine, make_trial, train, line):
    history = train(make_engine(line), make_trial(batch_size=16, average=0.99))[0]
    assert history.evaluations[-1].metrics.keys() == {"val_loss", "val_loss_ema", "global_step"}


def test_after_a_trial_with_an_average_the_next_has_none_and_another_its_own(make_engine, make_trial, train, digits):
    engine = make_engine(digits)
    first = train(engine, make_trial(0, average=0.9))[0]
    assert "val_loss_ema" not in train(engine, make_trial(1))[1].evaluations[-1].metrics
    assert train(engine, make_trial(2, average=0.9))[2].evaluations[-1].metrics == first.evaluations[-1].metrics


def test_evaluation_drops_nothing(make_engine, make_trial, train, digits):
    """The rate is too small to change a weight, so an evaluation uses the initial weights, without dropout."""
    dropping = Component("model", "models.mlp.MLP", {"hidden": [16], "dropout": 0.5})
    trial = make_trial(model=dropping, optimizer="sgd", lr=1e-30, steps=3)
    evaluation = train(make_engine(digits), trial)[0].evaluations[-1]
    _, validations = plain_training(digits, "sgd", 1e-30, updates=3)
    assert evaluation.metrics["val_loss"] == pytest.approx(validations[-1][0], rel=1e-9)


def test_the_test_split_is_not_touched(make_engine, make_trial, train, digits):
    spoiled = Split({"x": torch.full_like(digits.test.inputs, torch.nan), "y": digits.test.targets})
    history = train(make_engine(dataclasses.replace(digits, test=spoiled)), make_trial())[0]
    expected = train(make_engine(digits), make_trial())[0]
    assert history.loss == expected.loss
    assert history.evaluations == expected.evaluations


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_final_trial_is_tested_at_its_end_and_trains_as_any_other(make_engine, make_trial, train, digits, average):
    plain = make_trial(average=average)
    final = train(make_engine(digits), dataclasses.replace(plain, final=True))[0]
    untested = train(make_engine(digits), plain)[0]
    validated_on_test = train(make_engine(dataclasses.replace(digits, val=digits.test)), plain)[0]
    assert (final.steps, final.lr, final.loss) == (untested.steps, untested.lr, untested.loss)
    assert final.evaluations[:-1] == untested.evaluations[:-1]
    last = validated_on_test.evaluations[-1].metrics
    tested = {name.replace("val_", "test_"): value for name, value in last.items() if name.startswith("val_")}
    assert len(tested) == (2 if average is None else 4)
    assert final.evaluations[-1].metrics == untested.evaluations[-1].metrics | tested


def test_where_there_is_no_test_split_a_final_trial_has_no_test_metrics(make_engine, make_trial, train, digits):
    untested = dataclasses.replace(digits, test=digits.test[:0])
    trial = make_trial()
    final = train(make_engine(untested), dataclasses.replace(trial, final=True))[0]
    assert final.evaluations == train(make_engine(digits), trial)[0].evaluations


# --- divergence


@pytest.mark.parametrize("eval_every", [100, 9])
def test_a_trial_diverges_at_the_first_update_whose_loss_is_not_finite(
    make_engine, make_trial, train, line, eval_every
):
    linear = Component("model", "models.mlp.MLP", {"hidden": []})
    trial = make_trial(model=linear, optimizer="sgd", lr=1e6, batch_size=16, steps=60, eval_every=eval_every)
    engine = make_engine(line)
    history = train(engine, trial)[0]
    losses, _ = plain_training(line, "sgd", 1e6, updates=60, network=lambda: MLP((3,), 1, hidden=()), batch_size=16)
    first = int(np.flatnonzero(~np.isfinite(losses))[0])
    assert 9 < first < 59
    assert first % 9 != 0  # else the evaluation before it has seen it
    assert history.status is Status.DIVERGED
    assert history.steps == list(range(first + 1))
    assert np.isfinite(history.loss[:-1]).all()
    assert not np.isfinite(history.loss[-1])
    assert all(np.isfinite(evaluation.metrics["val_loss"]) for evaluation in history.evaluations[:-1])
    assert history.evaluations[-1].step == first + 1
    assert history.evaluations[-1].metrics == {"global_step": first + 1}
    assert engine.free


def test_a_trial_whose_last_update_broke_it_has_diverged(make_engine, make_trial, train, line):
    """The only loss was computed before the update and is finite."""
    linear = Component("model", "models.mlp.MLP", {"hidden": []})
    engine = make_engine(line)
    history = train(engine, make_trial(model=linear, optimizer="sgd", lr=1e200, batch_size=16, steps=1))[0]
    assert history.status is Status.DIVERGED
    assert len(history.loss) == 1
    assert np.isfinite(history.loss[0])
    assert [(e.step, e.metrics) for e in history.evaluations] == [(1, {"global_step": 1})]
    assert engine.free


def test_after_a_trial_that_diverged_the_next_trains_as_ever(make_engine, make_trial, train, line):
    linear = Component("model", "models.mlp.MLP", {"hidden": []})
    broken = make_trial(0, model=linear, optimizer="sgd", lr=1e6, batch_size=16, steps=60, eval_every=100)
    sound = make_trial(1, optimizer="sgd", lr=0.05, batch_size=16)
    engine = make_engine(line)
    assert train(engine, broken)[0].status is Status.DIVERGED
    assert train(engine, sound)[1].loss == train(make_engine(line), sound)[1].loss


# --- what a trial draws


def test_the_same_seed_gives_the_same_training(make_engine, make_trial, train, digits):
    first = train(make_engine(digits), make_trial(seed=3))[0]
    again = train(make_engine(digits), make_trial(seed=3))[0]
    assert first == again


def test_another_seed_gives_another_training(make_engine, make_trial, train, digits):
    histories = train(make_engine(digits), make_trial(0, seed=3), make_trial(1, seed=4))
    assert histories[0].loss[0] != histories[1].loss[0]  # other weights, other batches
    assert histories[0].loss != histories[1].loss


def test_the_number_of_a_trial_does_not_change_it(make_engine, make_trial, train, digits):
    histories = train(make_engine(digits), make_trial(0, seed=3), make_trial(7, seed=3))
    assert histories[0].loss == histories[7].loss


def test_dropout_depends_on_the_seed_alone(make_engine, make_trial, train, digits):
    """It depends neither on earlier trials of the engine nor on random numbers that other code uses meanwhile."""
    model = Component("model", "models.mlp.MLP", {"hidden": [16], "dropout": 0.5})
    without = train(make_engine(digits), make_trial())[0].loss
    alone = train(make_engine(digits), make_trial(model=model))[0].loss
    assert alone != without

    engine = make_engine(digits)
    train(engine, make_trial(5, seed=9, model=model))
    assert train(engine, make_trial(model=model))[0].loss == alone

    other, interleaved = make_engine(digits), []
    engine.start(make_trial(model=model))
    other.start(make_trial(6, seed=8, model=model))
    while len(interleaved) < 25:
        for progress in engine.advance():
            interleaved += [loss for rows in progress.rows for loss in rows.loss.tolist()]
        other.advance()
        torch.rand(10)
    assert interleaved == alone


# --- slots


def test_a_slot_is_taken_from_start_to_end(make_engine, make_trial, digits):
    engine = make_engine(digits)
    slots = engine.free
    assert slots >= 1
    engine.start(make_trial(steps=20, eval_every=10))
    assert engine.free == slots - 1
    assert [progress.status for progress in engine.advance()] == [None]
    assert engine.free == slots - 1
    assert [progress.status for progress in engine.advance()] == [Status.COMPLETE]
    assert engine.free == slots


def test_a_stopped_trial_leaves_its_slot_and_gives_nothing_more(make_engine, make_trial, train, digits):
    engine, trial = make_engine(digits), make_trial(0)
    slots = engine.free
    engine.start(trial)
    engine.advance()
    engine.stop(trial)
    assert engine.free == slots
    assert engine.advance() == []
    assert train(engine, make_trial(1))[1].steps == list(range(25))


def test_an_engine_without_trials_has_nothing_to_advance(make_engine, digits):
    assert make_engine(digits).advance() == []


def test_a_trial_that_is_started_again_begins_at_its_start(make_engine, make_trial, train, digits):
    engine, trial = make_engine(digits), make_trial()
    engine.start(trial)
    engine.advance()
    engine.stop(trial)
    again = train(engine, trial)[0]
    assert again == train(make_engine(digits), trial)[0]


# --- precision and device


def test_float32_comes_near_float64(make_engine, make_trial, train, digits):
    single = train(make_engine(digits, "float32"), make_trial(optimizer="sgd", precision="float32"))[0]
    double = train(make_engine(digits, "float64"), make_trial(optimizer="sgd"))[0]
    assert single.loss != double.loss
    np.testing.assert_allclose(single.loss, double.loss, rtol=1e-4)
    assert single.lr == double.lr  # the schedule is float64 in every precision


def test_bf16_trains_and_stays_finite(make_engine, make_trial, train, digits):
    half = train(make_engine(digits, "bf16"), make_trial(optimizer="sgd", precision="bf16"))[0]
    single = train(make_engine(digits, "float32"), make_trial(optimizer="sgd", precision="float32"))[0]
    assert half.status is Status.COMPLETE
    assert np.isfinite(half.loss).all()
    assert half.loss != single.loss  # it computed in another precision
    np.testing.assert_allclose(half.loss, single.loss, rtol=0.03)
    assert half.evaluations[-1].metrics["val_loss"] == pytest.approx(
        single.evaluations[-1].metrics["val_loss"], rel=0.03
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; the rest of the suite does not")
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_cuda_agrees_with_the_cpu_in_float64(make_engine, make_trial, train, digits, optimizer):
    on_gpu = train(make_engine(digits, device="cuda"), make_trial(optimizer=optimizer))[0]
    on_cpu = train(make_engine(digits), make_trial(optimizer=optimizer))[0]
    assert on_gpu.steps == on_cpu.steps
    assert on_gpu.lr == on_cpu.lr
    np.testing.assert_allclose(on_gpu.loss, on_cpu.loss, rtol=1e-8)
    for found, expected in zip(on_gpu.evaluations, on_cpu.evaluations, strict=True):
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-8)
