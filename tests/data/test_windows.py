"""Test where drawn windows begin, and which tokens they contain."""

import numpy as np
import pytest
import torch

from sweep.arrays import as_source
from sweep.components import Component
from sweep.config import DatasetConfig, steps_per_epoch
from sweep.data import DrawnWindows, Split, dataset_of
from sweep.errors import InvalidValueError
from sweep.training import CPU
from sweep.training.batches import Batches


def windows_of(n=100, block=10, dtype=np.uint8):
    return DrawnWindows.of(np.arange(n, dtype=dtype), block)


def data_of(given, **keys):
    keys = {"windows": "drawn", "block": 10} | keys
    return dataset_of(as_source(given), DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), **keys))


def drawn(order, begin, end):
    return [batch["x"][:, 0].tolist() for batch in order.range(begin, end)]


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "u8", "i8"])
def test_tokens_of_every_type_are_gathered_as_they_are(dtype):
    high = min(np.iinfo(dtype).max, 2**63 - 1)
    tokens = np.array([high - i for i in range(40)], dtype=dtype)
    batch = DrawnWindows.of(tokens, 5).take(torch.tensor([[0, 34], [7, 7]]))
    assert batch["x"].dtype == batch["y"].dtype == torch.int64
    assert batch["x"].shape == batch["y"].shape == (2, 2, 5)
    assert batch["x"][1, 0].tolist() == tokens[7:12].tolist()
    assert batch["y"][0, 1].tolist() == tokens[35:40].tolist()


def test_what_a_model_writes_changes_neither_targets_nor_tokens():
    windows = windows_of(dtype=np.int64)
    batch = windows.take(torch.tensor([3]))
    batch["x"].zero_()
    assert batch["y"].tolist() == [list(range(4, 14))]
    assert windows.tokens.tolist() == list(range(100))


@pytest.mark.parametrize(
    ("n", "block", "batch_size", "updates"), [(1000, 10, 10, 10), (999, 10, 10, 9), (1001, 7, 11, 13), (30, 1, 4, 7)]
)
def test_an_epoch_has_floor_of_tokens_by_block_and_batch_size_updates(n, block, batch_size, updates):
    windows = windows_of(n, block, np.int64)
    assert updates == n // (block * batch_size)
    assert steps_per_epoch(len(windows), batch_size, drop_last=True) == updates
    assert Batches(windows, batch_size, 0, CPU, drop_last=True).per_epoch == updates


def test_windows_begin_at_any_token_with_replacement():
    windows = windows_of(60, 10, np.int64)
    rows = torch.cat([windows.order(0, epoch) for epoch in range(2000)])
    counts = torch.bincount(rows, minlength=50).double()
    assert counts.shape == (50,), "the last window begins at token N - block - 1"
    expected = len(rows) / 50
    assert float(((counts - expected) ** 2 / expected).sum()) < 90, "chi squared, 49 degrees: 1 in 3,000 is above 90"
    repeated = [len(set(windows.order(0, epoch).tolist())) < len(windows) for epoch in range(100)]
    assert 5 < sum(repeated) < 60, "6 draws of 50 hold one twice in 27 % of cases"


def test_the_draws_are_a_function_of_seed_and_update_alone():
    windows = windows_of(200, 10, np.int64)
    whole = drawn(Batches(windows, 4, 3, CPU, True), 0, 12)
    assert len({tuple(batch) for batch in whole}) == 12
    for begin in range(12):
        assert drawn(Batches(windows, 4, 3, CPU, True), begin, 12) == whole[begin:]
    assert drawn(Batches(windows, 4, 4, CPU, True), 0, 12) != whole
    before = torch.get_rng_state()
    torch.manual_seed(1)
    assert drawn(Batches(windows, 4, 3, CPU, True), 0, 12) == whole
    torch.set_rng_state(before)
    drawn(Batches(windows, 4, 3, CPU, True), 0, 12)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_splits_are_divided_and_small_types_stay_small():
    tokens = np.arange(200, dtype=np.uint8)
    data = data_of({"train": tokens, "val": tokens[:40], "test": tokens[100:]})
    placed = data.place(CPU, torch.float32)
    assert isinstance(placed.train, DrawnWindows)
    assert placed.train.tokens.dtype == torch.uint8
    assert (placed.train.nbytes, len(placed.train), data.facts.n_train) == (200, 20, 20)
    assert isinstance(placed.val, Split)
    assert placed.val.inputs.tolist() == [list(range(first, first + 10)) for first in (0, 10, 20)]
    assert (data.input_shape, data.n_outputs, data.classification) == ((10,), 200, True)
    assert placed.train[2:4].inputs.tolist() == [list(range(2, 12)), list(range(3, 13))]


def test_every_token_counts_for_the_vocabulary_and_the_digest():
    tokens = np.zeros(105, dtype=np.int64)
    before = data_of({"train": tokens, "val": tokens})
    tokens = tokens.copy()
    tokens[-1] = 9
    after = data_of({"train": tokens, "val": tokens})
    assert (before.n_outputs, after.n_outputs) == (1, 10)
    assert before.digest != after.digest


def test_the_digest_of_divided_windows_is_that_of_earlier_versions():
    tokens = np.arange(103, dtype=np.uint16)
    assert data_of({"train": tokens, "val": tokens[:30]}, windows="divided").digest == "7b026ce31d49c728"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, r"split_seed=0: must be null with dataset\.windows=drawn"),
        ({"block": None}, r"windows=drawn: needs dataset\.block"),
        ({"windows": "all"}, r"windows=all: must be one of divided, drawn"),
        ({"split_seed": None, "val_fraction": 0.001}, r"val_fraction=0\.001: leaves 0 of 200 examples for validation"),
        ({"split_seed": None, "block": 50}, r"block=50: must be less than the number of tokens in each split"),
    ],
)
def test_what_cannot_be_drawn_is_refused(keys, said):
    with pytest.raises(InvalidValueError, match=rf"^(dataset\.)?{said}"):
        data_of({"tokens": np.arange(200)}, **keys)


def test_examples_can_be_split_in_their_order():
    x = np.arange(20.0).reshape(10, 2)
    data = data_of({"x": x, "y": x[:, :1]}, windows="divided", block=None, split_seed=None)
    assert [split[:].inputs[:, 0].tolist() for split in (data.train, data.val, data.test)] == [
        [0, 2, 4, 6, 8, 10],
        [12, 14],
        [16, 18],
    ]
