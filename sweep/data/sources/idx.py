"""Read MNIST and data sets in its format: images and labels in four idx files (http://yann.lecun.com/exdb/mnist)."""

import gzip
import zlib
from math import prod
from os.path import expanduser
from pathlib import Path

import numpy as np

from sweep.errors import InvalidValueError

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
"""The folder of Debian's package dataset-fashion-mnist."""

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def fashion_mnist(path: str = DEBIAN_FOLDER) -> dict[str, np.ndarray]:
    """Return Fashion-MNIST, 60,000 training and 10,000 test images of clothes, in the format of `mnist`.

    Args:
        path: path of the folder. The default is the folder of Debian's package dataset-fashion-mnist.

    Raises:
        InvalidValueError: as in `mnist`.
    """
    return _read(
        path,
        f"apt install dataset-fashion-mnist installs them in {DEBIAN_FOLDER}; dataset.path names a different folder",
    )


def mnist(path: str) -> dict[str, np.ndarray]:
    """Return images and labels of four idx files: x uint8 [n, 1, height, width], y uint8 [n], for train and test.

    Args:
        path: path of the folder. An initial `~` is the home directory. Names of files may end with `.gz`, and may
            contain `.idx` instead of `-idx`.

    Raises:
        InvalidValueError: names `path` and the file that is missing or damaged.
    """
    return _read(path, "dataset.path names the folder of the four idx files of MNIST")


def _read(path: str, hint: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for split, names in FILES.items():
        files = [_file(path, name, hint) for name in names]
        images, labels = _bytes(files[0], axes=3), _bytes(files[1], axes=1)
        if len(labels) != len(images):
            rule = f"has {len(labels)} labels, but {files[0].name} has {len(images)} images"
            raise InvalidValueError("path", files[1], rule)
        arrays |= {f"x_{split}": images[:, None], f"y_{split}": labels}
    return arrays


def _file(path: str, name: str, hint: str) -> Path:
    """Return the path of an idx file in a folder."""
    for known in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            file = Path(expanduser(path)) / f"{known}{suffix}"
            if file.is_file():
                return file
    raise InvalidValueError("path", path, f"has no file {name} or {name}.gz; {hint}")


def _bytes(file: Path, axes: int) -> np.ndarray:
    """Return the array of an idx file.

    The file consists of the bytes 0, 0, 8 (type uint8), the number of axes (one byte), their lengths (uint32) and the
    data.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidValueError("path", file, f"cannot be read: {error}") from error
    magic = bytes([0, 0, 8, axes])
    if content[:4] != magic:
        raise InvalidValueError(
            "path", file, f"begins with {content[:4].hex()}, not with the magic number {magic.hex()}"
        )
    header = 4 + 4 * axes
    if len(content) < header:
        raise InvalidValueError("path", file, f"has {len(content)} bytes, fewer than the {header} of its header")
    shape = np.frombuffer(content, ">u4", axes, 4).tolist()
    if len(content) != header + prod(shape):
        rule = f"has {len(content) - header} bytes of data, but its header says {' x '.join(map(str, shape))}"
        raise InvalidValueError("path", file, rule)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
