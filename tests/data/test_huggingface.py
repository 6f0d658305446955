"""Test trainings on data sets of Hugging Face."""

import os

import numpy as np
import pytest
import torch

from sweep.arrays import as_source
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import dataset_of
from sweep.data.sources import huggingface
from sweep.errors import InvalidValueError
from tests.conftest import SMALL
from tests.test_main_job import runs

os.environ.setdefault("HF_HUB_OFFLINE", "1")
datasets = pytest.importorskip("datasets")


def given(n=30, seed=0, **further):
    """Return sentences of different lengths, as texts and as tokens, with their classes."""
    generator = np.random.default_rng(seed)
    tokens = [generator.integers(1, 20, 2 + index % 5).tolist() for index in range(n)]
    columns = {
        "text": [" ".join(map(str, ids)) for ids in tokens],
        "words": [list(map(str, ids)) for ids in tokens],
        "input_ids": tokens,
        "label": [index % 3 for index in range(n)],
    }
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "words": datasets.List(datasets.Value("string")),
            "input_ids": datasets.List(datasets.Value("int64")),
            "label": datasets.ClassLabel(names=["bad", "so", "good", "never"]),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


def loaded(source, **keys):
    return dataset_of(as_source(source), DatasetConfig(Component("dataset", "sweep.data.sources.digits", {}), **keys))


@pytest.mark.parametrize("kind", ["mapping", "DatasetDict", "validation", "torch"])
def test_columns_become_a_batch(kind):
    splits = {"train": given(), "val": given(8, 1), "test": given(6, 2)}
    if kind == "validation":
        splits["validation"] = splits.pop("val")
    elif kind == "torch":
        splits = {name: split.with_format("torch") for name, split in splits.items()}
    data = loaded(splits if kind == "mapping" else datasets.DatasetDict(splits))
    batch = data.train[:5].batch
    assert list(batch) == ["input_ids", "labels"]
    assert batch["input_ids"].shape == (5, 6)
    assert batch["input_ids"].dtype == torch.int64
    assert batch["input_ids"][0].tolist() == [*given()[0]["input_ids"], 0, 0, 0, 0]
    assert batch["labels"].tolist() == [0, 1, 2, 0, 1]
    assert (len(data.train), len(data.val), len(data.test)) == (30, 8, 6)
    assert data.classification
    assert data.n_outputs == 4  # as ClassLabel says, though the last one has no example


def test_one_data_set_is_divided():
    data = loaded(given(40), val_fraction=0.25, test_fraction=0.25)
    assert (len(data.train), len(data.val), len(data.test)) == (20, 10, 10)
    assert data.n_outputs == 4


def test_labels_of_tokens_are_padded_so_that_they_do_not_count():
    tags = datasets.List(datasets.ClassLabel(num_classes=20))
    tagged = given().add_column("labels", given()["input_ids"]).remove_columns(["label", "words"])
    tagged = tagged.cast_column("labels", tags)
    data = loaded({"train": tagged, "val": tagged})
    assert data.train[:2].batch["labels"][0].tolist() == [*given()[0]["input_ids"], -100]
    assert data.n_outputs == 20


def test_a_collate_function_of_the_users_gets_the_columns_as_they_are():
    def collate(examples):
        assert examples[0].keys() == {"text", "words", "input_ids", "label"}
        return {"x": torch.ones(len(examples), 2), "y": torch.tensor([example["label"] for example in examples])}

    data = loaded({"train": given(), "val": given(8, 1), "collate": collate})
    assert data.train[:3].batch["y"].tolist() == [0, 1, 2]


def test_another_column_gives_another_digest():
    one, other = ({"train": given(30, seed), "val": given(8, 1)} for seed in (0, 5))
    assert loaded(one).digest != loaded(other).digest
    assert loaded(one).digest == loaded(one).digest


def test_what_cannot_be_put_together_is_refused_with_its_column():
    missing = given().add_column("weight", [None] * 30)
    with pytest.raises(InvalidValueError, match=r"dataset\.collate.*weight"):
        loaded({"train": missing, "val": missing})


def saved(folder, found):
    found.save_to_disk(str(folder))
    return str(folder)


def test_a_saved_data_set_is_read_with_its_splits_and_columns(tmp_path):
    splits = datasets.DatasetDict({"train": given(), "validation": given(8, 1), "test": given(6, 2)})
    path = saved(tmp_path / "it", splits)
    data = loaded(huggingface(path))
    assert (len(data.train), len(data.val), len(data.test)) == (30, 8, 6)
    assert data.n_outputs == 4
    assert data.digest == loaded(splits).digest
    data = loaded(huggingface(path, columns=["label"], splits={"train": "test", "test": "validation"}))
    assert data.train[:2].batch.keys() == {"labels"}
    assert (len(data.train), len(data.val), len(data.test)) == (5, 1, 8)


@pytest.mark.parametrize("kind", ["Dataset", "DatasetDict"])
def test_one_saved_data_set_is_divided(tmp_path, kind):
    found = given(40) if kind == "Dataset" else datasets.DatasetDict({"train": given(40)})
    data = loaded(huggingface(saved(tmp_path / "it", found)), val_fraction=0.25, test_fraction=0.25)
    assert (len(data.train), len(data.val), len(data.test)) == (20, 10, 10)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"columns": ["tokens"]},
            "columns=tokens: is not a column of the data set, which has text, words, input_ids, label",
        ),
        ({"columns": "label"}, "columns=label: must be a list of columns"),
        (
            {"splits": {"train": "train", "val": "dev"}},
            "splits={val: dev}: must map train, val and test to the splits",
        ),
        ({"splits": {"training": "train"}}, "splits={training: train}: must map train, val and test to the"),
        ({"splits": {}}, "splits={}: must name train"),
        ({"path": "nowhere"}, "path=nowhere: is not a folder"),
    ],
)
def test_keys_of_a_saved_data_set_that_cannot_be_right_are_refused(tmp_path, keys, said):
    path = saved(tmp_path / "it", datasets.DatasetDict({"train": given(), "validation": given(8, 1)}))
    with pytest.raises(InvalidValueError) as refused:
        huggingface(**({"path": path} | keys))
    assert str(refused.value).startswith(said)


def test_other_splits_must_be_chosen(tmp_path):
    path = saved(
        tmp_path / "it", datasets.DatasetDict({"train": given(), "test": given(8, 1), "unsupervised": given()})
    )
    with pytest.raises(
        InvalidValueError, match=r"^splits=\{unsupervised: unsupervised\}: must map train, val and test"
    ):
        huggingface(path)
    assert huggingface(path, splits={"train": "train", "test": "test"}).keys() == {"train", "test"}


def test_a_damaged_folder_is_refused(tmp_path):
    path = saved(tmp_path / "it", given())
    (file,) = (tmp_path / "it").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InvalidValueError, match=rf"^path={path}: cannot be read as a data set that save_to_disk"):
        huggingface(path)
    file.unlink()
    with pytest.raises(InvalidValueError, match=rf"^path={path}: cannot be read as a data set that save_to_disk"):
        huggingface(path)


def test_a_saved_data_set_has_one_data_set_or_splits(tmp_path):
    path = saved(tmp_path / "it", given())
    with pytest.raises(InvalidValueError, match=r"^splits=\{.*\}: must be null: the folder contains one data set"):
        huggingface(path, splits={"train": "train"})


def test_a_network_is_trained_on_a_saved_data_set(sweep, folder):
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    labels = datasets.ClassLabel(names=["low", "high"])
    features = datasets.Features({"x": datasets.List(datasets.Value("float32")), "label": labels})
    found = datasets.Dataset.from_dict({"x": x.tolist(), "label": (x[:, 0] > 0).astype(int).tolist()}, features)
    saved(folder / "it", found)
    answer = sweep("mode=train", "dataset=huggingface", "dataset.path=it", *SMALL)
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    assert 0.5 < run.data.metrics["val_accuracy"] <= 1
