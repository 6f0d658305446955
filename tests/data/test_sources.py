"""Test the built-in data sets and reading a user's .npz file."""

import pickle
import sys
import zipfile

import numpy as np
import pytest

from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import load
from sweep.data.sources import arrays, breast_cancer, digits, huggingface, image_folder, quadratic, table
from sweep.errors import InvalidValueError
from tests.data.archives import write_images


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_digits_are_pictures_between_0_and_1_of_ten_classes():
    found = digits()
    assert found["x"].shape == (1797, 1, 8, 8)
    assert (found["x"].min(), found["x"].max()) == (0, 1)
    assert sorted(set(found["y"].tolist())) == list(range(10))


def test_breast_cancer_is_thirty_features_of_two_classes():
    found = breast_cancer()
    assert found["x"].shape == (569, 30)
    assert np.bincount(found["y"]).tolist() == [212, 357]


def test_quadratic_is_a_regression_of_the_same_example_over_and_over():
    found = load(DatasetConfig(Component("dataset", "sweep.data.sources.quadratic", {})))
    assert not found.classification
    for split in (found.train, found.val, found.test):
        assert len(split) >= 64
        assert (split.inputs == 1).all()
        assert (split.targets == -1).all()
        assert split.inputs.shape == split.targets.shape == (len(split), 1)
    assert quadratic()["x_train"].dtype == np.float64


def test_an_npz_gives_its_arrays_as_they_were_saved(tmp_path):
    saved = {"x": np.arange(6.0).reshape(3, 2), "y": np.array([0, 1, 0])}
    np.savez(tmp_path / "data.npz", **saved)
    found = arrays(str(tmp_path / "data.npz"))
    assert found.keys() == saved.keys()
    for name in saved:
        np.testing.assert_array_equal(found[name], saved[name])


def test_a_compressed_npz_is_read(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", x=np.ones((3, 2)))
    np.testing.assert_array_equal(arrays(str(tmp_path / "data.npz"))["x"], np.ones((3, 2)))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match=r"^path=.*nothing\.npz: there is no such file"):
        arrays(str(tmp_path / "nothing.npz"))


def test_a_folder_has_its_npy_files(tmp_path):
    with pytest.raises(InvalidValueError, match=r"^path=.*: is a folder without \.npy files"):
        arrays(str(tmp_path))
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    assert isinstance(arrays(str(tmp_path))["x"], np.memmap)
    (tmp_path / "y.npy").write_bytes(b"nothing")
    with pytest.raises(InvalidValueError, match=r"^path=.*: has a file that cannot be read as \.npy"):
        arrays(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n", b"PK\x03\x04 and then nothing"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(InvalidValueError, match=r"^path=.*: is not an \.npz file"):
        arrays(str(tmp_path / "data.npz"))


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "data.npy", np.ones((3, 2)))
    with pytest.raises(InvalidValueError, match=r"is not an \.npz file"):
        arrays(str(tmp_path / "data.npy"))


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((100, 2)))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InvalidValueError, match=r"^path="):
        arrays(str(path))


def test_a_file_with_a_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((100, 2)))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(InvalidValueError, match=r"^path=.*: cannot be read as an \.npz file"):
        arrays(str(path))


def test_pickled_objects_are_refused_and_not_executed(tmp_path):
    path, marker = tmp_path / "data.npz", tmp_path / "executed"
    np.savez(path, x=np.array([Payload(marker)], dtype=object), y=np.array([0]))
    with pytest.raises(InvalidValueError, match=r"^path=.*: cannot be read as an \.npz file"):
        arrays(str(path))
    assert not marker.exists()
    np.load(path, allow_pickle=True)["x"]
    assert marker.exists()  # the payload is alive: loading it is what was refused


def test_a_bare_pickle_is_refused_and_not_executed(tmp_path):
    path, marker = tmp_path / "data.npz", tmp_path / "executed"
    path.write_bytes(np.array([Payload(marker)], dtype=object).dumps())
    with pytest.raises(InvalidValueError, match=r"is not an \.npz file"):
        arrays(str(path))
    assert not marker.exists()
    np.load(path, allow_pickle=True)
    assert marker.exists()


def test_a_pickle_inside_the_archive_is_not_executed(tmp_path):
    path, marker = tmp_path / "data.npz", tmp_path / "executed"
    pickled = pickle.dumps(np.array([Payload(marker)], dtype=object))
    np.savez(path, y=np.array([0, 1]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", pickled)
    component = Component("dataset", "sweep.data.sources.arrays", {"path": str(path)})
    with pytest.raises(InvalidValueError, match=r"^dataset\.x=.*must hold numbers"):
        load(DatasetConfig(component))
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()


@pytest.mark.parametrize(
    ("function", "library", "said"),
    [
        (image_folder, "PIL", "needs Pillow, which is not installed; pip install 'sweep[images]'"),
        (lambda path: table(f"{path}/table.csv", "b"), "pandas", "needs pandas, which is not installed; pip install"),
        (lambda path: table(f"{path}/table.csv", "b"), "pyarrow", "needs pyarrow, which is not installed; pip install"),
        (huggingface, "datasets", "needs datasets, which is not installed; pip install 'sweep[huggingface]'"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_way_to_get_it(
    tmp_path, monkeypatch, function, library, said
):
    write_images(tmp_path, {"cat": 1})
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InvalidValueError) as refused:
        function(str(tmp_path))
    assert refused.value.key == "_target_"
    assert said in str(refused.value)
