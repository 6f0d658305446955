"""Provide the engines of the common contract, and trials for them.

To test a further kind of engine, add an entry to ENGINES.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sweep.augmentations import NO_AUGMENT
from sweep.components import Component
from sweep.config import AverageConfig, DatasetConfig, OptimizerConfig, RunConfig, TrainConfig
from sweep.core import Engine, Evaluation, Status, Trial
from sweep.data import Dataset, Split, load
from sweep.schedules import DECAYS, WARMUPS
from sweep.tasks import AUTO_TASK
from sweep.training import FusedEngine, NotStackableError, SerialEngine
from tests.training.workers import SHARED_WORKERS


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Use one thread, because on a busy machine threads that share small matrices mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class EngineKind:
    """Describes how to build an engine from (data, device, precision), and its tolerance in float64."""

    build: Callable[[Dataset, torch.device, str], Engine]
    rtol: float
    refuses: Callable[[Trial], bool] = lambda trial: False
    """Returns whether the engine refuses a trial when the trial is started."""
    splits_batches: bool = False
    """Whether batch normalization sees only parts of a batch."""


STACKED = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw")
"""Optimizers that have an update rule for many trials at once."""


def trained_alone(trial: Trial) -> bool:
    """Whether the fused engine refuses a trial."""
    target = trial.config.optimizer.component.target.rpartition(".")[2]
    return target not in ("SGD", "RMSprop", "Adagrad", "Adam", "AdamW") or trial.config.train.accumulate != 1


@pytest.fixture(autouse=True, scope="module")
def workers_of_one_module():
    """End the shared data-parallel workers after each module."""
    yield
    SHARED_WORKERS.end()


@pytest.fixture(autouse=True)
def no_workers_of_a_failed_test(request):
    """End the shared data-parallel workers after a failed test, because they may wait for an update forever."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        SHARED_WORKERS.end()


ENGINES = {
    "serial": EngineKind(SerialEngine, rtol=0.0),
    "data_parallel": EngineKind(SHARED_WORKERS.engine, rtol=1e-9, splits_batches=True),
    "fused": EngineKind(partial(FusedEngine, slots=3), rtol=1e-9, refuses=trained_alone),
}


@pytest.fixture(params=list(ENGINES))
def kind(request) -> EngineKind:
    """Return each kind of engine in turn."""
    return ENGINES[request.param]


@pytest.fixture
def make_engine(kind):
    """Build an engine without trials."""

    def make(data: Dataset, precision: str = "float64", device: str = "cpu") -> Engine:
        return kind.build(data, torch.device(device), precision)

    return make


SHIPPED = Path(__file__).parents[2] / "conf" / "optimizer"


@pytest.fixture(scope="session")
def optimizers() -> dict[str, OptimizerConfig]:
    """Return the optimizers of conf/optimizer by their names."""

    def read(path: Path) -> OptimizerConfig:
        keys = yaml.safe_load(path.read_text())
        own = {key: keys.pop(key) for key in ("lr", "clip_norm", "groups")}
        target = keys.pop("_target_")
        assert keys.pop("name") == path.stem
        return OptimizerConfig(Component("optimizer", target, keys), **own)

    return {path.stem: read(path) for path in sorted(SHIPPED.glob("*.yaml"))}


MLP_16 = Component("model", "models.mlp.MLP", {"hidden": [16]})


@pytest.fixture
def make_trial(optimizers):
    """Build a trial, by default with a constant rate."""

    def make(
        number=0,
        seed=0,
        *,
        model=MLP_16,
        optimizer="momentum",
        lr=None,
        clip_norm=None,
        groups=None,
        average=None,
        accumulate=1,
        decay=None,
        warmup=None,
        steps=25,
        eval_every=10,
        batch_size=64,
        precision="float64",
        arguments=None,
        workers=1,
        drop_last=False,
        eval_batch_size=None,
        task=AUTO_TASK,
        schedules=None,
        augment=NO_AUGMENT,
    ) -> Trial:
        given = {"clip_norm": clip_norm, "groups": groups, "schedules": schedules or {}}
        given |= {} if lr is None else {"lr": lr}
        if arguments:
            component = optimizers[optimizer].component
            given["component"] = replace(component, arguments={**component.arguments, **arguments})
        config = RunConfig(
            model=model,
            optimizer=replace(optimizers[optimizer], **given),
            decay=decay or DECAYS["constant"](),
            warmup=warmup or WARMUPS["none"](),
            dataset=DatasetConfig(Component("dataset", "sweep.data.sources.digits", {})),
            # the seed that counts is the trial's
            train=TrainConfig(
                steps,
                batch_size,
                99,
                eval_every,
                "cpu",
                precision,
                accumulate,
                workers=workers,
                drop_last=drop_last,
                eval_batch_size=eval_batch_size,
            ),
            resolved={},
            average=AverageConfig() if average is None else AverageConfig("ema", average),
            task=task,
            augment=augment,
        )
        return Trial(number, config, seed)

    return make


@dataclass
class History:
    """Collects the results of one trial."""

    steps: list[int] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    status: Status | None = None


@pytest.fixture
def train(request):
    """Train trials to their ends, as many at once as the engine has slots, and return their histories by number."""

    def run(engine: Engine, *trials: Trial) -> dict[int, History]:
        kind = request.getfixturevalue("kind") if "kind" in request.fixturenames else ENGINES["serial"]
        if any(kind.refuses(trial) for trial in trials):
            with pytest.raises(NotStackableError):
                engine.start(next(trial for trial in trials if kind.refuses(trial)))
            pytest.skip("this engine does not train such trials, and has said so")
        waiting, histories = list(trials), {trial.number: History() for trial in trials}
        while any(history.status is None for history in histories.values()):
            while waiting and engine.free:
                engine.start(waiting.pop(0))
            for progress in engine.advance():
                history = histories[progress.trial]
                assert history.status is None, "a trial that ended goes on"
                for rows in progress.rows:
                    assert rows.trial == progress.trial
                    assert len(rows.steps) == len(rows.lr) == len(rows.loss)
                    history.steps += rows.steps.tolist()
                    history.lr += rows.lr.tolist()
                    history.loss += rows.loss.tolist()
                if progress.evaluation is not None:
                    assert progress.evaluation.trial == progress.trial
                    history.evaluations.append(progress.evaluation)
                history.status = progress.status
        return histories

    return run


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Load the digits: 1079 training examples, 17 batches of 64 per epoch, the last one of 55."""
    return load(DatasetConfig(Component("dataset", "sweep.data.sources.digits", {})))


@pytest.fixture(scope="session")
def line() -> Dataset:
    """Return a regression: 60 noisy points of a line in three dimensions, and 5000 for validation."""
    generator = np.random.default_rng(0)

    def split(n: int) -> Split:
        x = generator.normal(size=(n, 3))
        y = x @ [[1.0], [-2.0], [0.5]] + 0.1 * generator.normal(size=(n, 1))
        return Split({"x": torch.as_tensor(x), "y": torch.as_tensor(y)})

    return Dataset(split(60), split(5000), split(10), n_outputs=1, classification=False, digest="line")
