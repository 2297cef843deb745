"""Where on a disk the Linux file system lies: the whole disk, or the first Linux partition of an MBR or GPT.

A disk that can be read both ways is refused: a guest must not choose which of two systems we look at.
"""

from __future__ import annotations

import struct
from uuid import UUID

from backend.disks.layers import Disk
from backend.errors import DiskUnreadable

SECTOR_BYTES = 512
MAX_GPT_ENTRIES = 1024

_EXT4_MAGIC_AT = 1024 + 56
_LINUX_MBR = 0x83
_GPT_GUARD = 0xEE
_LINUX_GPT = {
    UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le,  # Linux file system
    UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709").bytes_le,  # root, x86-64
    UUID("b921b045-1df0-41c3-af44-4c6f280d3fae").bytes_le,  # root, arm64
}


def find_filesystem(disk: Disk) -> tuple[int, int]:
    """Byte offset and length of the file system."""
    head = disk.read(0, min(disk.size, 4096))
    whole = head[_EXT4_MAGIC_AT : _EXT4_MAGIC_AT + 2] == b"\x53\xef"
    parts = _partitions(disk, head)
    if parts and whole:
        raise DiskUnreadable("the disk has a partition table and a file system over the whole of it")
    if whole:
        return 0, disk.size
    if not parts:
        raise DiskUnreadable(
            "the disk has neither an ext4 file system nor a Linux partition",
            remedy="use a source whose root file system is ext4, without LVM",
        )
    offset, length = parts[0]
    if offset + length > disk.size:
        raise DiskUnreadable(f"partition at byte {offset} ends beyond the disk")
    return offset, length


def _partitions(disk: Disk, head: bytes) -> list[tuple[int, int]]:
    """Linux partitions in the order of the table, as (byte offset, byte length)."""
    if head[510:512] != b"\x55\xaa":
        return []
    found: list[tuple[int, int]] = []
    for slot in range(4):
        kind, first, count = struct.unpack_from("<4xB3xII", head, 446 + slot * 16)
        if kind == _GPT_GUARD:
            return _gpt(disk, head)
        if kind == _LINUX_MBR and count:
            found.append((first * SECTOR_BYTES, count * SECTOR_BYTES))
    return found


def _gpt(disk: Disk, head: bytes) -> list[tuple[int, int]]:
    if head[512:520] != b"EFI PART":
        raise DiskUnreadable("the partition table announces a GPT that is not there")
    table, count, size = struct.unpack_from("<QII", head, 512 + 72)
    if count > MAX_GPT_ENTRIES or not 128 <= size <= 4096:
        raise DiskUnreadable(f"the GPT has {count} entries of {size} bytes")
    data = disk.read(table * SECTOR_BYTES, count * size)
    found = []
    for at in range(0, count * size, size):
        first, last = struct.unpack_from("<QQ", data, at + 32)
        if data[at : at + 16] in _LINUX_GPT and last >= first:
            found.append((first * SECTOR_BYTES, (last - first + 1) * SECTOR_BYTES))
    return found
