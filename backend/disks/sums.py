"""The checksums that an ext4 file system keeps of its own books: what does not match is damaged, and refused.

They find decay and torn writes, not lies: a guest can write sums too. Source: Documentation/filesystems/ext4,
fs/ext4 and fs/jbd2 of Linux.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable

from backend.errors import DiskUnreadable

ALL_ONES = 0xFFFF_FFFF
REMEDY = "run e2fsck on it in the guest, then take the snapshot again"
_LIBRARY = "libext2fs.so.2"  # twenty times faster than the loop below, and says the same
_CASTAGNOLI, _ANSI = 0x82F6_3B78, 0xA001
_SUM_AT, _SUM_HIGH_AT = 124, 130  # in an inode
_DESCRIPTOR_SUM_AT = 30
_ATTRIBUTE_SUM_AT = 16
_LEAF_TAIL = struct.Struct("<IHBBI")
_LEAF_TAIL_HEAD = (0, 12, 0, 0xDE)

Crc = Callable[[int, bytes], int]


def _table(polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
        table.append(value)
    return table


_TABLE_32, _TABLE_16 = _table(_CASTAGNOLI), _table(_ANSI)


def crc32c_here(seed: int, data: bytes) -> int:
    """CRC-32C of ``data`` after ``seed``, neither inverted."""
    for byte in data:
        seed = seed >> 8 ^ _TABLE_32[(seed ^ byte) & 0xFF]
    return seed


def crc16(seed: int, data: bytes) -> int:
    """CRC-16 of ``data`` after ``seed``."""
    for byte in data:
        seed = seed >> 8 ^ _TABLE_16[(seed ^ byte) & 0xFF]
    return seed


def _fastest() -> Crc:
    try:
        function = ctypes.CDLL(_LIBRARY).ext2fs_crc32c_le
    except (OSError, AttributeError):
        return crc32c_here
    function.argtypes = (ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t)
    function.restype = ctypes.c_uint32

    def crc32c(seed: int, data: bytes) -> int:
        return function(seed, data, len(data))  # type: ignore[no-any-return]

    return crc32c


crc32c: Crc = _fastest()


def must_match(found: int, stored: int, what: str) -> None:
    """Raises :class:`DiskUnreadable` when they differ."""
    if found != stored:
        raise DiskUnreadable(f"{what} does not match its checksum", remedy=REMEDY)


def check_descriptor(seed: int | None, uuid: bytes, group: int, data: bytes) -> None:
    """A group descriptor; ``seed`` is None where the sum is a CRC-16."""
    at = _DESCRIPTOR_SUM_AT
    stored = int.from_bytes(data[at : at + 2], "little")
    number = struct.pack("<I", group)
    if seed is None:
        found = crc16(0xFFFF, uuid + number + data[:at] + data[at + 2 :])
    else:
        found = crc32c(seed, number + data[:at] + b"\0\0" + data[at + 2 :]) & 0xFFFF
    must_match(found, stored, f"group descriptor {group}")


def check_inode(seed: int, number: int, raw: bytes, extra: int) -> None:
    """An inode in use."""
    low = raw[_SUM_AT] | raw[_SUM_AT + 1] << 8
    head = struct.pack("<I", number) + raw[100:104] + raw[:_SUM_AT] + b"\0\0"
    if extra >= 4:
        stored = low | raw[_SUM_HIGH_AT] << 16 | raw[_SUM_HIGH_AT + 1] << 24
        found = crc32c(seed, head + raw[_SUM_AT + 2 : _SUM_HIGH_AT] + b"\0\0" + raw[_SUM_HIGH_AT + 2 :])
    else:
        stored, found = low, crc32c(seed, head + raw[_SUM_AT + 2 :]) & 0xFFFF
    if found != stored:
        must_match(found, stored, f"inode {number}")


def check_extents(seed: int, owner: bytes, node: bytes, number: int) -> None:
    """A block of an extent tree. ``owner``: its inode's number and generation."""
    most = int.from_bytes(node[4:6], "little")
    at = 12 + most * 12
    stored = int.from_bytes(node[at : at + 4], "little") if at + 4 <= len(node) else -1
    must_match(crc32c(seed, owner + node[:at]), stored, f"a block of inode {number}'s extent tree")


def check_attributes(seed: int, block: int, data: bytes) -> None:
    """A block of extended attributes."""
    at = _ATTRIBUTE_SUM_AT
    found = crc32c(seed, struct.pack("<Q", block) + data[:at] + bytes(4) + data[at + 4 :])
    must_match(found, int.from_bytes(data[at : at + 4], "little"), f"attribute block {block}")


def check_directory(seed: int, owner: bytes, data: bytes, *, indexed: bool, number: int) -> None:
    """A block of a directory. ``indexed``: it may be a node of a hash tree, which has its sum elsewhere; one
    that the kernel made of a full leaf still has that leaf's tail, too."""
    *head, stored = _LEAF_TAIL.unpack_from(data, len(data) - 12)
    if tuple(head) == _LEAF_TAIL_HEAD and crc32c(seed, owner + data[:-12]) == stored:
        return
    found, stored = _hash_node(seed, owner, data) if indexed else (0, -1)
    if found != stored:
        must_match(found, stored, f"a block of directory inode {number}")


def _hash_node(seed: int, owner: bytes, data: bytes) -> tuple[int, int]:
    """The sum of a hash tree's root or node, and the stored one (-1: there is none)."""
    size = len(data)
    widest = size if size < 1 << 16 else 0xFFFF
    first = int.from_bytes(data[4:6], "little")
    at = 8 if first in (widest, 0 if size == 1 << 16 else widest) else 32
    limit, count = struct.unpack_from("<HH", data, at)
    tail = at + limit * 8
    if count > limit or tail + 8 > size:
        return 0, -1
    message = owner + data[: at + count * 8] + data[tail : tail + 4] + bytes(4)
    return crc32c(seed, message), int.from_bytes(data[tail + 4 : tail + 8], "little")


def check_attribute(number: int, name: bytes, value: bytes, stored: int) -> None:
    """The hash of an attribute in a block: of its short name, and its value in words. Those in an inode have
    none. A kernel whose characters are signed made another one of a name beyond ASCII."""
    padded = value + bytes(-len(value) % 4)
    found = set()
    for sign in (0, 0xFFFF_FF00):
        hashed = 0
        for byte in name:
            hashed = _rotated(hashed, 5) ^ (byte | (sign if byte & 0x80 else 0))
        for (word,) in struct.iter_unpack("<I", padded):
            hashed = _rotated(hashed, 16) ^ word
        found.add(hashed)
    if stored not in found:
        must_match(0, 1, f"an attribute of inode {number}")


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & ALL_ONES
