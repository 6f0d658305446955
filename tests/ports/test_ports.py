"""Compares ported training scripts with every engine to a plain loop over the same batches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sweep.arrays import as_source
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.core import Trial
from sweep.data import dataset_of
from sweep.data.batch import mapped
from sweep.data.loading import permutation
from sweep.tasks import CustomConfig, LanguageModelConfig, ModelConfig, RegressionConfig, SegmentationConfig, TaskConfig
from sweep.training import CPU, FusedEngine, NotStackableError, SerialEngine
from sweep.training.autotune import check, refuse_unstackable
from tests.ports import scripts

try:
    from tests.ports import bert
except ImportError:  # without transformers
    bert = None  # type: ignore[assignment]
from tests.training.conftest import make_trial, one_thread, optimizers, train  # noqa: F401
from tests.training.workers import SHARED_WORKERS

TRUSTED = ("tests",)


def custom(name: str, **arguments: Any) -> CustomConfig:
    return CustomConfig(component=Component("task", f"tests.ports.tasks.{name}", arguments, TRUSTED))


@dataclass(frozen=True)
class Port:
    """A script.

    Args:
        data: gives its data.
        model: its class, or a function that returns it; called with `arguments`.
        task: configured for it.
        loss: of the plain loop: (model, batch) -> mean, or (sum, weight).
        stacks: whether the fused engine trains it, or the reason for which it does not.
        scalar: whether its loss is one number for a batch.
    """

    data: Callable[[], Any]
    model: Callable[..., torch.nn.Module]
    task: TaskConfig
    loss: Callable[[Any, Any], torch.Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    stacks: bool | str = True
    scalar: bool = False
    lr: float = 0.05


def entropy(logits, targets, ignored=-100):
    return functional.cross_entropy(logits, targets, ignore_index=ignored)


PORTS = {
    "nanoGPT": Port(
        scripts.windows,
        scripts.GPT,
        ModelConfig(),
        lambda model, batch: model(batch["idx"], batch["targets"])[1],
        scalar=True,
    ),
    "tokens": Port(
        lambda: {"train": scripts.text(1300), "val": scripts.text(500, seed=1)},
        scripts.GPT,
        LanguageModelConfig(),
        lambda model, batch: entropy(model(batch["x"])[0].transpose(1, 2), batch["y"]),
        keys={"block": 12},
    ),
    "LSTM": Port(
        lambda: {"train": scripts.text(1300), "val": scripts.text(500, seed=1)},
        scripts.LSTM,
        LanguageModelConfig(),
        lambda model, batch: entropy(model(batch["x"]).transpose(1, 2), batch["y"]),
        keys={"block": 12},
        stacks=r"aten::lstm \(.*scripts\.py:\d+ in forward",
    ),
    "U-Net": Port(
        scripts.shapes,
        scripts.UNet,
        custom("Segmenting"),
        lambda model, batch: entropy(model(batch["x"]), batch["y"]) + scripts.dice_loss(model(batch["x"]), batch["y"]),
        scalar=True,
    ),
    "segmentation": Port(
        scripts.shapes,
        scripts.UNet,
        SegmentationConfig(ignore_index=2),
        lambda model, batch: entropy(model(batch["x"]), batch["y"], 2),
    ),
    "segmentation with Dice": Port(
        scripts.shapes,
        scripts.UNet,
        SegmentationConfig(dice_weight=0.5),
        lambda model, batch: (
            entropy(model(batch["x"]), batch["y"]) + 0.5 * scripts.dice_loss(model(batch["x"]), batch["y"])
        ),
    ),
    "VAE": Port(
        lambda: {"x": np.random.default_rng(0).random((60, 64))},
        scripts.VAE,
        custom("AutoEncoding"),
        lambda model, batch: (
            scripts.loss_function(*(out := model(batch["x"]))[:1], batch["x"], *out[1:]) / len(batch["x"])
        ),
        stacks=r"random numbers of its own \(.*scripts\.py:\d+ in forward",
        lr=0.001,
    ),
    "smooth L1": Port(
        scripts.signals,
        scripts.GraphNet,
        RegressionConfig(error="huber", delta=1.0),
        lambda model, batch: functional.smooth_l1_loss(model(batch["x"]), batch["y"].unsqueeze(1)),
        stacks="sparse",
    ),
    "weights": Port(
        lambda: {name: array if name == "y" else array[:, 0] for name, array in scripts.signals().items()},
        torch.nn.Linear,
        custom("Weighted", power=1.5),
        lambda model, batch: (
            ((model(batch["x"]).squeeze(1) - batch["y"]).abs() ** 1.5 * (0.1 + batch["y"].abs())).sum()
            / (0.1 + batch["y"].abs()).sum()
        ),
        arguments={"in_features": 3, "out_features": 1},
    ),
    "several inputs": Port(
        scripts.sequences,
        scripts.Masked,
        TaskConfig(),
        lambda model, batch: entropy(model(batch["tokens"], batch["mask"], batch["extra"]), batch["labels"]),
    ),
}

OF_TRANSFORMERS = {
    "BERT": lambda: Port(
        bert.sentences,
        bert.classifier,
        ModelConfig(),
        lambda model, batch: model(**batch).loss,
        stacks="loads examples one at a time",
        scalar=True,
    ),
    "BERT of one length": lambda: Port(
        bert.padded_sentences,
        bert.classifier,
        ModelConfig(),
        lambda model, batch: model(**batch).loss,
        arguments={"problem_type": "single_label_classification"},  # or else forward changes it
        stacks=r"^tests.ports.bert.classifier cannot be stacked: it decides by .* \(.*masking_utils.py:\d+ in .*all\(",
        scalar=True,
    ),
}


@pytest.fixture(params=[*PORTS, *OF_TRANSFORMERS])
def port(request) -> Port:
    if request.param in PORTS:
        return PORTS[request.param]
    pytest.importorskip("transformers")
    return OF_TRANSFORMERS[request.param]()


def config_of(port: Port) -> DatasetConfig:
    return DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), **port.keys)


def data_of(port: Port):
    return dataset_of(as_source(port.data()), config_of(port))


@pytest.fixture
def trial_of(make_trial):  # noqa: F811
    def make(port: Port, **keys: Any) -> Trial:
        where = "torch.nn" if port.model is torch.nn.Linear else port.model.__module__
        model = Component("model", f"{where}.{port.model.__name__}", port.arguments, TRUSTED)
        keys = {"batch_size": 16, "drop_last": bool(port.keys), "lr": port.lr} | keys
        return make_trial(model=model, task=port.task, **keys)

    return make


def plain(port: Port, updates: int, batch_size: int = 16, seed: int = 0, lr: float | None = None) -> list[float]:
    """Train with SGD and momentum in float64, and return the losses."""
    data, losses = data_of(port).place(CPU, torch.float64).train, []
    torch.manual_seed(seed)
    model = port.model(**port.arguments)
    model._apply(lambda tensor: tensor.double() if tensor.dtype == torch.float32 else tensor)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr or port.lr, momentum=0.9)
    per_epoch = len(data) // batch_size if port.keys else -(-len(data) // batch_size)
    for step in range(updates):
        epoch, index = divmod(step, per_epoch)
        order = permutation(len(data), seed, epoch)[index * batch_size : (index + 1) * batch_size]
        loss = port.loss(model, mapped(lambda tensor, order=order: tensor[order], data.batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def test_it_trains_as_its_plain_loop(port, trial_of, train):  # noqa: F811
    trial = trial_of(port, steps=20, eval_every=7)
    history = train(SerialEngine(data_of(port), CPU, "float64"), trial)[0]
    np.testing.assert_allclose(history.loss, plain(port, 20), rtol=1e-12)
    assert min(history.loss) < history.loss[0]
    assert all(np.isfinite(list(evaluation.metrics.values())).all() for evaluation in history.evaluations)


def test_it_passes_the_check_before_a_search(port, trial_of):
    check(data_of(port), [trial_of(port).config])


def test_resumed_it_gives_what_it_gives_uninterrupted(port, trial_of, train):  # noqa: F811
    whole = train(SerialEngine(data_of(port), CPU, "float64"), trial_of(port, steps=20, eval_every=5))[0]
    engine = SerialEngine(data_of(port), CPU, "float64")
    trial = trial_of(port, steps=20, eval_every=5)
    engine.start(trial)
    engine.pause = lambda: True  # after every update
    losses = []
    for _ in range(9):
        losses += [rows.loss for progress in engine.advance() for rows in progress.rows]
    (stopped,) = engine.snapshots()
    losses += [rows.loss for rows in stopped.rows]
    resumed = Trial(trial.number, trial.config, trial.seed, state=stopped.state)
    rest = train(SerialEngine(data_of(port), CPU, "float64"), resumed)[0]
    assert [*np.concatenate(losses), *rest.loss] == whole.loss
    assert rest.evaluations[-1] == whole.evaluations[-1]


def test_micro_batches_give_the_same_where_the_loss_is_a_mean_over_examples(port, trial_of, train):  # noqa: F811
    if str(port.stacks).startswith("random") or (port.scalar and port.model is not scripts.GPT):
        pytest.skip("it draws for each micro-batch, or its loss is not a mean over examples")
    whole, divided = (
        train(SerialEngine(data_of(port), CPU, "float64"), trial_of(port, steps=12, accumulate=parts))[0]
        for parts in (1, 3)
    )
    np.testing.assert_allclose(divided.loss, whole.loss, rtol=1e-10)


def test_many_at_once_give_what_they_give_alone(port, trial_of, train):  # noqa: F811
    """This compares 200 updates of two seeds and rates in float64."""
    keys = {"steps": 200, "eval_every": 90} | ({"drop_last": True} if port.scalar else {})
    trials = [
        Trial(number, trial_of(port, lr=port.lr * (0.5 + number / 4), **keys).config, seed=number)
        for number in range(2)
    ]
    if isinstance(port.stacks, str):
        with pytest.raises(NotStackableError, match=port.stacks):
            refuse_unstackable(data_of(port), CPU, [trials[0].config])
        return
    refuse_unstackable(data_of(port), CPU, [trials[0].config])
    together = train(FusedEngine(data_of(port), CPU, "float64", 2), *trials)
    for trial in trials:
        alone = train(SerialEngine(data_of(port), CPU, "float64"), trial)[trial.number]
        np.testing.assert_allclose(together[trial.number].loss, alone.loss, rtol=1e-8)
        for ours, expected in zip(together[trial.number].evaluations, alone.evaluations, strict=True):
            assert ours.metrics == pytest.approx(expected.metrics, rel=1e-7)


@pytest.mark.parametrize("name", ["tokens", "several inputs", "weights"])
def test_two_workers_share_its_batches(name, trial_of, train):  # noqa: F811
    port = PORTS[name]
    engine = SHARED_WORKERS.engine(data_of(port), CPU, "float64")
    history = train(engine, trial_of(port, steps=12, workers=2))[0]
    np.testing.assert_allclose(history.loss, plain(port, 12), rtol=1e-9)
    SHARED_WORKERS.end()
