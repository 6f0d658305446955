"""Read the user's arrays from an .npz file or a folder of .npy files."""

import zipfile
from os.path import expanduser
from pathlib import Path

import numpy as np

from sweep.errors import InvalidValueError

MIN_MAPPED_BYTES = 2**26
"""Size in bytes above which an array of an .npz file is mapped into memory instead of being read."""


def _of_folder(path: str, folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise InvalidValueError("path", path, "is a folder without .npy files")
    try:
        return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
    except Exception as error:  # as below
        raise InvalidValueError("path", path, f"has a file that cannot be read as .npy: {error}") from error


def _mapped(file: Path, member: zipfile.ZipInfo) -> np.ndarray:
    """Map an array that is stored in an .npz file without compression into memory.

    The member begins with a header of 30 bytes, the last four of which are the lengths of a name and of an extra field.
    These follow the header, and the .npy file follows them (PKWARE, APPNOTE.TXT, 4.3.7).
    """
    with file.open("rb") as archive:
        archive.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(archive.read(2), "little") for _ in range(2))
        archive.seek(member.header_offset + 30 + name + extra)
        version = np.lib.format.read_magic(archive)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(archive)
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
        return np.memmap(file, dtype, "r", archive.tell(), shape, "F" if fortran else "C")


def arrays(path: str) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file, or of the .npy files of a folder, by their names without the suffix.

    Pickled objects are refused. The .npy files, and large arrays of an uncompressed .npz file, are mapped into memory,
    so that they are read when they are used.

    Args:
        path: path of the file or folder. An initial `~` is the home directory.

    Raises:
        InvalidValueError: names `path` if the file cannot be read.
    """
    file = Path(expanduser(path))
    if file.is_dir():
        return _of_folder(path, file)
    if file.exists() and not zipfile.is_zipfile(file):
        raise InvalidValueError("path", path, "is not an .npz file")
    try:
        with np.load(file, allow_pickle=False) as archive, zipfile.ZipFile(file) as members:
            sizes = {member.filename.removesuffix(".npy"): member for member in members.infolist()}
            stored = {name: m for name, m in sizes.items() if not m.compress_type and m.file_size > MIN_MAPPED_BYTES}
            return {n: _mapped(file, stored[n]) if n in stored else archive[n] for n in archive.files}
    except FileNotFoundError:
        raise InvalidValueError("path", path, "there is no such file") from None
    except Exception as error:  # NumPy and zipfile raise a dozen types for a damaged or pickled archive
        raise InvalidValueError("path", path, f"cannot be read as an .npz file: {error}") from error
