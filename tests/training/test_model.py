"""Test how users' models are built, what is refused before anything is created, and what output is shown."""

import logging
import random
import sys
import warnings
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.config import CriticConfig, EngineConfig
from sweep.core import Trial
from sweep.errors import InvalidValueError
from sweep.messages import Work
from sweep.schedules import DECAYS, WARMUPS
from sweep.training import CPU, FusedEngine, NotStackableError, SerialEngine, check, refuse_unstackable
from sweep.training.adversarial import AdversarialEngine
from sweep.training.autotune import choose
from sweep.training.model import build_model, silenced
from tests.conftest import start


class Net(nn.Module):
    """A network with one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x):
        return self.layers(x)


class Lazy(Net):
    """Has all kinds of lazy layers, also in a submodule, and a buffer that counts the forward passes."""

    def __init__(self) -> None:
        super().__init__()
        features = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten())
        self.layers = nn.Sequential(
            features, nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.Dropout(0.2), nn.LazyLinear(10)
        )
        self.register_buffer("calls", torch.zeros(()))
        self.layers[2].eval()

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class LazyGan(nn.Module):
    """A GAN with lazy layers."""

    def __init__(self, input_shape) -> None:
        super().__init__()
        self.latent = 8
        shape = nn.Unflatten(1, tuple(input_shape))
        self.generator = nn.Sequential(nn.LazyLinear(32), nn.LazyBatchNorm1d(), nn.LazyLinear(prod(input_shape)), shape)
        self.critic = nn.Sequential(nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(1), nn.Flatten(0))


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.LazyLinear(3)


class Mixing(Net):
    """Mixes its outputs with a sparse matrix."""

    def __init__(self, layout="coo") -> None:
        super().__init__()
        mix = 0.5 * torch.eye(10) + 0.05
        self.register_buffer("mix", mix.to_sparse() if layout == "coo" else mix.to_sparse_csr())

    def forward(self, x):
        return torch.sparse.mm(self.mix, super().forward(x).T).T


class Scaling(Net):
    """Multiplies its outputs by an expanded buffer that has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((1,), 0.5).expand(10))
        self.layers.register_buffer("same", self.scale)

    def forward(self, x):
        return super().forward(x) * self.scale


class With(Net):
    """Has an additional tensor, as a parameter or a buffer."""

    def __init__(self, kind) -> None:
        super().__init__()
        if kind == "frozen":
            self.requires_grad_(False)
        elif kind == "nothing":
            self.layers = nn.Flatten()
        elif kind == "expanded":
            self.extra = nn.Parameter(torch.ones(1).expand(3))
        elif kind == "sparse":
            self.extra = nn.Parameter(torch.eye(3).to_sparse())
        elif kind == "meta":
            self.part = nn.Linear(3, 3, device="meta")
        elif kind == "nested":
            self.register_buffer("extra", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))


class Answering(Net):
    """Returns a wrong shape, in training or in evaluation mode."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.kind, self.late = kind, None

    def forward(self, x):
        outputs = super().forward(x)
        if self.kind == "creates" and self.late is None:
            self.late = nn.Linear(3, 3)
        if self.kind == "tuple" or (self.kind == "eval tuple" and not self.training):
            return outputs, x
        return {"logits": outputs} if self.kind == "dict" else outputs


class FixedBatch(Net):
    def forward(self, x):
        return super().forward(x.reshape(83, 64))


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


class Squeezing(Net):
    def forward(self, x):
        return super().forward(x).squeeze(0)


class NormedGan(LazyGan):
    def __init__(self, input_shape) -> None:
        super().__init__(input_shape)
        self.critic = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Linear(8, 1), nn.Flatten(0)
        )


class Drawn(Net):
    """Draws its weights from the generators of NumPy and Python, and seeds that of torch."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        super().__init__()
        self.layers[1].weight.data = torch.tensor(np.random.normal(size=(16, 64)) * random.random()).float()


log = logging.getLogger(__name__)


class Talking(Net):
    """Announces that it is built in every kind of output."""

    def __init__(self) -> None:
        super().__init__()
        print("built: printed")
        print("built: to the error stream", file=sys.stderr)
        warnings.warn("built: warned", stacklevel=1)
        log.warning("built: logged")


def function(n_outputs, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, n_outputs))


def scripted(n_outputs):
    return torch.jit.script(function(n_outputs))


def no_module():
    return print


def model(built, **arguments):
    return Component("model", f"{__name__}.{built.__name__}", arguments, trusted=(__name__,))


@pytest.fixture
def make_config(make_trial):
    def make(built, arguments=None, **keys):
        return make_trial(model=model(built, **(arguments or {})), **keys).config

    return make


@pytest.fixture
def make_gan_config(make_config, optimizers):
    def make(built, **keys):
        own = optimizers["rmsprop"]
        component = replace(own.component, key="critic.optimizer")
        critic = CriticConfig(replace(own, component=component), DECAYS["constant"](), WARMUPS["none"]())
        return replace(make_config(built, optimizer="rmsprop", steps=4, **keys), critic=critic)

    return make


def losses(engine, config, seed=0):
    engine.start(Trial(0, config, seed))
    reached = []
    while engine.free < engine.slots:
        reached += engine.advance()
    return [float(loss) for progress in reached for rows in progress.rows for loss in rows.loss]


# --- lazy parameters


def test_lazy_parameters_are_those_of_a_plain_loop_that_calls_its_model_once(digits, make_config):
    found = build_model(make_config(Lazy), 3, digits)
    torch.manual_seed(3)
    plain = Lazy().eval()
    with torch.no_grad():
        plain(digits.train.inputs[:2].float())
    plain.calls.zero_()
    assert {name: tensor.tolist() for name, tensor in found.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in plain.state_dict().items()
    }


def test_materialising_leaves_no_trace(digits, make_config):
    before = digits.train.inputs.clone()
    found = build_model(make_config(Lazy), 3, digits)
    assert torch.equal(digits.train.inputs, before)
    assert found.calls == 0
    assert not found.layers[0][1].running_mean.any()
    assert found.layers[0][1].num_batches_tracked == 0
    assert [found.training, found.layers[2].training] == [True, False]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in found.parameters())


def test_the_global_generators_are_those_of_the_seed_after_a_model_is_built(digits, make_config):
    drawn = []
    for before, seed in ((5, 3), (6, 3), (5, 4)):
        random.seed(before)
        np.random.seed(before)
        build_model(make_config(Net), seed, digits)
        drawn.append((random.random(), np.random.random(), float(torch.rand(()))))
    first, again, other = drawn
    assert again == first
    assert not set(other) & set(first)


def test_initial_weights_are_a_function_of_the_seed_wherever_they_are_drawn(digits, make_config):
    config = make_config(Drawn)
    first, again, other = (build_model(config, seed, digits).layers[1].weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_lazy_model_is_stacked_and_goes_on_from_a_checkpoint(digits, make_config):
    config = make_config(Lazy, steps=20)
    refuse_unstackable(digits, CPU, [config])
    alone = losses(SerialEngine(digits, CPU, "float64"), config)
    np.testing.assert_allclose(losses(FusedEngine(digits, CPU, "float64", 2, [config]), config), alone, rtol=1e-9)
    engine = SerialEngine(digits, CPU, "float64")
    engine.start(Trial(0, config, 0))
    first = [float(loss) for rows in engine.advance()[0].rows for loss in rows.loss]
    (stopped,) = engine.snapshots()
    other = SerialEngine(digits, CPU, "float64")
    other.start(Trial(0, config, 0, state=stopped.state))
    assert first + [float(loss) for rows in other.advance()[0].rows for loss in rows.loss] == alone


def test_a_gan_may_be_lazy(digits, make_gan_config):
    config = make_gan_config(LazyGan)
    check(digits, [config])
    engine = AdversarialEngine(digits, CPU, "float64")
    assert np.isfinite(losses(engine, config)).all()


# --- what a model holds


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_sparse_buffer_trains_one_by_one(digits, make_config, layout):
    config = make_config(Mixing, {"layout": layout}, optimizer="sgd", lr=0.1, steps=8)
    check(digits, [config])
    torch.manual_seed(0)
    plain, found = Mixing().double(), losses(SerialEngine(digits, CPU, "float64"), config)
    order = SerialEngine(digits, CPU, "float64").initial(config, 0).batches
    for batch, loss in zip(order.range(0, 8), found, strict=True):
        inputs, targets = batch["x"], batch["y"]
        expected = nn.functional.cross_entropy(plain(inputs), targets)
        plain.zero_grad()
        expected.backward()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter -= 0.1 * parameter.grad
        assert expected.item() == pytest.approx(loss, rel=1e-12)
    with pytest.raises(NotStackableError, match="mix of the model is sparse"):
        refuse_unstackable(digits, CPU, [config])


def test_an_expanded_buffer_becomes_contiguous_once(digits, make_config):
    built = build_model(make_config(Scaling), 0, digits)
    assert built.scale is built.layers.same
    assert built.scale.tolist() == [0.5] * 10
    built.load_state_dict(built.state_dict())  # which writes to it


@pytest.mark.parametrize(
    ("built", "arguments", "said"),
    [
        (With, {"kind": "frozen"}, "has no parameter that requires a gradient"),
        (With, {"kind": "nothing"}, "has no parameter that requires a gradient"),
        (With, {"kind": "expanded"}, "parameter extra has elements that share memory"),
        (With, {"kind": "sparse"}, "parameter extra is sparse"),
        (With, {"kind": "meta"}, "parameter part.weight is on the meta device"),
        (With, {"kind": "nested"}, "buffer extra is a nested tensor"),
        (Unused, {}, "its lazy parameter spare.weight has no shape after a forward pass"),
        (no_module, {}, "returns a builtin_function_or_method, not a torch.nn.Module"),
        (Answering, {"kind": "tuple"}, "it returned a tuple of a tensor [64, 10], a tensor [64, 1, 8, 8]"),
        (Answering, {"kind": "eval tuple"}, "cannot be evaluated (in eval mode) on 65 examples"),
        (Answering, {"kind": "creates"}, "creates or removes late.bias in its forward pass"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_by_its_name(digits, make_config, built, arguments, said):
    with pytest.raises(InvalidValueError, match=rf"^model._target_={__name__}.{built.__name__}: ") as error:
        check(digits, [make_config(built, arguments)])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_for_one_size_of_batch_is_refused(digits, make_config):
    """83 divides 1079, the size of the training split, so that every training batch has that size."""
    with pytest.raises(InvalidValueError, match="cannot be evaluated"):
        check(digits, [make_config(FixedBatch, batch_size=83)])


def test_a_sparse_buffer_is_not_for_several_workers(digits, make_config):
    with pytest.raises(InvalidValueError, match=r"^train.workers=2: cannot share buffer mix of"):
        check(digits, [make_config(Mixing, workers=2)])


@pytest.mark.parametrize("built", [function, scripted])
def test_a_function_may_give_the_model(digits, make_config, built):
    config = make_config(built, steps=4)
    check(digits, [config])
    assert len(losses(SerialEngine(digits, CPU, "float64"), config)) == 4


# --- a batch, or a part of one, with a single example


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ({"batch_size": 49}, 49, "the last batch of an epoch of 1079 examples has one example"),
        ({"batch_size": 1}, 1, "every batch has one example"),
        ({"batch_size": 64, "accumulate": 64}, 64, "every batch has 64 examples, and train.accumulate=64 divides"),
        ({"batch_size": 64, "workers": 2, "accumulate": 32}, 64, "train.workers=2 and train.accumulate=32 divides"),
        ({"batch_size": 2, "workers": 2}, 2, "every batch has 2 examples, and train.workers=2 divides"),
        ({"batch_size": 359, "accumulate": 2}, 359, "the last batch of an epoch of 1079 examples has 2 examples"),
    ],
)
def test_a_single_example_is_blamed_on_the_batch_size(digits, make_config, keys, value, said):
    with pytest.raises(InvalidValueError, match=rf"^train.batch_size={value}: ") as error:
        check(digits, [make_config(Normed, **keys)])
    assert said in str(error.value)
    last = "last batch" in said
    assert ("train.drop_last=true omits it" in str(error.value)) == last
    if last:
        check(digits, [make_config(Normed, **keys, drop_last=True)])


def test_outputs_that_lose_the_axis_of_a_single_example_are_blamed_on_the_batch_size(digits, make_config):
    with pytest.raises(InvalidValueError, match=r"^train.batch_size=49: .* has one example.*it returns \[10\]"):
        check(digits, [make_config(Squeezing, batch_size=49)])
    check(digits, [make_config(Squeezing, batch_size=49, drop_last=True)])


def test_a_single_example_is_blamed_on_the_batch_size_of_a_gan(digits, make_gan_config):
    with pytest.raises(InvalidValueError, match=r"^train.batch_size=49: the last batch .* train.drop_last=true"):
        check(digits, [make_gan_config(NormedGan, batch_size=49)])
    config = make_gan_config(NormedGan, batch_size=49, drop_last=True)
    check(digits, [config])
    assert np.isfinite(losses(AdversarialEngine(digits, CPU, "float64"), config)).all()


# --- what a model prints


def test_what_is_silenced(capfd):
    with silenced():
        Talking()
    with pytest.raises(ZeroDivisionError), silenced():
        print("built: and failed", 1 / 0)
    print("shown")
    captured = capfd.readouterr()
    assert "built" not in captured.out + captured.err
    assert captured.out == "shown\n"


@pytest.mark.parametrize("name", ["auto", "fused"])
def test_models_that_are_only_tried_are_silent(digits, make_config, capfd, name):
    config = make_config(Talking, steps=1000)
    config = replace(config, train=replace(config.train, compile=False))
    check(digits, [config, config])
    assert capfd.readouterr().out.count("printed") == 1
    refuse_unstackable(digits, CPU, [config])
    engine = choose(EngineConfig(name, 2), digits, CPU, Work([config], 64, False)).engine
    captured = capfd.readouterr()
    assert "built" not in captured.out + captured.err
    engine.start(Trial(0, config, 0))
    list(engine.snapshots())
    assert capfd.readouterr().out.count("printed") == 1


def test_a_command_shows_what_a_model_prints_once_for_the_check_and_once_for_each_trial(folder):
    """The model is lazy, and the search trains it in several processes."""
    (folder / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self, n_outputs):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(8), torch.nn.LazyLinear(n_outputs))\n"
        "        print('a model is built', flush=True)\n"
    )
    given = ["model._target_=mine.Net", "trusted=[mine]", "~model.hidden", "~model.dropout", "train.device=cpu"]
    few = ["train.steps=20", "warmup=none", "sampler=random", "study.n_trials=3", "engine=fused", "engine.slots=2"]
    process = start(folder, *given, *few)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "3 trials: 3 complete" in out
    assert out.count("a model is built") == 4
