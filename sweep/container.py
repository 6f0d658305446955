"""The file format of checkpoints and saved states: a JSON header and blocks of bytes or numbers, with a checksum.

A file consists of MAGIC, the SHA-256 checksum of all that follows, one line of JSON (the header, then the type and the
length of each block), and the blocks. Reading a file runs no code.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MAGIC = b"sweep container 2\n"
CHECKSUM_BYTES = hashlib.sha256().digest_size

Block = bytes | np.ndarray


class DamagedError(ValueError):
    """The content of a file is not a complete container. The text says why."""


def encode(header: Mapping[str, Any], blocks: Sequence[Block]) -> bytes:
    """Return the content of a file.

    Args:
        header: what JSON can represent.
        blocks: bytes, or arrays of numbers with one axis.
    """
    types = [["bytes" if isinstance(block, bytes) else block.dtype.str, len(block)] for block in blocks]
    body = b"".join([json.dumps([header, types]).encode(), b"\n", *map(bytes, blocks)])
    return MAGIC + hashlib.sha256(body).digest() + body


def decode(content: bytes) -> tuple[Any, list[Any]]:
    """Return the header and the blocks of a file.

    Raises:
        DamagedError: if the content is not what `encode` returned. The checksum does not protect against a file that
            was made to harm: such a file may also raise a ValueError, TypeError or RecursionError.
    """
    start = len(MAGIC) + CHECKSUM_BYTES
    body = content[start:]
    if content[: len(MAGIC)] != MAGIC:
        raise DamagedError("it was not written by this version")
    if content[len(MAGIC) : start] != hashlib.sha256(body).digest():
        raise DamagedError("checksum mismatch: it is damaged or incomplete")
    line, _, _ = body.partition(b"\n")
    (header, types), blocks, end = json.loads(line), [], len(line) + 1
    for kind, length in types:
        size = length * (1 if kind == "bytes" else np.dtype(kind).itemsize)
        part = body[end : end + size]
        if len(part) != size:
            raise DamagedError("its header does not match its length")
        blocks.append(part if kind == "bytes" else np.frombuffer(part, kind))
        end += size
    return header, blocks
