"""Checksums of blocks that no tool of e2fsprogs makes, only a running kernel."""

from __future__ import annotations

import struct

import pytest

from backend.disks.sums import check_directory, crc32c
from backend.errors import DiskUnreadable

SEED, OWNER, SIZE = 0x1234_5678, struct.pack("<II", 11556, 980290539), 4096
LIMIT = (SIZE - 32 - 8) // 8


def root(reserved: bytes) -> bytes:
    """A hash tree's root of two leaves. ``reserved``: the four bytes before its sum."""
    data = bytearray(SIZE)
    struct.pack_into("<IHBB4sIHBB4s", data, 0, 11556, 12, 1, 2, b".", 11540, SIZE - 12, 2, 2, b"..")
    struct.pack_into("<IBBBBHHI", data, 24, 0, 1, 8, 0, 0, LIMIT, 2, 1)
    struct.pack_into("<II", data, 40, 0x0295_79C3, 2)
    data[-8:-4] = reserved
    message = OWNER + data[:48] + reserved + bytes(4)
    data[-4:] = crc32c(SEED, message).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("reserved", [bytes(4), b"\x0c\0\0\xde"], ids=["made a root", "made of a leaf"])
def test_a_hash_trees_root_is_known_by_its_own_sum(reserved: bytes) -> None:
    block = root(reserved)
    check_directory(SEED, OWNER, block, indexed=True, number=11556)
    torn = block[:44] + b"\x07" + block[45:]
    for data, indexed in ((torn, True), (block, False)):
        with pytest.raises(DiskUnreadable, match="directory inode 11556 does not match its checksum"):
            check_directory(SEED, OWNER, data, indexed=indexed, number=11556)
