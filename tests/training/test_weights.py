"""Test that engines return the evaluated weights of a trial, as a state dict that the model class can load."""

from dataclasses import replace
from io import BytesIO
from math import prod

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.wgan import WGAN
from sweep.components import Component
from sweep.core import Status
from sweep.messages import Ranking
from sweep.training import SerialEngine
from sweep.training.adversarial import AdversarialEngine
from sweep.training.device import CPU
from tests.training.test_adversarial import SMALL, make_gan  # noqa: F401 a fixture
from tests.training.test_snapshots import NORMED, Normed, content


class Tied(nn.Module):
    """Two layers that share their weights, and one of them has two names."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        width = prod(input_shape)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.same, self.last = self.first, nn.Linear(width, n_outputs)

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.same(x.flatten(1)))))


class Sparse(nn.Module):
    """A layer, and a sparse buffer that changes in training."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layer = nn.Linear(prod(input_shape), n_outputs)
        self.register_buffer("graph", torch.eye(n_outputs).to_sparse())

    def forward(self, x):
        if self.training:
            self.graph = self.graph * 1.01
        return (self.graph @ self.layer(x.flatten(1)).T).T


TIED = Component("model", f"{__name__}.Tied", {}, trusted=(__name__,))
SPARSE = Component("model", f"{__name__}.Sparse", {}, trusted=(__name__,))


def ended(engine, *trials, metric="val_loss", **ranking):
    """Train trials, as many at once as the engine has slots, and return the last progress of each by its number."""
    engine.ranking = Ranking(metric, minimize=True, **ranking)
    waiting, found = list(trials), {}
    while len(found) < len(trials):
        while waiting and engine.free:
            engine.start(waiting.pop(0))
        found |= {one.trial: one for one in engine.advance() if one.status is not None}
    return found


def loaded(progress):
    return torch.load(BytesIO(progress.weights), weights_only=True)


def loss_of(model, weights, split):
    """Return the validation loss of a model in eval mode with these weights, in float64."""
    model.double().load_state_dict(weights)
    with torch.no_grad():
        return functional.cross_entropy(model.eval()(split.inputs.double()), split.targets).item()


@pytest.mark.parametrize("metric", ["val_loss", "val_loss_ema"])
def test_they_are_those_that_the_metric_was_measured_with(make_engine, make_trial, digits, metric):
    progress = ended(make_engine(digits), make_trial(model=NORMED, average=0.9, lr=0.05), metric=metric)[0]
    measured = progress.evaluation.metrics
    assert loss_of(Normed((8, 8), 10), loaded(progress), digits.val) == pytest.approx(measured[metric], rel=1e-9)
    assert measured["val_loss"] != pytest.approx(measured["val_loss_ema"], rel=1e-3)


def test_a_schedule_free_optimizer_gives_those_that_it_evaluates(make_trial, digits):
    trial = replace(make_trial(model=NORMED, optimizer="schedulefree", lr=0.05), keeps_state=True)
    progress = ended(SerialEngine(digits, CPU, "float64"), trial)[0]
    expected = progress.evaluation.metrics["val_loss"]
    assert loss_of(Normed((8, 8), 10), loaded(progress), digits.val) == pytest.approx(expected, rel=1e-12)
    trains = content(progress.state)["model"]
    assert loss_of(Normed((8, 8), 10), trains, digits.val) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("component", "model"), [(TIED, Tied), (SPARSE, Sparse)], ids=["tied parameters", "a sparse buffer"]
)
def test_they_are_the_models_own_state_dict(make_trial, digits, component, model):
    progress = ended(SerialEngine(digits, CPU, "float64"), make_trial(model=component, lr=0.05))[0]
    plain, weights = model((8, 8), 10), loaded(progress)
    assert list(weights) == list(plain.state_dict())
    expected = progress.evaluation.metrics["val_loss"]
    assert loss_of(plain, weights, digits.val) == pytest.approx(expected, rel=1e-12)


def test_those_of_a_gan_are_both_networks(make_gan, digits):  # noqa: F811
    trial = replace(make_gan(), keeps_state=True)
    progress = ended(AdversarialEngine(digits, CPU, "float64"), trial, metric="val_energy_distance")[0]
    weights, trains = loaded(progress), content(progress.state)["model"]
    WGAN((8, 8), **SMALL.arguments).load_state_dict(weights)
    assert list(weights) == list(trains)
    assert all(torch.equal(weights[name], trains[name]) for name in trains)


def test_a_trial_that_cannot_be_the_best_gives_none(make_engine, make_trial, digits):
    rates = {0: 0.02, 1: 0.05, 2: 1e-6, 3: 0.1}
    trials = [make_trial(number, lr=lr) for number, lr in rates.items()]
    found = ended(make_engine(digits), *trials)
    values = {number: progress.evaluation.metrics["val_loss"] for number, progress in found.items()}
    best = min(values, key=values.get)
    assert found[best].weights is not None
    assert found[2].weights is None
    better = ended(make_engine(digits), *trials, best=(values[best], best + 1))
    assert [number for number, progress in better.items() if progress.weights is not None] == [best]
    none = ended(make_engine(digits), *trials, best=(values[best], best))
    assert all(progress.weights is None for progress in none.values())


def test_where_trials_are_pruned_every_one_that_is_better_than_the_best_before_gives_them(make_trial, digits):
    trials = [make_trial(number, lr=lr) for number, lr in enumerate((0.1, 0.02))]
    engine = SerialEngine(digits, CPU, "float64")
    found = ended(engine, *trials)
    assert [progress.weights is not None for progress in found.values()] == [True, False]
    found = ended(engine, *trials, prunes=True)
    assert all(progress.weights is not None for progress in found.values())


def test_a_trial_that_diverges_gives_none(make_engine, make_trial, digits):
    progress = ended(make_engine(digits), make_trial(lr=1e200))[0]
    assert progress.status is Status.DIVERGED
    assert progress.weights is None
