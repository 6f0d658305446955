"""Test that the fused engine trains many trials as the serial engine trains each of them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sweep.components import Component
from sweep.core import Status
from sweep.data import Dataset, Split
from sweep.schedules import DECAYS, WARMUPS
from sweep.training import FusedEngine, NotStackableError, SerialEngine
from tests.conftest import diagonal, long
from tests.training.conftest import STACKED

CPU = torch.device("cpu")


class Normed(nn.Module):
    """Has convolution and BatchNorm, over images and over features.

    There are no biases before the norms, because their gradients consist of rounding errors, which adagrad amplifies.
    """

    def __init__(self, momentum=0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4, momentum=momentum),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 16, bias=False),
            nn.BatchNorm1d(16, momentum=momentum),
            nn.ReLU(),
            nn.Linear(16, 10),
        )

    def forward(self, x):
        return self.layers(x)


class Twice(nn.Module):
    """Uses one norm twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 10)

    def forward(self, x):
        return self.last(self.norm(torch.relu(self.norm(self.first(x.flatten(1))))))


OWN = (__name__,)
MODELS = {
    "mlp": Component("model", "models.mlp.MLP", {"hidden": [16]}),
    "cnn": Component("model", "models.cnn.CNN", {"channels": [3, 4], "hidden": 8}),
    "norm": Component("model", f"{__name__}.Normed", {}, trusted=OWN),
    "dropout": Component("model", "models.mlp.MLP", {"hidden": [16, 16], "dropout": 0.3}),
}
RATES = {"rmsprop": 1e-3, "adam": 2e-3, "adamw": 2e-3, "adagrad": 0.02}
"""Rates that are small enough not to amplify rounding differences."""


def fused(data, slots, precision="float64", **keys):
    return FusedEngine(data, CPU, precision, slots, **keys)


def serial(data, precision="float64"):
    return SerialEngine(data, CPU, precision)


def assert_same(found, expected, rtol=1e-8):
    assert (found.steps, found.status) == (expected.steps, expected.status)
    assert found.lr == expected.lr
    np.testing.assert_allclose(found.loss, expected.loss, rtol=rtol)
    assert [e.step for e in found.evaluations] == [e.step for e in expected.evaluations]
    for one, other in zip(found.evaluations, expected.evaluations, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=rtol)


def some(make_trial, n=3, **keys):
    """Return trials that differ in rate, schedule and seed."""
    return [
        make_trial(
            number,
            seed=number,
            lr=keys.get("rate", 0.05) * (1 - 0.2 * number),
            decay=DECAYS["exponential"](decay_rate=0.6, decay_steps=30 + 20 * number),
            warmup=WARMUPS["linear"](steps=10 * number, start_factor=0.1) if number else WARMUPS["none"](),
            **{key: value for key, value in keys.items() if key != "rate"},
        )
        for number in range(n)
    ]


# --- fused is serial


@pytest.mark.parametrize(("optimizer", "model"), diagonal(STACKED, list(MODELS)))
def test_updates_are_those_of_the_serial_engine(make_trial, train, digits, optimizer, model):
    """Every 17th batch has 55 examples, at different times in different slots."""
    steps = 200 if model == "mlp" or optimizer == "adamw" else 50
    trials = some(make_trial, 4, optimizer=optimizer, rate=RATES.get(optimizer, 0.05), steps=steps, eval_every=30,
                  model=MODELS[model])  # fmt: skip
    one_by_one = train(serial(digits), *trials)
    together = train(fused(digits, slots=3), *trials)
    for trial in trials:
        assert one_by_one[trial.number].status is Status.COMPLETE
        assert_same(together[trial.number], one_by_one[trial.number])


@pytest.mark.parametrize("optimizer", STACKED)
def test_every_hyperparameter_is_a_trial_s_own(make_trial, train, digits, optimizer):
    arguments = {
        "sgd": [{"weight_decay": 0.1}, {"momentum": 0.5, "dampening": 0.3}],
        "momentum": [{"momentum": 0.5, "weight_decay": 0.01}, {"momentum": 0.0}],
        "nesterov": [{"momentum": 0.5}, {"nesterov": False}],
        "rmsprop": [{"alpha": 0.9, "momentum": 0.5, "weight_decay": 0.01}, {"eps": 0.1}],
        "adagrad": [{"eps": 1e-3, "weight_decay": 0.01, "lr_decay": 0.1}, {"initial_accumulator_value": 0.5}],
        "adam": [{"betas": [0.5, 0.9], "weight_decay": 0.1}, {"eps": 0.1}],
        "adamw": [{"betas": [0.5, 0.9], "weight_decay": 0.5}, {"eps": 0.1, "weight_decay": 0.0}],
    }
    trials = [make_trial(0, optimizer=optimizer)]
    trials += [make_trial(n, optimizer=optimizer, arguments=given) for n, given in enumerate(arguments[optimizer], 1)]
    one_by_one, together = train(serial(digits), *trials), train(fused(digits, slots=3), *trials)
    for number in range(3):
        assert_same(together[number], one_by_one[number])
    assert together[0].loss != together[1].loss
    assert together[0].loss != together[2].loss


@pytest.mark.parametrize(
    "keys",
    [
        {"clip_norm": 0.3},
        {"average": 0.9},
        {"groups": {"bias_and_norm": {"weight_decay": 0.3, "lr_factor": 3.0}}},
        {"decay": DECAYS["plateau"](factor=0.5, patience=1, metric="val_loss", threshold=0.5)},
        {"warmup": WARMUPS["until_error"](until_error=0.85, start_factor=0.5)},
    ],
    ids=["clipped", "averaged", "grouped", "plateau", "until_error"],
)
def test_what_else_a_training_can_have(make_trial, train, digits, keys):
    trials = [make_trial(n, seed=n, lr=0.02 * (n + 1), steps=90, eval_every=10, **keys) for n in range(3)]
    one_by_one, together = train(serial(digits), *trials), train(fused(digits, slots=2), *trials)
    for trial in trials:
        assert_same(together[trial.number], one_by_one[trial.number])
    assert {len(set(history.lr)) > 1 for history in together.values()} == {"decay" in keys or "warmup" in keys}


@pytest.mark.parametrize("model", ["Twice", "Normed"])
def test_running_statistics_are_the_serial_engine_s(make_trial, train, digits, model):
    given = Component("model", f"{__name__}.{model}", {"momentum": None} if model == "Normed" else {}, trusted=OWN)
    trials = [make_trial(n, seed=n, model=given, steps=60) for n in range(3)]
    together = train(fused(digits, slots=2), *trials)
    for number, history in train(serial(digits), *trials).items():
        assert_same(together[number], history)


@pytest.fixture(scope="module")
def images() -> Dataset:
    """Return 72 noisy images of 3 x 8 x 8 in three classes, 40 for training: 3 batches per epoch, of 16, 16 and 8."""
    generator = np.random.default_rng(0)
    patterns = generator.normal(size=(3, 3, 8, 8))

    def split(n: int) -> Split:
        y = np.arange(n) % 3
        return Split({"x": torch.as_tensor(patterns[y] + generator.normal(size=(n, 3, 8, 8))), "y": torch.as_tensor(y)})

    return Dataset(split(40), split(16), split(16), n_outputs=3, classification=True, digest="images")


@pytest.mark.parametrize("shortcut", ["A", long("B")])
def test_a_residual_network_of_eight_layers(make_trial, train, images, shortcut):
    model = Component("model", "models.resnet.ResNet", {"depth": 8, "width": 4, "shortcut": shortcut})
    trials = some(make_trial, 3, model=model, steps=200, eval_every=50, batch_size=16)
    together = train(fused(images, slots=2), *trials)
    for number, history in train(serial(images), *trials).items():
        assert_same(together[number], history)
        assert history.loss[-1] < 0.5 * history.loss[0]


def test_clipping_is_each_trial_s_own(make_trial, train, digits):
    trials = [make_trial(n, optimizer="sgd", clip_norm=norm) for n, norm in enumerate([0.1, 0.3, 1e9])]
    together = train(fused(digits, slots=3), *trials)
    for number, history in train(serial(digits), *trials).items():
        assert_same(together[number], history)
    assert together[0].loss[-1] != together[1].loss[-1] != together[2].loss[-1]


def test_a_regression(make_trial, train, line):
    trials = [make_trial(n, seed=n, optimizer="sgd", lr=0.05 / (n + 1), batch_size=16, steps=40) for n in range(3)]
    together = train(fused(line, slots=2), *trials)
    for number, history in train(serial(line), *trials).items():
        assert_same(together[number], history)


def test_the_test_split_of_final_trials(make_trial, train, digits):
    trials = [replace(make_trial(n, seed=n), final=n == 1) for n in range(2)]
    together = train(fused(digits, slots=2), *trials)
    for number, history in train(serial(digits), *trials).items():
        assert_same(together[number], history)
    assert "test_loss" in together[1].evaluations[-1].metrics
    assert "test_loss" not in together[0].evaluations[-1].metrics


def test_float32_finds_the_same_best_trial(make_trial, train, digits):
    trials = [make_trial(n, lr=0.002 * 3**n, steps=100, eval_every=50, precision="float32") for n in range(4)]
    together, one_by_one = train(fused(digits, 4, "float32"), *trials), train(serial(digits, "float32"), *trials)

    def order(histories):
        return sorted(histories, key=lambda n: histories[n].evaluations[-1].metrics["val_loss"])

    assert order(together) == order(one_by_one)


# --- slots and neighbours


@pytest.mark.parametrize("model", ["mlp", "norm", "dropout"])
def test_a_trial_depends_on_neither_slot_nor_neighbours(make_trial, train, digits, model):
    trial = make_trial(7, seed=7, model=MODELS[model], steps=60)
    alone = train(fused(digits, slots=4), trial)[7]
    others = [make_trial(n, seed=n, lr=0.01 * (n + 1), model=MODELS[model], steps=20 + 13 * n) for n in range(4)]
    beside = train(fused(digits, slots=4), *others[:2], trial, *others[2:])[7]
    assert (beside.loss, beside.evaluations) == (alone.loss, alone.evaluations)
    late = train(fused(digits, slots=4), *others, trial)[7]  # where another has been before
    assert (late.loss, late.evaluations) == (alone.loss, alone.evaluations)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_diverging_neighbour_changes_nothing(make_trial, train, digits, optimizer):
    sound = [make_trial(n, seed=n, optimizer=optimizer, steps=60) for n in (0, 2)]
    expected = train(fused(digits, slots=3), *sound)
    wild = make_trial(1, optimizer=optimizer, lr=1e300, steps=60)
    found = train(fused(digits, slots=3), sound[0], wild, sound[1])
    assert found[1].status is Status.DIVERGED
    for number in (0, 2):
        assert (found[number].loss, found[number].evaluations) == (expected[number].loss, expected[number].evaluations)


def test_a_slot_that_diverged_is_as_new(make_trial, train, digits):
    wild, next_one = make_trial(0, lr=1e300, steps=60), make_trial(1, model=MODELS["mlp"], steps=30)
    after = train(fused(digits, slots=1), wild, next_one)[1]
    assert after == train(fused(digits, slots=1), next_one)[1]


def test_a_divergence_is_seen_before_the_next_evaluation(make_trial, digits):
    engine = fused(digits, slots=2)
    engine.start(make_trial(0, lr=1e300, steps=3000, eval_every=3000))
    engine.start(make_trial(1, steps=3000, eval_every=3000))
    (reached,) = engine.advance()
    assert (reached.trial, reached.status) == (0, Status.DIVERGED)
    assert engine.free == 1


def test_slots_are_refilled_at_once(make_trial, digits):
    """40 trials of 20 to 137 updates use 8 slots."""
    lengths = np.random.default_rng(0).integers(20, 138, size=40).tolist()
    waiting = [make_trial(n, seed=n, steps=length) for n, length in enumerate(lengths)]
    engine, made = fused(digits, slots=8), 0
    while waiting:
        while waiting and engine.free:
            engine.start(waiting.pop(0))
        if waiting:
            made += sum(len(rows.lr) for progress in engine.advance() for rows in progress.rows)
    assert engine.use.made >= 0.95 * engine.use.offered
    assert engine.use.made >= made > 0
    while engine.advance():
        pass
    assert engine.use.made == sum(lengths)


# --- compiled


@pytest.mark.parametrize("model", ["mlp", "norm", "dropout"])
def test_a_compiled_update_is_the_same_to_rounding(make_trial, train, digits, model):
    trials = some(make_trial, 3, model=MODELS[model], steps=40, eval_every=20, average=0.9, clip_norm=1.0)
    together = train(fused(digits, slots=2, compiled=True), *trials)
    for number, history in train(serial(digits), *trials).items():
        assert_same(together[number], history)


@pytest.mark.skipif(torch.__version__ < "2.12", reason="torch 2.11 compiles this update wrongly, so it is not used")
def test_compiled_updates_take_over_in_the_middle_of_trainings(make_trial, train, digits):
    trials = some(make_trial, 2, steps=60, eval_every=20, average=0.9)
    engine, rows = fused(digits, slots=2), {trial.number: [] for trial in trials}
    for trial in trials:
        engine.start(trial)
    for compiled in (False, True, False):
        engine.compile(compiled)
        for progress in engine.advance():
            rows[progress.trial] += [loss for part in progress.rows for loss in part.loss]
    for number, history in train(serial(digits), *trials).items():
        assert rows[number] == pytest.approx(history.loss, rel=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_compiler_that_computes_other_updates_is_not_used(make_trial, digits, monkeypatch, optimizer, precision):
    """The simulated compiler makes the gradient of the first weights 1 % too large."""
    (trial,) = some(make_trial, 1, steps=60, eval_every=1, optimizer=optimizer, precision=precision)

    def wrong(method):
        stack = method.__self__

        def update(*inputs):
            gradient = stack._gradient

            def scaled(*arguments):
                gradients, aux = gradient(*arguments)
                return {name: g * 1.01 if i == 0 else g for i, (name, g) in enumerate(gradients.items())}, aux

            stack._gradient = scaled
            method(*inputs)
            stack._gradient = gradient

        return update

    plain, engine = fused(digits, 1, precision), fused(digits, 1, precision)
    for one in (plain, engine):
        one.start(trial)
        one.advance()
    monkeypatch.setattr("sweep.training.stacked._compiled", wrong)
    engine.compile()
    with pytest.raises(RuntimeError, match="the compiled update differs from the one that is not compiled"):
        engine.advance()
    engine.compile(False)
    (expected,), (found,) = plain.advance(), engine.advance()
    assert found.rows[0].loss.tolist() == expected.rows[0].loss.tolist()
    assert found.evaluation.metrics == expected.evaluation.metrics


@pytest.mark.parametrize("captured", [False, True])
def test_a_compiled_update_is_checked_with_a_rate_that_is_not_zero(make_trial, digits, monkeypatch, captured):
    """The simulated compiler computes a gradient from updated weights, as torch 2.11 does in some updates."""
    trial = make_trial(0, optimizer="sgd", lr=0.05, warmup=WARMUPS["linear"](steps=10))
    assert trial.config.series[0].curves((), 60)[None][0] == 0

    def wrong(method):
        stack = method.__self__

        def gradient(batch, present, coefficients, keys, *_):
            return stack._gradient(stack.params, stack.buffers, batch, present, keys)[0]

        def update(*inputs):
            name, expected = next(iter(stack.params)), gradient(*inputs)
            method(*inputs)
            stack.state[name][0] += gradient(*inputs)[name] - expected[name]

        return update

    monkeypatch.setattr("sweep.training.stacked._compiled", wrong)
    monkeypatch.setattr("sweep.training.stacked.CudaGraph", lambda update, inputs: update(*inputs))
    engine = FusedEngine(digits, torch.device("cpu"), "float64", 2, [trial.config], compiled=True)
    rows = torch.zeros((2, trial.config.train.batch_size), dtype=torch.int64)
    engine.start(trial)
    first = partial(engine.stack.capture, engine.data.train.take(rows), engine.example) if captured else engine.advance
    with pytest.raises(RuntimeError, match="the compiled update differs from the one that is not compiled"):
        first()


# --- what cannot be stacked


def test_trials_of_different_structure_are_refused_together(make_trial, digits):
    engine = fused(digits, slots=2)
    engine.start(make_trial(0))
    for other, name in (
        ({"model": MODELS["cnn"]}, "model"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"batch_size": 32}, "train.batch_size"),
        ({"average": 0.9}, "average"),
        ({"clip_norm": 1.0}, "optimizer.clip_norm"),
        ({"groups": {"bias_and_norm": {"lr_factor": 2.0}}}, "optimizer.groups"),
    ):
        with pytest.raises(NotStackableError, match=f"^the trials differ in {name}$"):
            engine.start(make_trial(1, **other))
    assert engine.free == 1


def test_sgd_with_and_without_momentum_and_adam_with_either_decay_go_together(make_trial, train, digits):
    for names in (("sgd", "momentum", "nesterov"), ("adam", "adamw")):
        trials = [make_trial(n, optimizer=name, lr=0.01) for n, name in enumerate(names)]
        together = train(fused(digits, slots=3), *trials)
        for number, history in train(serial(digits), *trials).items():
            assert_same(together[number], history)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"optimizer": "lion"}, "Lion has no update rule"),
        ({"optimizer": "adam", "arguments": {"amsgrad": True}}, "Adam with amsgrad"),
        ({"optimizer": "rmsprop", "arguments": {"centered": True}}, "RMSprop with centered"),
        ({"accumulate": 4}, "train.accumulate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_reason_is_given(make_trial, digits, keys, reason):
    with pytest.raises(NotStackableError, match=reason):
        fused(digits, slots=2).start(make_trial(**keys))
