"""Read images from folders that are named after their classes."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np

from sweep.errors import InvalidValueError
from sweep.tracebacks import refusal
from sweep.validation import check_integer

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Supported formats. Pillow supports more, but runs external programs for some of them (EPS)."""

SPLITS = ("train", "val", "validation", "test")


def image_folder(path: str, size: Sequence[int] | None = None, channels: int = 3) -> dict[str, Any]:
    """Return the images of path/<class>/, or of path/train/<class>/ and path/val/<class>/ or path/test/<class>/.

    The result is x uint8 [n, channels, height, width] and y int64 [n], for each split if there are folders of splits.
    Classes are numbered in the order of their names. Images are sorted by class and name. Names that begin with a dot
    are ignored, and so are files beside the folders of classes.

    Args:
        path: path of the folder. An initial `~` is the home directory.
        size: height and width to which each image is resized, bilinearly; None if all images have the same size.
        channels: 3 to convert images to RGB, 1 to convert them to gray.

    Raises:
        InvalidValueError: names `path` and the file or folder that cannot be read, or `size` or `channels`.
    """
    if isinstance(channels, bool) or channels not in (1, 3):
        raise InvalidValueError("channels", channels, "must be 1 or 3")
    if size is not None:
        if not isinstance(size, list | tuple) or len(size) != 2:
            raise InvalidValueError("size", size, "must be [height, width], or null for images of one size")
        for number in size:
            check_integer("size", number, at_least=1)
    folder = Path(expanduser(path))
    if not folder.is_dir():
        raise InvalidValueError("path", path, "is not a folder")
    names = _folders(folder)
    splits = [name for name in SPLITS if name in names] if "train" in names and set(names) <= set(SPLITS) else [""]
    classes = _folders(folder / splits[0])
    if not classes:
        raise InvalidValueError(
            "path", folder / splits[0], "has no folders; the images of each class must be in a folder"
        )
    files = {split: _files(folder / split, classes) for split in splits}
    first = files[splits[0]][0][0]
    height, width = _pixels(first, None, channels).shape[1:] if size is None else size
    parts = {
        split: _arrays(found, (height, width), channels, None if size else first) for split, found in files.items()
    }
    return parts.get("", parts)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Return the images of a split and their labels."""
    found = []
    for name in _folders(folder):
        if name not in classes:
            raise InvalidValueError("path", folder / name, "is a class that the folder train does not have")
        files = sorted(file for file in (folder / name).iterdir() if not file.name.startswith("."))
        if not files:
            raise InvalidValueError("path", folder / name, "is a class without images")
        found += [(file, classes.index(name)) for file in files]
    return found


def _arrays(
    files: list[tuple[Path, int]], shape: tuple[int, int], channels: int, first: Path | None
) -> dict[str, np.ndarray]:
    """Return the arrays of a split.

    Args:
        shape: height and width of the images.
        first: the first image, whose shape all others must have; None if images are resized.
    """
    x = np.empty((len(files), channels, *shape), dtype=np.uint8)

    def read(index: int) -> None:
        file = files[index][0]
        pixels = _pixels(file, None if first else shape, channels)
        if pixels.shape != x.shape[1:]:
            found, expected = ("[{}, {}]".format(*lengths) for lengths in (pixels.shape[1:], shape))
            rule = f"has the size {found}, but {first} has {expected}; dataset.size=[height,width] resizes all images"
            raise InvalidValueError("path", file, rule)
        x[index] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter lock while decoding
        for _ in pool.map(read, range(len(files))):
            pass
    return {"x": x, "y": np.array([label for _, label in files])}


def _pixels(file: Path, shape: tuple[int, int] | None, channels: int) -> np.ndarray:
    """Return the pixels of an image, uint8 [channels, height, width].

    Args:
        shape: height and width to which it is resized; None for its own.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        rule = "needs Pillow, which is not installed; pip install 'sweep[images]'"
        raise InvalidValueError("_target_", "sweep.data.sources.image_folder", rule) from error
    try:
        with Image.open(file, formats=FORMATS) as opened:
            mode = opened.mode
            image = opened.convert("RGB" if channels == 3 else "L")
    except Exception as error:  # Pillow raises several types for a damaged image
        rule = f"cannot be read as an image ({', '.join(FORMATS)}): {refusal(error)}"
        raise InvalidValueError("path", file, rule) from error
    if mode.startswith(("I", "F")):  # convert would clip them at 255
        raise InvalidValueError("path", file, f"has pixels of more than 8 bits (mode {mode} of Pillow)")
    if shape is not None:
        image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)
