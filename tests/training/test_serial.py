"""Test what the serial engine refuses before training, and what only the serial engine does."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.core import Status
from sweep.errors import InvalidValueError
from sweep.training import SerialEngine


def engine(data, precision="float32"):
    return SerialEngine(data, torch.device("cpu"), precision)


def model(target, **arguments):
    return Component("model", target, arguments)


def test_it_has_one_slot(digits, make_trial):
    serial = engine(digits)
    assert serial.free == 1
    serial.start(make_trial())
    assert serial.free == 0


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16", "float64"])
@pytest.mark.parametrize("target", ["models.mlp.MLP", "models.cnn.CNN"])
def test_what_can_be_trained_passes(digits, make_trial, target, precision):
    trial = make_trial(model=model(target), precision=precision)
    assert engine(digits, precision).check(trial.config) is None


def test_a_batch_of_the_whole_training_split_passes_and_a_larger_one_is_refused(digits, make_trial):
    engine(digits).check(make_trial(batch_size=1079).config)
    with pytest.raises(InvalidValueError, match=r"^train\.batch_size=1080: .*1079 examples"):
        engine(digits).check(make_trial(batch_size=1080).config)


def test_a_model_that_needs_pictures_is_refused_for_features(line, make_trial):
    with pytest.raises(InvalidValueError, match=r"^model=.*\[3\]"):
        engine(line).check(make_trial(model=model("models.cnn.CNN"), batch_size=16).config)


def test_a_model_of_another_input_is_refused(digits, make_trial):
    wrong = model("torch.nn.Linear", in_features=5, out_features=10)
    with pytest.raises(InvalidValueError, match=r"^model\._target_=torch\.nn\.Linear: .*\[1, 8, 8\]"):
        engine(digits).check(make_trial(model=wrong).config)


def test_a_model_with_too_few_classes_is_refused(digits, make_trial):
    wrong = model("torch.nn.Linear", in_features=8, out_features=3)
    with pytest.raises(InvalidValueError, match=r"^model\._target_="):
        engine(digits).check(make_trial(model=wrong).config)


def test_a_model_with_outputs_of_another_width_is_refused_for_a_regression(line, make_trial):
    """Otherwise the mean squared error would broadcast the outputs over the targets."""
    wrong = model("torch.nn.Linear", in_features=3, out_features=4)
    with pytest.raises(InvalidValueError, match=r"^model\._target_="):
        engine(line).check(make_trial(model=wrong, batch_size=16).config)


def test_arguments_that_a_model_refuses_are_named(digits, make_trial):
    with pytest.raises(InvalidValueError, match=r"^model=.*hidden=\[0\]"):
        engine(digits).check(make_trial(model=model("models.mlp.MLP", hidden=[0])).config)


def test_checking_does_not_change_what_a_live_trial_draws(digits, make_trial, train):
    dropping = model("models.mlp.MLP", hidden=[16], dropout=0.5)
    expected = train(engine(digits), make_trial(model=dropping))[0].loss
    serial, losses = engine(digits), []
    serial.start(make_trial(model=dropping))
    while not serial.free:
        serial.check(make_trial(seed=4, model=dropping).config)
        for progress in serial.advance():
            losses += progress.rows[0].loss.tolist()
    assert losses == expected


class Noisy(nn.Module):
    """Has everything that an evaluation could disturb: dropout, statistics and noise in every forward pass."""

    def __init__(self, n_outputs):
        super().__init__()
        hidden = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, n_outputs))

    def forward(self, x):
        return self.layers(x + 0.01 * torch.randn_like(x))


def own(name):
    return Component("model", f"{__name__}.{name}", {}, trusted=(__name__,))


@pytest.mark.parametrize("keys", [{}, {"average": 0.9}, {"optimizer": "schedulefree"}], ids=["raw", "ema", "free"])
def test_evaluating_a_model_that_draws_does_not_change_what_is_trained(digits, make_trial, train, keys):
    keys = {**keys, "model": own("Noisy"), "precision": "float32"}
    often = train(engine(digits), make_trial(**keys, eval_every=1))[0]
    rarely = train(engine(digits), make_trial(**keys, eval_every=100))[0]
    assert often.loss == rarely.loss
    assert often.evaluations[-1].metrics == rarely.evaluations[-1].metrics


class Seen(nn.Linear):
    """Stores the sizes of the batches that it was trained on."""

    sizes: ClassVar[list[int]] = []

    def __init__(self, n_outputs):
        super().__init__(64, n_outputs)

    def forward(self, x):
        if self.training:
            self.sizes.append(len(x))
        return super().forward(x.flatten(1))


def test_no_more_than_a_micro_batch_is_computed_at_once(digits, make_trial, train):
    Seen.sizes.clear()
    train(engine(digits), make_trial(model=own("Seen"), batch_size=500, accumulate=200, steps=3))
    assert Seen.sizes == [3] * 100 + [2] * 100 + [3] * 100 + [2] * 100 + [1] * 79  # 1079 examples


def test_a_micro_batch_that_a_model_cannot_be_trained_on_is_refused(digits, make_trial):
    """BatchNorm cannot compute statistics of one example."""
    engine(digits).check(make_trial(model=own("Noisy"), accumulate=20).config)
    with pytest.raises(InvalidValueError, match=r"^train\.batch_size=64: .*train\.accumulate=40 .*more than 1 value"):
        engine(digits).check(make_trial(model=own("Noisy"), accumulate=40).config)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"groups": {"nothing*": {}}}, r"^optimizer\.groups=nothing\*: matches no parameter"),
        ({"groups": {"bias_and_norm": {"momentum": -1}}}, r"^optimizer\.groups\.bias_and_norm=.*Invalid momentum"),
        ({"optimizer": "schedulefree", "average": 0.9}, r"^average=ema: .*schedulefree.* averages the weights itself"),
    ],
)
def test_what_a_training_would_refuse_is_refused_before(digits, make_trial, keys, said):
    with pytest.raises(InvalidValueError, match=said):
        engine(digits).check(make_trial(**keys).config)


def test_a_trial_whose_average_is_not_finite_has_diverged(digits, make_trial, train):
    """The weights become finite again, but their average does not."""
    history = train(engine(digits), make_trial(model=own("Comeback"), average=0.9, eval_every=5))[0]
    assert history.status is Status.DIVERGED
    assert [(e.step, e.metrics) for e in history.evaluations] == [(5, {"global_step": 5})]


class Comeback(nn.Module):
    """Has an unused weight that is infinite during update 2."""

    def __init__(self, n_outputs):
        super().__init__()
        self.layer, self.useless, self.calls = nn.Linear(64, n_outputs), nn.Parameter(torch.zeros(())), 0

    def forward(self, x):
        if self.training:
            self.useless.data.fill_(torch.inf if self.calls == 2 else 0.0)
            self.calls += 1
        outputs = self.layer(x.flatten(1))
        return outputs if self.training else outputs + 0 * self.useless
