"""Test that language models on drawn windows train equally in every engine."""

from dataclasses import replace

import numpy as np
import pytest

from sweep.arrays import as_source
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import DrawnWindows, dataset_of
from sweep.schedules import DECAYS, WARMUPS
from sweep.tasks import LanguageModelConfig
from sweep.training import CPU, FusedEngine, SerialEngine
from tests.training.conftest import ENGINES
from tests.training.test_fused import assert_same
from tests.training.test_snapshots import assert_same as assert_same_to_the_bit
from tests.training.test_snapshots import cut_by_chance
from tests.training.test_snapshots import train as train_in_parts
from tests.training.workers import SHARED_WORKERS

GPT = Component("model", "models.gpt.GPT", {"layers": 2, "heads": 2, "width": 8})
DROPPING = replace(GPT, arguments={**GPT.arguments, "dropout": 0.2})


@pytest.fixture(scope="session")
def tokens():
    """Return a noisy text of 1,000 tokens, in which each token depends on the one before; 11 updates per epoch."""
    generator, text = np.random.default_rng(0), [1]
    while len(text) < 1400:
        text.append(int(5 * text[-1] + 1 + (generator.random() < 0.1)) % 13)
    whole = np.array(text, dtype=np.uint16)
    config = DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), block=11, windows="drawn")
    return dataset_of(as_source({"train": whole[:1000], "val": whole[1000:1300], "test": whole[1300:]}), config)


@pytest.fixture
def trial_of(make_trial):
    def make(number=0, **keys):
        given = {
            "model": GPT,
            "optimizer": "adamw",
            "lr": 5e-3 * (1 + number),
            "groups": {"bias_and_norm": {"weight_decay": 0.0}},
            "clip_norm": 1.0,
            "task": LanguageModelConfig(),
            "batch_size": 8,
            "drop_last": True,
            "decay": DECAYS["cosine"](decay_steps=180),
            "warmup": WARMUPS["linear"](steps=20),
            "steps": 200,
            "eval_every": 50,
        }
        return make_trial(number, seed=number, **given | keys)

    return make


def test_the_fused_engine_trains_what_the_serial_one_does(tokens, train, trial_of):
    """200 updates in float64, 18 epochs: three trials in two slots."""
    assert isinstance(tokens.train, DrawnWindows)
    trials = [trial_of(number, model=DROPPING) for number in range(3)]
    found = train(FusedEngine(tokens, CPU, "float64", 2), *trials)
    for trial in trials:
        (expected,) = train(SerialEngine(tokens, CPU, "float64"), trial).values()
        assert_same(found[trial.number], expected, rtol=1e-8)
        assert {"val_perplexity", "val_bits_per_character"} <= expected.evaluations[-1].metrics.keys()
        assert expected.evaluations[-1].metrics["val_loss"] < 0.8 * expected.evaluations[0].metrics["val_loss"]


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_windows_of_each_update(tokens, train, trial_of, workers):
    trial = trial_of(model=DROPPING, steps=60)
    (expected,) = train(SerialEngine(tokens, CPU, "float64"), trial).values()
    (found,) = train(SHARED_WORKERS.engine(tokens, CPU, "float64", workers), trial).values()
    assert_same(found, expected, rtol=1e-9)


def test_micro_batches_share_the_windows_of_each_update(tokens, train, trial_of):
    (expected,) = train(SerialEngine(tokens, CPU, "float64"), trial_of(steps=60)).values()
    (found,) = train(SerialEngine(tokens, CPU, "float64"), trial_of(steps=60, accumulate=3)).values()
    assert_same(found, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_training_in_parts_is_the_training_in_one_to_the_bit(tokens, trial_of, kind):
    trials = [trial_of(number, model=DROPPING, steps=40, eval_every=15) for number in range(2)]
    whole = train_in_parts([kind], tokens, "float64", trials)
    assert_same_to_the_bit(cut_by_chance([kind], tokens, "float64", trials), whole)


def test_drawn_windows_are_learned_from_as_plain_pytorch_would(tokens, train, trial_of):
    """The windows of update s are those of the order of its epoch."""
    seen = []

    class Recording(DrawnWindows):
        def take(self, rows):
            seen.extend(rows.tolist())
            return super().take(rows)

    windows = tokens.train
    data = replace(tokens, train=Recording(windows.tokens, windows.block, windows.mask))
    train(SerialEngine(data, CPU, "float64"), trial_of(3, steps=25, eval_every=25))
    expected = [row for epoch in range(3) for row in windows.order(3, epoch)[: 11 * 8].tolist()]
    assert seen[-25 * 8 :] == expected[: 25 * 8]
