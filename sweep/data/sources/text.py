"""Read texts as tokens: plain text, and files of tokens that other programs have written."""

from importlib import import_module
from os.path import expanduser
from pathlib import Path

import numpy as np

from sweep.arrays import SPLITS, WHOLE, Source
from sweep.errors import InvalidValueError
from sweep.validation import check_one_of

CODE_POINTS = 0x110000
"""The number of code points of Unicode."""

TOKEN_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def text(path: str | None = None, unit: str = "characters") -> Source:
    """Return a text as tokens [N], in the smallest of the types uint8, uint16 and uint32.

    Args:
        path: path of a text file. An initial `~` is the home directory. None stands for the language reference that
            Python's `help()` shows, with its topics in alphabetical order: 0.4 to 0.8 million characters, which differ
            between versions of Python.
        unit: "characters" for a text in UTF-8, whose tokens are indices of characters in the sorted list of all
            characters of the text; "bytes" for tokens that are the bytes of the file, 0 to 255.

    Raises:
        InvalidValueError: names `path` if the file cannot be read, is empty, or is not UTF-8; or `unit`.
    """
    check_one_of("unit", unit, ("characters", "bytes"))
    content = _language_reference() if path is None else _content(path)
    if unit == "bytes":
        return Source({WHOLE: {"x": np.frombuffer(content, np.uint8)}}, n_classes=256)
    try:
        decoded = content.decode("utf-8")
    except UnicodeDecodeError as error:
        rule = f"is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}"
        raise InvalidValueError("path", path, f"{rule}; dataset.unit=bytes reads any file") from error
    codes = np.frombuffer(decoded.encode("utf-32-le"), np.uint32)
    used = np.zeros(CODE_POINTS, dtype=bool)
    used[codes] = True
    vocabulary = np.flatnonzero(used)
    token_of = np.zeros(CODE_POINTS, dtype=np.min_scalar_type(len(vocabulary) - 1))
    token_of[vocabulary] = np.arange(len(vocabulary))
    return Source({WHOLE: {"x": token_of[codes]}}, n_classes=len(vocabulary))


def _language_reference() -> bytes:
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return "".join(topics[name] for name in sorted(topics)).encode()


def _content(path: str) -> bytes:
    try:
        content = Path(expanduser(path)).read_bytes()
    except FileNotFoundError:
        raise InvalidValueError("path", path, "there is no such file") from None
    except OSError as error:
        raise InvalidValueError("path", path, f"cannot be read: {error.strerror}") from error
    if not content:
        raise InvalidValueError("path", path, "is empty")
    return content


def tokens(path: str, dtype: str = "uint16") -> Source:
    """Return the tokens of files, which are mapped into memory and read when they are used.

    Args:
        path: path of a `.bin` file, which contains only tokens, or of an `.npy` file with an array [N]; or of a folder
            with such files named train, val and optionally test. An initial `~` is the home directory.
        dtype: the integer type of the tokens in `.bin` files, in the byte order of this machine; nanoGPT writes uint16.

    Raises:
        InvalidValueError: names `dtype`, or `path` and the invalid file.
    """
    check_one_of("dtype", dtype, TOKEN_TYPES)
    place = Path(expanduser(path))
    if not place.is_dir():
        return Source({WHOLE: {"x": _mapped(place, dtype)}})
    files = {split: _file_of(path, place, split) for split in SPLITS}
    return Source({split: {"x": _mapped(file, dtype)} for split, file in files.items() if file is not None})


def _file_of(path: str, folder: Path, split: str) -> Path | None:
    """Return the file of a split in a folder; None if there is no test split."""
    found = [file for ending in ("bin", "npy") if (file := folder / f"{split}.{ending}").exists()]
    if len(found) > 1:
        raise InvalidValueError("path", path, f"has both {split}.bin and {split}.npy")
    if not found and split != "test":
        raise InvalidValueError("path", path, f"is a folder without {split}.bin or {split}.npy")
    return found[0] if found else None


def _mapped(file: Path, dtype: str) -> np.ndarray:
    """Return the tokens of a file, [N], mapped into memory."""
    if file.suffix not in (".bin", ".npy"):
        raise InvalidValueError("path", str(file), "must be a .bin or .npy file, or a folder with train and val files")
    try:
        size = file.stat().st_size
        if file.suffix == ".bin":
            if size == 0 or size % np.dtype(dtype).itemsize:
                rule = f"has {size} bytes, which must be a positive multiple of the {np.dtype(dtype).itemsize} of one"
                raise InvalidValueError("path", str(file), f"{rule} token (dataset.dtype={dtype})")
            return np.memmap(file, dtype, "r")
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InvalidValueError("path", str(file), "there is no such file") from None
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError("path", str(file), f"cannot be read: {error}") from error
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
        rule = f"must be an array [N] of integers, and is {array.dtype} {list(array.shape)}"
        raise InvalidValueError("path", str(file), rule)
    return array
