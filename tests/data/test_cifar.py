"""Test reading CIFAR-10 and CIFAR-100 from their binary versions, including damaged files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sweep.data.sources import cifar10, cifar100
from sweep.errors import InvalidValueError
from tests.conftest import SMALL, Answer
from tests.data import archives
from tests.data.archives import images, labels, write_tar
from tests.test_main_job import runs


def written(place: Path, files: dict[str, bytes], kind: str) -> str:
    """Write the files as an archive or into a folder; return its path."""
    if kind == "archive":
        write_tar(place, files)
    else:
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
    return str(place)


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_the_five_batches_are_the_training_split_in_their_order(tmp_path: Path, kind: str) -> None:
    files = archives.cifar10()
    found = cifar10(written(tmp_path / "it", dict(reversed(files.items())), kind))
    assert {array.dtype for array in found.values()} == {np.dtype(np.uint8)}
    assert found["x_train"].shape == (50, 3, 32, 32)
    for batch in range(5):
        expected = images(10, 3072, seed=batch).reshape(10, 3, 32, 32)
        np.testing.assert_array_equal(found["x_train"][10 * batch : 10 * batch + 10], expected)
    np.testing.assert_array_equal(found["x_test"].reshape(10, 3072), images(10, 3072, seed=5))
    assert found["y_train"].tolist() == labels(10).tolist() * 5


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "it", archives.cifar100(), kind)
    fine, coarse = cifar100(path), cifar100(path, "coarse")
    assert fine["y_train"].tolist() == labels(200, 100).tolist()
    assert coarse["y_test"].tolist() == labels(200, 20).tolist()
    for found in (fine, coarse):
        np.testing.assert_array_equal(found["x_train"].reshape(200, 3072), images(200, 3072))
    with pytest.raises(InvalidValueError, match=r"^labels=both: must be one of coarse, fine"):
        cifar100(path, "both")


@pytest.mark.parametrize("kind", ["archive", "folder"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archives.records(10)[:-1], "has 30729 bytes, which is not a multiple of 3073, one image"),
        (b"", "has 0 bytes, which is not a multiple of 3073"),
        (archives.records(13, (13,)), r"has the label 10 at image 10: labels must be 0\.\.9"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, kind: str, content: bytes, said: str) -> None:
    path = written(tmp_path / "it", archives.cifar10() | {"data_batch_3.bin": content}, kind)
    with pytest.raises(InvalidValueError, match=rf"^path={path}/data_batch_3\.bin: {said}"):
        cifar10(path)


def test_both_labels_of_cifar100_are_checked(tmp_path: Path) -> None:
    path = written(tmp_path / "it", archives.cifar100() | {"test.bin": archives.records(40, (21, 100))}, "archive")
    with pytest.raises(InvalidValueError, match=r"test\.bin: has the label 20 at image 20: labels must be 0\.\.19"):
        cifar100(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[: len(content) // 2], r"cannot be read as a \.tar\.gz archive"),
        (lambda content: content[:5000] + bytes([content[5000] ^ 255]) + content[5001:], r"cannot be read as a"),
        (lambda _: b"no archive", r"cannot be read as a \.tar\.gz archive"),
    ],
    ids=["cut", "flipped", "other"],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_tar(path, archives.cifar10())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidValueError, match=rf"^path={path}: {said}"):
        cifar10(str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidValueError, match=r"nothing\.tar\.gz: there is no such file or folder; it must be .*https://"
    ):
        cifar10(str(tmp_path / "nothing.tar.gz"))
    files = archives.cifar10()
    del files["test_batch.bin"]
    for kind in ("archive", "folder"):
        with pytest.raises(
            InvalidValueError, match=r"has no file test_batch\.bin; it must be the archive of the binary"
        ):
            cifar10(written(tmp_path / kind, files, kind))


def test_a_network_is_trained_on_it(sweep: Callable[..., Answer], folder: Path) -> None:
    write_tar(folder / "cifar-100-binary.tar.gz", archives.cifar100())
    given = ["dataset=cifar100", "dataset.path=cifar-100-binary.tar.gz", "dataset.labels=coarse"]
    answer = sweep("mode=train", *given, *SMALL)
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    assert 0 < run.data.metrics["val_loss"] < 10
