"""Test the optimizers that torch lacks, and that every optimizer keeps its state when it is saved."""

import io

import pytest
import schedulefree
import torch
from torch import nn

from sweep.components import Component
from sweep.config import OptimizerConfig
from sweep.training.groups import build_optimizer, set_rate
from sweep.training.optimizers import Lion, Muon, load_exactly


def test_lion_moves_by_the_sign_and_decays_apart_from_it():
    """Compare with 2302.06675, algorithm 2, in plain floats."""
    w, m, lr, (beta1, beta2), decay = [1.0, -2.0, 0.5], [0.0, 0.0, 0.0], 0.1, (0.6, 0.8), 0.3
    weight = nn.Parameter(torch.tensor(w, dtype=torch.float64))
    optimizer = Lion([weight], lr=lr, betas=(beta1, beta2), weight_decay=decay)
    for gradient in ([0.5, -1.0, 0.0], [-0.1, 3.0, 0.0], [-9.0, 0.1, 2.0]):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        for i, g in enumerate(gradient):
            c = beta1 * m[i] + (1 - beta1) * g
            u = (c > 0) - (c < 0)
            w[i] -= lr * (u + decay * w[i])
            m[i] = beta2 * m[i] + (1 - beta2) * g
        assert weight.tolist() == pytest.approx(w, rel=1e-12)
    assert optimizer.state[weight]["momentum"].tolist() == pytest.approx(m, rel=1e-12)


def test_lion_leaves_a_weight_without_gradient_alone():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lion([{"params": [used]}, {"params": [unused]}], lr=0.1, weight_decay=0.5)
    used.grad = torch.ones(2)
    optimizer.step()
    assert unused.tolist() == [1, 1]
    assert used.tolist() == pytest.approx([0.85, 0.85])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lr": -1}, "lr=-1 must be"),
        ({"betas": (0.9, 1.0)}, "betas="),
        ({"betas": (-0.1, 0.9)}, "betas="),
        ({"betas": (0.9,)}, "betas="),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be"),
    ],
)
def test_lion_refuses_by_name(keys, said):
    with pytest.raises(ValueError, match=said):
        Lion([nn.Parameter(torch.ones(2))], **keys)


def shapes(part):
    return sorted(tuple(p.shape) for group in part.param_groups for p in group["params"])


def test_muon_takes_the_matrices_and_adamw_the_rest():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    optimizer = Muon(model.parameters(), lr=0.1)
    muon, adamw = optimizer.parts
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert shapes(muon) == [(5, 16)]
    assert shapes(adamw) == [(4,), (4,), (4,), (4, 1, 3, 3), (5,)]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


@pytest.mark.parametrize(("shape", "kind"), [((3, 3), torch.optim.Muon), ((3,), torch.optim.AdamW)])
def test_muon_needs_neither_kind_of_parameter(shape, kind):
    weight = nn.Parameter(torch.ones(shape))
    optimizer = Muon([weight], lr=0.1)
    weight.grad = torch.ones(shape)
    optimizer.step()
    assert [type(part) for part in optimizer.parts] == [kind]
    assert (weight != 1).all()
    optimizer.zero_grad()
    assert weight.grad is None


@pytest.mark.parametrize("shape", [(100, 100), (50, 400), (300, 60)])
def test_muon_moves_a_matrix_of_any_shape_by_as_much_as_adamw_usually_does(shape):
    """The root mean square is about 0.2 lr (2502.16982), so that one rate suits both."""
    weight = nn.Parameter(torch.zeros(shape))
    optimizer = Muon([weight], lr=0.01)
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.002, rel=0.2)


SHIPPED = [
    "adadelta", "adagrad", "adam", "adam_gp", "adamw", "lion", "momentum", "muon", "nadam", "nesterov", "radam",
    "rmsprop", "schedulefree", "sgd",
]  # fmt: skip


def test_every_optimizer_that_ships_is_here(optimizers):
    assert list(optimizers) == SHIPPED


class Training:
    """A model with its optimizer, whose updates depend on the step."""

    def __init__(self, config):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
        self.optimizer = build_optimizer(config, self.model)

    def train(self, begin, end):
        for step in range(begin, end):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).double()
            set_rate(self.optimizer, {None: [0.01 / (1 + step)]}, 0)
            self.optimizer.zero_grad()
            (self.model(x) - x[:, :2]).square().mean().backward()
            self.optimizer.step()

    @property
    def weights(self):
        return [w for p in self.model.parameters() for w in p.flatten().tolist()]


@pytest.mark.parametrize("groups", [None, {"bias_and_norm": {"lr_factor": 2.0, "weight_decay": 0.1}}])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_training_that_was_saved_goes_on_as_if_it_were_not(optimizers, name, groups):
    """The state is saved as plain data and tensors, which torch loads without running code."""
    config = type(optimizers[name])(optimizers[name].component, 0.01, groups=groups)
    whole, first, second = Training(config), Training(config), Training(config)
    whole.train(0, 12)
    first.train(0, 5)
    file = io.BytesIO()
    torch.save({"model": first.model.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.model.load_state_dict(saved["model"])
    load_exactly(second.optimizer, saved["optimizer"])
    assert second.weights == first.weights
    second.train(5, 12)
    assert second.weights == whole.weights
    assert whole.weights != first.weights


def classes(module):
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    return [f"{module.__name__}.{k.__name__}" for k in kinds if issubclass(k, torch.optim.Optimizer)]


NEEDS_MORE = {"torch.optim.Optimizer", "torch.optim.LBFGS", "torch.optim.SparseAdam"}
"""The base class, and optimizers that need a closure or sparse gradients, which are not supported."""


@pytest.mark.parametrize(
    "target",
    [
        *sorted({*classes(torch.optim)} - NEEDS_MORE),
        *(path for path in sorted(classes(schedulefree)) if not path.endswith(("Reference", "Closure", "Paper"))),
        "sweep.training.optimizers.Lion",
        "sweep.training.optimizers.Muon",
    ],
)
def test_the_rate_that_is_set_before_an_update_is_all_that_an_optimizer_uses_of_lr(target):
    """Therefore a digest of the curve need not include optimizer.lr."""

    def trained(lr):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2, bias="Muon" not in target or "sweep" in target))
        config = OptimizerConfig(Component("optimizer", target, {}), lr)
        optimizer = build_optimizer(config, model)
        for rate in (0.01, 0.03, 0.002):
            set_rate(optimizer, {None: [rate]}, 0)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        return [parameter.tolist() for parameter in model.parameters()]

    assert trained(0.1) == trained(0.7)
