"""Test texts and files of tokens as data sets."""

from pydoc_data.topics import topics

import numpy as np
import pytest

from sweep.components import Component
from sweep.config import DatasetConfig
from sweep.data import DrawnWindows, load
from sweep.data.sources import text, tokens
from sweep.errors import InvalidValueError
from sweep.training import CPU


def dataset(name, block=4, **keys):
    own = {key: keys.pop(key) for key in ("path", "unit", "dtype") if key in keys}
    keys = {"split_seed": None, "windows": "drawn", "val_fraction": 0.1, "test_fraction": 0.1} | keys
    return load(DatasetConfig(Component("dataset", f"sweep.data.sources.{name}", own), block=block, **keys))


# --- text


def test_a_token_is_the_place_of_a_character_in_the_sorted_list(tmp_path):
    (tmp_path / "a.txt").write_text("zażółć\r\n😀a", encoding="utf-8", newline="")
    source = text(str(tmp_path / "a.txt"))
    vocabulary = sorted(set("zażółć\r\n😀a"))
    assert source.n_classes == len(vocabulary)
    (found,) = [part["x"] for part in source.parts.values()]
    assert found.dtype == np.uint8
    assert "".join(vocabulary[token] for token in found) == "zażółć\r\n😀a"


def test_bytes_have_a_vocabulary_of_256_and_need_no_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes([0, 255, 7]) * 100)
    data = dataset("text", path=str(tmp_path / "a.txt"), unit="bytes")
    assert data.n_outputs == 256
    assert data.train.tokens[:4].tolist() == [0, 255, 7, 0]


def test_more_than_256_characters_take_two_bytes_each(tmp_path):
    written = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 2
    (tmp_path / "a.txt").write_text(written, encoding="utf-8")
    (found,) = [part["x"] for part in text(str(tmp_path / "a.txt")).parts.values()]
    assert found.dtype == np.uint16
    assert found.tolist() == [*range(300)] * 2


def test_without_a_path_the_text_is_python_s_language_reference():
    expected = "".join(topics[name] for name in sorted(topics))
    data = dataset("text", block=64)
    vocabulary = sorted(set(expected))
    assert data.n_outputs == len(vocabulary)
    n, tenth = len(expected), round(len(expected) * 0.1)
    assert len(data.train.tokens) == n - 2 * tenth
    spelled = "".join(vocabulary[token] for token in data.test[:].inputs.flatten().tolist())
    assert spelled == expected[n - tenth :][: len(spelled)]
    assert len(spelled) == (tenth - 1) // 64 * 64


def test_a_text_is_cut_in_its_order(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(100)))
    data = dataset("text", path=str(tmp_path / "a.txt"), unit="bytes", block=3)
    assert data.train.tokens.tolist() == list(range(80))
    assert data.val[:].batch["x"].tolist() == [[80, 81, 82], [83, 84, 85], [86, 87, 88]]
    assert data.val[:].batch["y"].tolist() == [[81, 82, 83], [84, 85, 86], [87, 88, 89]]
    assert data.test[:].batch["y"][-1].tolist() == [97, 98, 99]
    divided = dataset("text", path=str(tmp_path / "a.txt"), unit="bytes", block=3, windows="divided")
    assert divided.train[:].inputs.flatten().tolist() == list(range(78))
    assert divided.val[:].inputs.tolist() == data.val[:].inputs.tolist()
    without = dataset("text", path=str(tmp_path / "a.txt"), unit="bytes", block=3, test_fraction=0.0)
    assert len(without.test) == 0
    assert without.val[:].inputs[0].tolist() == [90, 91, 92]


@pytest.mark.parametrize(
    ("content", "keys", "said"),
    [
        ("zażółć".encode("iso-8859-2"), {}, r"is not UTF-8: byte 0xbf at offset 2; dataset\.unit=bytes"),
        (b"", {}, r"is empty$"),
        (None, {}, r"there is no such file$"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, keys, said):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=rf"^dataset\.path={path}: {said}"):
        dataset("text", path=str(path), **keys)


def test_a_folder_and_an_unknown_unit_are_refused(tmp_path):
    with pytest.raises(InvalidValueError, match=rf"^dataset\.path={tmp_path}: cannot be read: Is a directory"):
        dataset("text", path=str(tmp_path))
    with pytest.raises(InvalidValueError, match=r"^dataset\.unit=words: must be one of characters, bytes"):
        dataset("text", unit="words")


# --- tokens


def test_files_of_nanogpt_are_mapped_and_have_no_test_split(tmp_path):
    written = np.random.default_rng(0).integers(0, 50_257, 1000).astype(np.uint16)
    written.tofile(tmp_path / "train.bin")
    written[:100].tofile(tmp_path / "val.bin")
    data = dataset("tokens", path=str(tmp_path), n_classes=50_257)
    assert (data.n_outputs, len(data.val), len(data.test)) == (50_257, 24, 0)
    rows = data.train.order(0, 0)
    batch = data.train.take(rows)
    for row, x, y in zip(rows.tolist(), batch["x"], batch["y"], strict=True):
        assert [*x.tolist(), int(y[-1])] == written[row : row + 5].tolist()
    assert (batch["x"] > 32_767).any(), "a signed type would have made them negative"


@pytest.mark.parametrize("ending", ["bin", "npy"])
def test_a_file_stays_where_it_is(tmp_path, ending):
    written = np.arange(500, dtype=np.uint16)
    path = tmp_path / f"all.{ending}"
    written.tofile(path) if ending == "bin" else np.save(path, written)
    (mapped,) = [part["x"] for part in tokens(str(path)).parts.values()]
    assert isinstance(mapped, np.memmap)
    windows = DrawnWindows.of(mapped, 8)
    assert np.shares_memory(windows.tokens.numpy(), mapped)
    data = dataset("tokens", path=str(path))
    assert data.place(CPU, data.train.take(data.train.order(0, 0))["x"].double().dtype).train.tokens.shape == (400,)
    assert data.n_outputs == 500


@pytest.mark.parametrize(
    ("files", "keys", "said"),
    [
        ({"train.bin": 10, "val.bin": 7}, {}, r"path=.*val\.bin: has 7 bytes, .* multiple of the 2 .*dtype=uint16"),
        ({"train.bin": 10, "val.bin": 10}, {"dtype": "int32"}, r"path=.*train\.bin: has 10 bytes, .* of the 4 of one"),
        ({"train.bin": 0, "val.bin": 10}, {}, r"path=.*train\.bin: has 0 bytes"),
        ({"train.bin": 10}, {}, r"path=.*: is a folder without val\.bin or val\.npy"),
        ({"train.bin": 10, "train.npy": 10, "val.bin": 10}, {}, r"path=.*: has both train\.bin and train\.npy"),
        ({"train.npy": 10, "val.bin": 10}, {}, r"path=.*train\.npy: cannot be read: "),
        ({"train.bin": 10, "val.bin": 10}, {"dtype": "float32"}, r"dtype=float32: must be one of uint8, "),
        ({"train.bin": 40, "val.bin": 20}, {"n_classes": 257}, r"n_classes=257: must be greater than every token; "),
        ({"train.bin": 40, "val.bin": 20}, {"dtype": "int8"}, r"train=token -1: tokens must be 0\.\.C-1"),
        (
            {"train.bin": 40, "val.bin": 8},
            {},
            r"block=4: must be less than the number of tokens in each split",
        ),
    ],
)
def test_files_that_cannot_be_right_are_refused(tmp_path, files, keys, said):
    for name, size in files.items():
        (tmp_path / name).write_bytes(b"\xff" * size)
    with pytest.raises(InvalidValueError, match=rf"^dataset\.{said}"):
        dataset("tokens", path=str(tmp_path), **keys)


def test_other_places_and_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    for name, said in {
        "a.npy": r"must be an array \[N\] of integers, and is float64 \[3, 2\]",
        "b.bin": "there is no such file",
        "c.txt": "must be a .bin or .npy file, or a folder",
    }.items():
        with pytest.raises(InvalidValueError, match=rf"^dataset\.path=.*{name}: {said}"):
            dataset("tokens", path=str(tmp_path / name))
