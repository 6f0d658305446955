"""Test reading MNIST and Fashion-MNIST from idx files, including damaged files."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import load
from sweep.data.sources import fashion_mnist, mnist
from sweep.data.sources.idx import DEBIAN_FOLDER
from sweep.errors import InvalidValueError
from tests.conftest import SMALL, Answer
from tests.data.archives import idx, images, labels, write_mnist
from tests.test_main_job import runs


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("zipped", [True, False])
def test_images_and_labels_are_those_of_the_files(tmp_path: Path, zipped: bool, separator: str) -> None:
    write_mnist(tmp_path, zipped=zipped, separator=separator)
    for found in (mnist(str(tmp_path)), fashion_mnist(str(tmp_path))):
        assert found["x_train"].shape == (60, 1, 6, 5)
        assert {array.dtype for array in found.values()} == {np.dtype(np.uint8)}
        np.testing.assert_array_equal(found["x_train"][:, 0], images(60, 6, 5))
        np.testing.assert_array_equal(found["x_test"][:, 0], images(20, 6, 5, seed=1))
        np.testing.assert_array_equal(found["y_train"], labels(60))
        np.testing.assert_array_equal(found["y_test"], labels(20))


def test_the_test_split_is_as_given_and_bytes_stay_bytes(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    component = Component("dataset", "sweep.data.sources.mnist", {"path": str(tmp_path)})
    data = load(DatasetConfig(component, val_fraction=0.1, standardize="channels", n_classes=10))
    assert (len(data.train), len(data.val), len(data.test)) == (54, 6, 20)
    assert data.train.arrays["x"].dtype == np.uint8
    mean, deviation = data.train.scaling
    np.testing.assert_allclose(data.test.inputs, (mnist(str(tmp_path))["x_test"] - mean) / deviation)
    assert data.test.targets.tolist() == labels(20).tolist()


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "no gzip": ("train-images-idx3-ubyte.gz", gzip.decompress, "cannot be read: Not a gzipped file"),
    "cut gzip": ("t10k-images-idx3-ubyte.gz", lambda content: content[:-20], "cannot be read: Compressed file ended"),
    "flipped": ("train-labels-idx1-ubyte.gz", lambda c: c[:-8] + bytes([c[-8] ^ 1]) + c[-7:], "cannot be read: CRC"),
    "empty": ("train-images-idx3-ubyte.gz", lambda _: b"", "begins with , not with the magic number 00000803"),
    "labels for images": (
        "train-images-idx3-ubyte.gz",
        lambda _: gzip.compress(idx(labels(60))),
        "begins with 00000801, not with the magic number 00000803",
    ),
    "no header": (
        "t10k-images-idx3-ubyte.gz",
        lambda _: gzip.compress(idx(images(20, 6, 5))[:10]),
        "has 10 bytes, fewer than the 16 of its header",
    ),
    "cut": (
        "t10k-images-idx3-ubyte.gz",
        lambda _: gzip.compress(idx(images(20, 6, 5))[:-1]),
        "has 599 bytes of data, but its header says 20 x 6 x 5",
    ),
    "too long": (
        "t10k-labels-idx1-ubyte.gz",
        lambda _: gzip.compress(idx(labels(20)) + b"\0"),
        "has 21 bytes of data, but its header says 20",
    ),
    "fewer labels": (
        "t10k-labels-idx1-ubyte.gz",
        lambda _: gzip.compress(idx(labels(19))),
        "has 19 labels, but t10k-images-idx3-ubyte.gz has 20 images",
    ),
}


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_by_its_name(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], said: str
) -> None:
    write_mnist(tmp_path)
    file = tmp_path / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InvalidValueError) as refused:
        mnist(str(tmp_path))
    assert str(refused.value).startswith(f"path={file}: {said}")


def test_a_missing_file_is_refused_with_the_way_to_get_it(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InvalidValueError, match=r"has no file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz; "):
        mnist(str(tmp_path))
    with pytest.raises(InvalidValueError, match=f"apt install dataset-fashion-mnist installs them in {DEBIAN_FOLDER}"):
        fashion_mnist(str(tmp_path / "nowhere"))


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels(20, 11)))
    component = Component("dataset", "sweep.data.sources.mnist", {"path": str(tmp_path)})
    with pytest.raises(InvalidValueError, match=r"^dataset\.y=label 10: labels must be 0\.\.9"):
        load(DatasetConfig(component, n_classes=10))


def test_a_network_is_trained_on_it(
    sweep: Callable[..., Answer], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(folder / "digits", 200)
    monkeypatch.setenv("HOME", str(folder))
    answer = sweep("mode=train", "dataset=mnist", 'dataset.path="~/digits"', "model.hidden=[8]", *SMALL)
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    assert run.data.params["dataset.standardize"] == "channels"
    assert 0 < run.data.metrics["val_loss"] < 10
