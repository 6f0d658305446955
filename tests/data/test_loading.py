"""Test data sets that load examples individually, ragged arrays, tokens, and large arrays."""

import itertools
import multiprocessing
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from sweep.arrays import as_source
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import LoadedSplit, StoredSplit, dataset_of
from sweep.data import dataset as module
from sweep.data.loading import collated, permutation
from sweep.data.sources import npz
from sweep.errors import InvalidValueError
from sweep.training import CPU
from sweep.training.batches import Batches, in_order

X2, Y2 = np.ones((20, 2)), np.arange(20) % 2


class Drawing(Dataset):
    """A data set whose example i is (i and numbers from three random generators, i % 3)."""

    def __init__(self, n=20):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        drawn = [float(torch.rand(())), float(np.random.random()), random.random()]
        return torch.tensor([float(index), *drawn]), index % 3


def data_of(given, **keys):
    return dataset_of(as_source(given), DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), **keys))


def drawing(num_workers=0, **keys):
    return data_of({"train": Drawing(), "val": Drawing(7)}, num_workers=num_workers, **keys)


def drawn(data, seed, begin, end, drop_last=False):
    batches = Batches(data.train, 8, seed, CPU, drop_last)
    return [batch[0] for batch in batches.range(begin, end)]


def test_a_map_style_data_set_is_a_data_set():
    data = drawing()
    assert isinstance(data.train, LoadedSplit)
    assert (len(data.train), len(data.val), len(data.test)) == (20, 7, 0)
    assert (data.n_outputs, data.classification) == (0, True)
    assert drawing(n_classes=3).n_outputs == 3
    inputs, targets = next(in_order(data.place(CPU, torch.float32).val, 4, CPU))
    assert inputs.dtype == torch.float32
    assert inputs[:, 0].tolist() == [0, 1, 2, 3]
    assert targets.tolist() == [0, 1, 2, 0]


def test_one_without_splits_is_divided_by_the_fractions():
    data = data_of(Drawing(50), val_fraction=0.2, test_fraction=0.1, split_seed=3)
    rows = [split.inputs[:, 0].tolist() for split in (data.train, data.val, data.test)]
    assert [len(split) for split in rows] == [35, 10, 5]
    assert sorted(itertools.chain(*rows)) == list(range(50))


def test_the_order_is_that_of_arrays():
    found = torch.cat(drawn(drawing(), 5, 0, 6))[:, 0].tolist()
    assert found == [*permutation(20, 5, 0).tolist(), *permutation(20, 5, 1).tolist()]
    assert torch.cat(drawn(drawing(), 5, 0, 4, drop_last=True))[:, 0].tolist() == [
        *permutation(20, 5, 0).tolist()[:16],
        *permutation(20, 5, 1).tolist()[:16],
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_examples_draw_depends_on_seed_epoch_and_index_alone(num_workers):
    whole = drawn(drawing(), 5, 0, 6)
    batches = Batches(drawing(num_workers).train, 8, 5, CPU)
    torch.manual_seed(7)
    parts = [batch[0] for begin, end in ((0, 2), (2, 5), (5, 6)) for batch in batches.range(begin, end)]
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    first, second = torch.cat(whole[:3]), torch.cat(whole[3:])
    epochs = [rows[rows[:, 0].argsort()][:, 1:] for rows in (first, second)]
    assert (epochs[0] != epochs[1]).all()
    assert (drawn(drawing(), 6, 0, 1)[0][:, 1:] != whole[0][:, 1:]).all()
    again = [batch[0] for batch in batches.range(2, 4)]  # as after an interruption
    assert all(torch.equal(one, other) for one, other in zip(again, whole[2:4], strict=True))
    batches.split.loader.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_pause_before_an_update_restarts_no_workers(num_workers):
    """A training that pauses has already taken the batch of the next update."""
    batches, whole = Batches(drawing(num_workers).train, 8, 5, CPU), drawn(drawing(), 5, 0, 6)
    paused = batches.range(0, 6)
    assert [torch.equal(next(paused)[0], expected) for expected in whole[:3]] == [True] * 3
    loading = batches.split.loader._ahead[1]
    paused.close()
    rest = [batch[0] for batch in batches.range(2, 6)]
    assert all(torch.equal(one, other) for one, other in zip(rest, whole[2:], strict=True))
    assert batches.split.loader._ahead[1] is loading
    other = [batch[0] for batch in Batches(batches.split, 8, 6, CPU).range(5, 6)]
    assert torch.equal(other[0], drawn(drawing(), 6, 5, 6)[0])
    batches.split.loader.close()


def test_loading_leaves_the_generators_of_the_training_alone():
    data = drawing()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = [float(torch.rand(())), float(np.random.random()), random.random()]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    drawn(data, 0, 0, 5)
    list(in_order(data.val, 3, CPU))
    assert [float(torch.rand(())), float(np.random.random()), random.random()] == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_evaluation_sees_the_same_examples_each_time(num_workers):
    data = drawing(num_workers)
    first, second = (torch.cat([inputs for inputs, _ in in_order(data.val, 3, CPU)]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, torch.cat([inputs for inputs, _ in in_order(drawing().val, 7, CPU)]))
    data.val.loader.close()


def test_closed_loaders_leave_no_processes():
    data = drawing(2)
    before = set(multiprocessing.active_children())
    drawn(data, 0, 0, 2)
    batches = Batches(data.train, 8, 0, CPU)
    next(batches.range(0, 1))
    assert len(set(multiprocessing.active_children()) - before) >= 2
    data.train.loader.close()
    del batches
    assert not set(multiprocessing.active_children()) - before


def test_the_digest_is_of_the_number_and_the_contents_of_examples():
    assert drawing().digest == drawing(2).digest
    other = data_of({"train": Drawing(21), "val": Drawing(7)})
    assert drawing().digest != other.digest


# --- batches of a list of examples


def test_examples_are_stacked_and_padded():
    batch = collated(
        [
            {"ids": [1, 2, 3], "labels": [4, 5, 6], "text": "a", "size": 1.5, "picture": np.ones((2, 2))},
            {"ids": [7], "labels": [8], "text": "b", "size": 2.5, "picture": np.zeros((2, 2))},
        ]
    )
    assert batch["ids"].tolist() == [[1, 2, 3], [7, 0, 0]]
    assert batch["labels"].tolist() == [[4, 5, 6], [8, -100, -100]]
    assert batch["size"].tolist() == [1.5, 2.5]
    assert batch["picture"].shape == (2, 2, 2)
    assert "text" not in batch
    pictures, labels = collated([(torch.ones(1, 3), 0), (torch.ones(2, 2), 1)])
    assert pictures.shape == (2, 2, 3)
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "examples", [[object()], [{"a": [1, [2]]}], [[1.0], [[1.0]]], [{"name": {"nested": object()}}]]
)
def test_examples_that_make_no_batch_are_refused(examples):
    with pytest.raises(InvalidValueError, match=r"^dataset\.collate=null: is needed: "):
        collated(examples)


def test_lists_of_several_lengths_are_padded_in_each_batch():
    tokens = [[1, 2], [3], [4, 5, 6], [7, 8]] * 5
    data = data_of({"tokens": tokens, "labels": [0, 1, 2, 1] * 5})
    assert (data.n_outputs, data.classification) == (3, True)
    batch = data.train[:3].batch
    assert batch["tokens"].shape[1] == max(len(tokens[row]) for row in data.train.loader.rows[:3])
    assert batch["labels"].tolist() == [[0, 1, 2, 1][row % 4] for row in data.train.loader.rows[:3]]


def test_x_of_several_lengths_cannot_be_standardized():
    given = {"x": [[1.0, 2.0], [3.0]] * 10, "y": [0, 1] * 10}
    with pytest.raises(InvalidValueError, match=r"^dataset\.standardize=True: .*dataset\.standardize=false pads"):
        data_of(given, standardize=True)
    assert data_of(given).train[:4].inputs.shape == (4, 2)


def last_two(examples):
    """Collate the last two tokens of each example."""
    return torch.tensor([list(example["tokens"][-2:]) for example in examples]), torch.zeros(len(examples)).long()


def test_a_function_of_the_user_s_makes_batches():
    collate = Component("dataset.collate", f"{__name__}.last_two", {}, (__name__,))
    given = {"tokens": [[1, 2, 3], [4, 5]] * 10, "labels": [0, 1] * 10}
    inputs, targets = data_of(given, collate=collate, n_classes=2).train[:5].batch
    assert inputs.shape == (5, 2)
    assert targets.tolist() == [0] * 5
    found = data_of({**given, "collate": last_two}, n_classes=2).train[:5].batch
    assert torch.equal(found[0], inputs)


# --- tokens, nested arrays, types


def test_tokens_are_divided_into_windows_without_a_copy():
    tokens = np.arange(103, dtype=np.uint16)
    data = data_of({"train": tokens, "val": tokens[:30]}, block=10)
    assert len(data.train) == 10
    assert len(data.val) == 2
    batch = data.train[3:4].batch
    assert batch["x"].tolist() == [list(range(30, 40))]
    assert batch["y"].tolist() == [list(range(31, 41))]
    assert batch["x"].dtype == torch.int64
    assert data.n_outputs == 101
    assert np.shares_memory(data.train.arrays["x"], data.train.arrays["y"])


@pytest.mark.parametrize(
    ("given", "block", "said"),
    [
        ({"train": np.arange(20), "val": np.arange(5)}, 5, "must be less than the number of tokens"),
        ({"train": np.ones(20), "val": np.ones(20)}, 5, "needs tokens, which are integers, not float64"),
        ({"x": np.ones((20, 2)), "y": np.ones(20)}, 5, "needs one array of tokens"),
    ],
)
def test_what_cannot_be_divided_into_windows_is_refused(given, block, said):
    with pytest.raises(InvalidValueError, match=rf"^dataset\.block={block}: {said}"):
        data_of(given, block=block)


def test_arrays_keep_their_types_and_their_structure():
    n = 20
    given = {
        "image": np.full((n, 2), 200, dtype=np.uint8),
        "mask": np.arange(n) % 2 == 0,
        "extra": {
            "ids": np.arange(n, dtype=np.int16),
            "pair": (np.ones(n, dtype=np.float64), np.ones((n, 3), np.int32)),
        },
        "labels": np.arange(n, dtype=np.uint8) % 3,
    }
    batch = data_of(given).place(CPU, torch.float32).train[:4].batch
    assert (batch["image"].dtype, batch["mask"].dtype) == (torch.uint8, torch.bool)
    assert batch["extra"]["ids"].dtype == torch.int64
    assert batch["extra"]["pair"][0].dtype == torch.float32
    assert batch["extra"]["pair"][1].shape == (4, 3)
    assert batch["labels"].dtype == torch.int64


def test_bytes_of_x_become_numbers_and_other_integers_stay():
    pictures, tokens = (
        data_of({"x": np.ones((20, 4), dtype), "y": np.arange(20) % 2}) for dtype in (np.uint8, np.int32)
    )
    assert pictures.place(CPU, torch.float32).train.inputs.dtype == torch.float32
    assert tokens.place(CPU, torch.float32).train.inputs.dtype == torch.int64


def test_a_label_that_does_not_count_is_no_class():
    y = np.array([0, 1, 255, 1] * 5)
    with pytest.raises(InvalidValueError, match=r"labels 0\.\.255"):
        data_of({"x": np.ones((20, 2)), "y": y})
    assert data_of({"x": np.ones((20, 2)), "y": y}, ignore_index=255).n_outputs == 2


# --- large data


def test_a_large_data_set_is_converted_batch_by_batch_to_the_same_numbers(monkeypatch):
    given = {"x": np.random.default_rng(0).integers(0, 255, (40, 3, 2), dtype=np.uint8), "y": np.arange(40) % 2}
    whole = data_of(given, standardize=True).place(CPU, torch.float32)
    monkeypatch.setattr(module, "MAX_CONVERTED_BYTES", 0)
    later = data_of(given, standardize=True).place(CPU, torch.float32)
    assert isinstance(later.train, StoredSplit)
    for one, other in zip(
        Batches(whole.train, 8, 1, CPU).range(0, 5), Batches(later.train, 8, 1, CPU).range(0, 5), strict=True
    ):
        assert torch.equal(one["x"], other["x"])
        assert torch.equal(one["y"], other["y"])
    order = torch.tensor([[0, 3], [5, 1]])
    for one, other in zip(whole.train.each(order), later.train.each(order), strict=True):
        assert torch.equal(one["x"], other["x"])


def anonymous() -> int:
    """Return the bytes of anonymous memory of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def grow(path, keys, pipe):
    """Load and use a data set, and send the largest growth of anonymous memory."""
    torch.set_num_threads(1)
    before = anonymous()
    component = Component("dataset", "sweep.data.sources.arrays", {"path": str(path)})
    data = module.load(DatasetConfig(component, **keys)).place(CPU, torch.float32)
    reached = [anonymous()]
    for batch in Batches(data.train, 64, 0, CPU).range(0, 30):
        assert len(batch["y"]) == 64
        reached.append(anonymous())
    pipe.send(max(reached) - before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process as Linux tells it")
@pytest.mark.parametrize("kind", ["mapped", "tokens", "compressed"])
def test_memory_grows_by_little_more_than_the_data(tmp_path, kind):
    """400 MB of bytes would take 1.6 GB in single precision. Mapped files do not use memory of the process."""
    if kind == "tokens":
        for split in ("train", "val"):
            size = np.lib.format.open_memmap(tmp_path / f"{split}.npy", "w+", np.uint16, (100_000_000,)).nbytes
    else:
        shape = (400_000 if kind == "mapped" else 150_000, 1000)
        x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, shape)
        y, size = np.arange(len(x)) % 10, x.nbytes
        np.save(tmp_path / "y.npy", y)
        if kind == "compressed":
            np.savez_compressed(tmp_path / "data.npz", x=x, y=y)
    keys = {"block": 256, "ignore_index": -100} if kind == "tokens" else {"val_fraction": 0.1}
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    path = tmp_path / "data.npz" if kind == "compressed" else tmp_path
    process = multiprocessing.get_context("fork").Process(target=grow, args=(path, keys, theirs))
    process.start()
    grown = ours.recv()
    process.join()
    assert grown < (1.3 if kind == "compressed" else 0.1) * size, f"{grown / size:.2f} times its size"


def test_large_arrays_of_an_npz_file_are_mapped(tmp_path, monkeypatch):
    given = {"x": np.random.default_rng(0).normal(size=(40, 3)), "y": np.asfortranarray(np.ones((40, 2)))}
    np.savez(tmp_path / "data.npz", **given)
    monkeypatch.setattr(npz, "MIN_MAPPED_BYTES", 100)
    found = npz.arrays(str(tmp_path / "data.npz"))
    for name, array in given.items():
        assert isinstance(found[name], np.memmap)
        np.testing.assert_array_equal(found[name], array)


def test_tokens_of_bytes_stay_integers():
    tokens = np.arange(200, dtype=np.uint8) % 50
    batch = data_of({"train": tokens, "val": tokens}, block=10, standardize=True).train[:2].batch
    assert batch["x"].dtype == torch.int64


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": {"x": X2, "y": Y2}}, r"^dataset=train: must give train, and val or test or both"),
        ({"val": {"x": X2, "y": Y2}, "test": {"x": X2, "y": Y2}}, r"^dataset=val, test: must give train, and val"),
        ({"x": X2, "labels": Y2[:-1]}, r"^dataset\.x=20 examples: must have as many examples as labels, which has 19"),
        ({"tokens": [[1, 2], [3]] * 10, "labels": [0, -7] * 10}, r"^dataset\.labels=label -7: labels must be 0\.\.C-1"),
        ({"x": X2, "y": np.full(20, 255)}, r"^dataset\.y=label 255: is the only label and is ignored"),
    ],
)
def test_data_that_would_be_trained_wrongly_is_refused(given, said):
    with pytest.raises(InvalidValueError, match=said):
        data_of(given, ignore_index=255)


def test_y_beside_x_is_the_target_and_further_columns_are_kept_for_each_split():
    data = data_of({"x": X2, "y": Y2, "labels": np.zeros(20, int), "groups": [[1, 2], [3]]})
    assert data.train.batch.keys() == {"x", "y", "labels"}
    assert data.train.targets.unique().tolist() == [0, 1]
    splits = {f"{name}_{split}": X2 for name in ("x", "mask") for split in ("train", "val")}
    data = data_of(splits | {"y_train": Y2, "y_val": Y2})
    assert data.train.batch.keys() == {"mask", "x", "y"}


def test_ragged_arrays_stand_beside_nested_ones():
    given = {
        "tokens": [[1, 2, 3], [0.5, 1.5]] * 10,
        "extra": {"a": np.arange(20), "b": (np.ones(20),)},
        "y": [0, 3] * 10,
    }
    data = data_of(given, ignore_index=3)
    assert data.n_outputs == 1
    batch = data.train[:4].batch
    rows = data.train.loader.rows[:4]
    assert batch["extra"]["a"].tolist() == rows.tolist()
    assert next(batch["tokens"][place].tolist() for place, row in enumerate(rows) if row % 2)[:2] == [0.5, 1.5]


def test_a_batch_of_fields_pads_its_last_one_as_a_target():
    _, labels = collated([([1, 2], [1, 2]), ([3], [3])])
    assert labels.tolist() == [[1, 2], [3, -100]]
    pictures, labels = collated([[torch.ones(2), 1], [torch.zeros(2), 0]])
    assert pictures.shape == (2, 2)
    assert labels.tolist() == [1, 0]
    assert collated([0.1, 0.2]).double().tolist() == [0.1, 0.2]


class Labelled(Drawing):
    def __init__(self, label):
        super().__init__()
        self.label = label

    def __getitem__(self, index):
        return torch.zeros(2), np.int64(self.label)


def test_numbers_of_numpy_are_part_of_the_digest():
    one, other = (data_of({"train": Labelled(label), "val": Labelled(label)}) for label in (0, 1))
    assert one.digest != other.digest
