"""The file format of checkpoints: what is encoded is decoded, and what is not valid is refused."""

import numpy as np
import pytest

from sweep.container import CHECKSUM_BYTES, MAGIC, DamagedError, decode, encode


def test_what_is_encoded_is_decoded() -> None:
    blocks = [b"", np.arange(5), b"\n\x00", np.array([np.nan, -0.0, 5e-324]), np.arange(6.0)[::2], np.array([])]
    header, found = decode(encode({"a": [1, "\n"]}, blocks))
    assert header == {"a": [1, "\n"]}
    for block, other in zip(blocks, found, strict=True):
        assert type(block) is type(other)
        assert bytes(block) == bytes(other)
        assert isinstance(block, bytes) or block.dtype == other.dtype


def test_any_change_is_noticed() -> None:
    content = encode({"a": 1}, [b"abc", np.arange(3)])
    for at in range(len(content)):
        for changed in (content[:at], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]):
            with pytest.raises(DamagedError, match=r"not written by this version|checksum mismatch"):
                decode(changed)
    assert len(MAGIC) + CHECKSUM_BYTES < len(content)
