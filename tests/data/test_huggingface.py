"""Data sets of Hugging Face as data sets of a training."""

import os

import numpy as np
import pytest
import torch

from sweep.arrays import as_source
from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import dataset_of
from sweep.errors import InvalidValueError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
datasets = pytest.importorskip("datasets")


def given(n=30, seed=0, **further):
    """Sentences of several lengths, as texts and as tokens, with a class."""
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
