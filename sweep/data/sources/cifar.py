"""Read CIFAR-10 and CIFAR-100 in their binary versions (https://www.cs.toronto.edu/~kriz/cifar.html).

Each image is a record of bytes: the label (in CIFAR-100 the coarse and the fine label), and 3 x 32 x 32 pixels.
"""

import gzip
import tarfile
from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path, PurePosixPath

import numpy as np

from sweep.errors import InvalidValueError
from sweep.tracebacks import refusal
from sweep.validation import check_one_of

SHAPE = (3, 32, 32)

CIFAR10 = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
CIFAR100 = {"train": ("train.bin",), "test": ("test.bin",)}
"""Split -> names of its files."""

EXPECTED_ARCHIVE = (
    "it must be the archive of the binary version from https://www.cs.toronto.edu/~kriz/cifar.html, "
    "or the folder that it contains"
)


def cifar10(path: str) -> dict[str, np.ndarray]:
    """Return CIFAR-10, 50,000 training and 10,000 test images: x uint8 [n, 3, 32, 32], y uint8 [n] from 0 to 9.

    Args:
        path: path of cifar-10-binary.tar.gz, or of the folder that it contains. An initial `~` is the home directory.

    Raises:
        InvalidValueError: names `path` and the file that is missing or damaged.
    """
    return _read(path, CIFAR10, classes=(10,), chosen=0)


def cifar100(path: str, labels: str = "fine") -> dict[str, np.ndarray]:
    """Return CIFAR-100, 50,000 training and 10,000 test images: x uint8 [n, 3, 32, 32], y uint8 [n].

    Args:
        path: path of cifar-100-binary.tar.gz, or of the folder that it contains. An initial `~` is the home directory.
        labels: "fine" for classes 0 to 99, "coarse" for superclasses 0 to 19.

    Raises:
        InvalidValueError: names `labels`, or `path` and the file that is missing or damaged.
    """
    names = ("coarse", "fine")
    check_one_of("labels", labels, names)
    return _read(path, CIFAR100, classes=(20, 100), chosen=names.index(labels))


def _read(
    path: str, files: Mapping[str, tuple[str, ...]], classes: tuple[int, ...], chosen: int
) -> dict[str, np.ndarray]:
    """Return the arrays x and y of both splits.

    Args:
        files: split -> names of its files.
        classes: number of classes of each label of a record.
        chosen: index of the label that is returned as y.
    """
    arrays = {}
    found = _contents(path, {name for names in files.values() for name in names})
    for split, names in files.items():
        records = [_records(f"{path}/{name}", found.pop(name), classes) for name in names]
        arrays[f"x_{split}"] = np.concatenate([part[:, len(classes) :].reshape(-1, *SHAPE) for part in records])
        arrays[f"y_{split}"] = np.concatenate([part[:, chosen] for part in records])
    return arrays


def _contents(path: str, names: set[str]) -> dict[str, bytes]:
    """Return the contents of the files with these names in a folder, or in an archive that is read sequentially."""
    place, found = Path(expanduser(path)), {}
    try:
        if place.is_dir():
            found = {name: (place / name).read_bytes() for name in names if (place / name).is_file()}
        else:
            with gzip.open(place) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    if name in names and member.isfile() and (content := archive.extractfile(member)):
                        found[name] = content.read()
                unzipped.read()  # to the end of the file, which verifies the checksum
    except FileNotFoundError:
        raise InvalidValueError("path", path, f"there is no such file or folder; {EXPECTED_ARCHIVE}") from None
    except Exception as error:  # gzip, zlib and tarfile raise several types for a damaged archive
        raise InvalidValueError("path", path, f"cannot be read as a .tar.gz archive: {refusal(error)}") from error
    if missing := sorted(names - found.keys()):
        raise InvalidValueError("path", path, f"has no file {missing[0]}; {EXPECTED_ARCHIVE}")
    return found


def _records(file: str, content: bytes, classes: tuple[int, ...]) -> np.ndarray:
    """Return the records of a file, uint8 [n, labels + pixels]."""
    length = len(classes) + int(np.prod(SHAPE))
    if not content or len(content) % length:
        raise InvalidValueError(
            "path", file, f"has {len(content)} bytes, which is not a multiple of {length}, one image"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, length)
    for place, n_classes in enumerate(classes):
        wrong = np.flatnonzero(records[:, place] >= n_classes)
        if wrong.size:
            rule = f"has the label {records[wrong[0], place]} at image {wrong[0]}: labels must be 0..{n_classes - 1}"
            raise InvalidValueError("path", file, rule)
    return records
