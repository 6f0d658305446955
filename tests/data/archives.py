"""Create small files in the formats of the data sets that are read from files."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def images(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Return uint8 [n, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def labels(n: int, classes: int = 10) -> np.ndarray:
    """Return uint8 [n]: 0, 1, ..., classes - 1, 0, 1, ..."""
    return (np.arange(n) % classes).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes in the format idx."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_mnist(folder: Path, n: int = 60, n_test: int = 20, *, zipped: bool = True, separator: str = "-") -> None:
    """Write the four files of MNIST with images of 6 x 5 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", n, 0), ("t10k", n_test, 1)):
        for kind, array in (("images", images(count, 6, 5, seed=seed)), ("labels", labels(count))):
            content = idx(array)
            file = folder / f"{name}-{kind}{separator}idx{array.ndim}-ubyte{'.gz' if zipped else ''}"
            file.write_bytes(gzip.compress(content) if zipped else content)


def records(n: int, classes: tuple[int, ...] = (10,), seed: int = 0) -> bytes:
    """Return records of CIFAR-10, or with classes=(20, 100) of CIFAR-100."""
    columns = [labels(n, count)[:, None] for count in classes]
    return np.concatenate([*columns, images(n, 3072, seed=seed)], axis=1).tobytes()


def cifar10(n: int = 10) -> dict[str, bytes]:
    """Return the files of CIFAR-10, with n images in each."""
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    return {name: records(n, seed=seed) for seed, name in enumerate(names)}


def cifar100(n: int = 200) -> dict[str, bytes]:
    """Return the files of CIFAR-100, with n images in each."""
    return {name: records(n, (20, 100), seed=seed) for seed, name in enumerate(["train.bin", "test.bin"])}


def write_tar(file: Path, files: Mapping[str, bytes], folder: str = "cifar") -> None:
    """Write a .tar.gz archive of files in a folder."""
    with tarfile.open(file, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_images(folder: Path, classes: Mapping[str, int], shape: tuple[int, int] = (6, 5)) -> None:
    """Write colour images as .png files into a folder for each class."""
    for seed, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(images(count, *shape, 3, seed=seed)):
            Image.fromarray(pixels).save(folder / name / f"{index:03}.png")
