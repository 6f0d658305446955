"""Tests that every command of docs/datasets.md reads the data that the page describes."""

import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from sweep.data import load
from sweep.errors import InvalidValueError
from sweep.requests import build
from sweep.requests.compose import Composer
from sweep.requests.resolvers import register_resolvers
from tests.conftest import ROOT
from tests.data import archives
from tests.pages import Page, write_data

register_resolvers()

PAGE = Page("docs/datasets.md")


@pytest.fixture
def files(folder: Path) -> Path:
    """Create the files that the commands name, with few examples."""
    write_data(folder)
    return folder


SHAPES = {
    "digits": ((1, 8, 8), 10),
    "breast_cancer": ((30,), 2),
    "arrays": ((4,), 3),
    "quadratic": ((1,), 1),
    "fashion_mnist": ((1, 6, 5), 10),
    "mnist": ((1, 6, 5), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 20),
    "photos": ((3, 64, 64), 2),
    "scans": ((1, 6, 5), 2),
    "species": ((1,), 2),
    "price": ((2,), 1),
    "rooms": ((2,), 1),
}
"""Maps a data set, or its folder or target, to the shape of an example and the number of outputs."""


def test_every_command_reads_its_data(files: Path) -> None:
    seen = set()
    for command in PAGE.commands():
        given = dict(word.split("=", 1) for word in command)
        if given.get("dataset") == "huggingface":
            continue
        if given.get("dataset") == "fashion_mnist" and "dataset.path" not in given:
            command = [*command, "dataset.path=fashion"]
        name = given.get("dataset", "digits")
        name = given["dataset.path"] if name == "image_folder" else given.get("dataset.target", name)
        data = load(build.run_config(Composer().compose([w for w in command if not w.startswith("model=")])).dataset)
        assert (data.input_shape, data.n_outputs) == SHAPES[name]
        assert data.classification == (name not in ("quadratic", "price", "rooms"))
        assert min(len(split) for split in (data.train, data.val, data.test)) > 0
        seen.add(name)
    assert seen == SHAPES.keys()


def test_a_saved_data_set_of_hugging_face_is_read(files: Path) -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"text": ["a"] * 10, "input_ids": [[1, 2]] * 10, "label": [0, 1] * 5})
    datasets.DatasetDict(dict.fromkeys(("train", "test", "unsupervised"), part)).save_to_disk("reviews")
    kept = [word for word in PAGE.command("dataset=huggingface") if word.startswith("dataset")]
    data = load(build.run_config(Composer().compose(kept)).dataset)
    assert (len(data.train), len(data.val), len(data.test)) == (8, 2, 10)
    assert data.train[:2].batch.keys() == {"input_ids", "labels"}


def test_the_page_shows_each_data_set() -> None:
    for option in (ROOT / "conf" / "dataset").glob("*.yaml"):
        assert f"\n| [`{option.stem}`](" in PAGE.text


def test_the_refusals_are_those_of_the_page(files: Path) -> None:
    """A line of the page may end with `...`."""
    shown = PAGE.text.rpartition("\n```\n")[0].rpartition("```\n")[2].splitlines()
    (files / "fashion" / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08" + bytes(8))
    (files / "cifar-100-binary" / "test.bin").write_bytes(archives.records(40, (21, 100)))
    Image.new("RGB", (64, 48)).save(files / "photos" / "dog" / "7.png")
    (files / "scans" / "train" / "cat" / "notes.txt").write_text("no image")
    pd.DataFrame({"age": [*range(17), None], "y": 0}).to_csv("people.csv", index=False)
    pd.DataFrame({"city": ["Rome", "Bonn"], "y": [0, 1]}).to_csv("cities.csv", index=False)
    found = []
    for command in (
        ["dataset=fashion_mnist", "dataset.path=/usr/share/datasets/nothing"],
        ["dataset=mnist", "dataset.path=fashion"],
        ["dataset=cifar100", "dataset.path=cifar-100-binary", "dataset.labels=coarse"],
        ["dataset=image_folder", "dataset.path=scans"],
        ["dataset=image_folder", "dataset.path=photos"],
        ["dataset=table", "dataset.path=cities.csv", "dataset.target=y"],
        ["dataset=table", "dataset.path=people.csv", "dataset.target=y"],
        ["dataset=table", "dataset.path=houses.parquet", "dataset.target=prize"],
        ["dataset=breast_cancer", "dataset.standardize=channels"],
    ):
        with pytest.raises(InvalidValueError) as refused:
            load(build.run_config(Composer().compose(command)).dataset)
        found.append(str(refused.value))
    assert len(shown) == len(found)
    for line, message in zip(shown, found, strict=True):
        assert re.fullmatch(re.escape(line).replace(re.escape("..."), ".*"), message)
