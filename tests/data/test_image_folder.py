"""Test reading images from folders of classes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweep.data.sources import image_folder
from sweep.errors import InvalidValueError
from tests.conftest import SMALL, Answer
from tests.data.archives import images, write_images
from tests.test_main_job import runs


def test_classes_and_images_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_images(tmp_path, {"dog": 3, "cat": 2})
    (tmp_path / "README.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / ".DS_Store").write_text("no image")
    found = image_folder(str(tmp_path))
    assert found["x"].dtype == np.uint8
    assert found["x"].shape == (5, 3, 6, 5)
    assert found["y"].tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_array_equal(found["x"][:2], images(2, 6, 5, 3, seed=1).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found["x"][2:], images(3, 6, 5, 3, seed=0).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("others", [("test",), ("val",), ("val", "test"), ("validation", "test")])
def test_folders_of_splits_are_splits(tmp_path: Path, others: tuple[str, ...]) -> None:
    for split in ("train", *others):
        write_images(tmp_path / split, {"cat": 2, "dog": 3} if split == "train" else {"dog": 1})
    found = image_folder(str(tmp_path))
    assert list(found) == ["train", *others]
    assert found["train"]["y"].tolist() == [0, 0, 1, 1, 1]
    for split in others:
        assert found[split]["y"].tolist() == [1]
        assert found[split]["x"].shape == (1, 3, 6, 5)


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    write_images(tmp_path, {"car": 1, "plane": 1, "train": 1})
    assert image_folder(str(tmp_path))["y"].tolist() == [0, 1, 2]


def test_images_are_resized_and_converted(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("L", (8, 4), 100).save(tmp_path / "one" / "gray.png")
    Image.new("RGBA", (3, 9), (10, 20, 30, 255)).save(tmp_path / "one" / "high.webp", lossless=True)
    Image.new("RGB", (6, 6), (255, 0, 0)).save(tmp_path / "one" / "red.bmp")
    found = image_folder(str(tmp_path), size=[2, 3])["x"]
    assert found.shape == (3, 3, 2, 3)
    np.testing.assert_array_equal(found[:, :, 1, 2], [[100] * 3, [10, 20, 30], [255, 0, 0]])
    gray = image_folder(str(tmp_path), size=[2, 3], channels=1)["x"]
    assert gray.shape == (3, 1, 2, 3)
    np.testing.assert_array_equal(gray[:, 0, 0, 0], [100, 18, 76])  # 0.299 R + 0.587 G + 0.114 B


def test_a_file_that_is_no_image_is_refused_by_its_name(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 2, "dog": 2})
    file = tmp_path / "dog" / "000.png"
    whole = file.read_bytes()
    for content in (b"no image", b"", whole[:70], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n"):
        file.write_bytes(content)
        with pytest.raises(InvalidValueError, match=rf"^path={file}: cannot be read as an image \(BMP, JPEG, PNG, "):
            image_folder(str(tmp_path))
    file.unlink()
    file.mkdir()
    with pytest.raises(InvalidValueError, match=rf"^path={file}: cannot be read as an image"):
        image_folder(str(tmp_path))


def test_an_image_of_another_size_is_refused_by_its_name(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 2})
    file = tmp_path / "cat" / "002.png"
    Image.new("RGB", (7, 6)).save(file)
    said = rf"^path={file}: has the size \[6, 7\], but .*000\.png has \[6, 5\]; dataset\.size=\[height,width\] resizes"
    with pytest.raises(InvalidValueError, match=said):
        image_folder(str(tmp_path))


def test_pixels_of_16_bits_are_refused_not_cut_off(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16)).save(tmp_path / "cat" / "deep.png")
    with pytest.raises(InvalidValueError, match=r"deep\.png: has pixels of more than 8 bits"):
        image_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([], r"^path=.*: has no folders"),
        (["cat"], r"^path=.*cat: is a class without images"),
        (["train/cat/", "val/cow/"], r"^path=.*val/cow: is a class that the folder train does not have"),
        (["train/", "val/cow/"], r"^path=.*train: has no folders"),
    ],
)
def test_folders_that_cannot_be_right_are_refused(tmp_path: Path, folders: list[str], said: str) -> None:
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
        if name.count("/") == 2:
            write_images(tmp_path / name.rstrip("/"), {"": 1})
    with pytest.raises(InvalidValueError, match=said):
        image_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"size": 32}, "^size=32: must be"),
        ({"size": [32]}, r"^size=\[32\]: must be"),
        ({"size": [0, 5]}, "^size=0: must be an integer >= 1"),
        ({"channels": 2}, "^channels=2: must be 1 or 3"),
        ({"channels": True}, "^channels=True: must be 1 or 3"),
        ({"path": "nowhere"}, "^path=nowhere: is not a folder"),
    ],
)
def test_keys_that_cannot_be_right_are_refused(tmp_path: Path, keys: dict[str, object], said: str) -> None:
    write_images(tmp_path, {"cat": 1})
    with pytest.raises(InvalidValueError, match=said):
        image_folder(**({"path": str(tmp_path)} | keys))


def test_a_network_is_trained_on_it(sweep: Callable[..., Answer], folder: Path) -> None:
    for split, n in (("train", 50), ("test", 10)):
        write_images(folder / "pets" / split, {"cat": n, "dog": n}, (8, 7))
    given = ["dataset=image_folder", "dataset.path=pets", "dataset.size=[6,6]", "dataset.channels=1"]
    answer = sweep("mode=train", *given, *SMALL)
    assert answer.status == 0, answer.err
    (run,) = runs(folder, "train")
    assert run.data.params["dataset.standardize"] == "channels"
    assert 0 < run.data.metrics["val_loss"] < 10
    (folder / "pets" / "train" / "dog" / "000.png").write_bytes(b"no image")
    answer = sweep("mode=train", *given, *SMALL)
    assert answer.status == 2
    assert answer.err.startswith("sweep: dataset.path=pets/train/dog/000.png: cannot be read as an image")
