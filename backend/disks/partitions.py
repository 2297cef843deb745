"""Where on a disk the Linux file system lies: the whole disk, or the first Linux partition of an MBR or GPT.

A disk that can be read both ways is refused: a guest must not choose which of two systems we look at.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from backend.disks.layers import Disk
from backend.errors import DiskUnreadable

SECTOR_BYTES = 512
PRIMARY = 4  # of an MBR
MAX_GPT_ENTRIES = 1024

MAX_LOGICAL = 64

_EXT4_MAGIC_AT = 1024 + 56
_LINUX_MBR = 0x83
_GPT_GUARD = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)
_LINUX_GPT = {
    UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le,  # Linux file system
    UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709").bytes_le,  # root, x86-64
    UUID("b921b045-1df0-41c3-af44-4c6f280d3fae").bytes_le,  # root, arm64
}
_ROLES_MBR = {0x82: "swap", 0xEF: "boot", 0x41: "boot"}
_ROLES_GPT = {
    UUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f").bytes_le: "swap",
    UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le: "boot",  # EFI
    UUID("21686148-6449-6e6f-744e-656564454649").bytes_le: "boot",  # BIOS boot
    UUID("bc13c2ff-59e6-4262-a352-b275fd6f7172").bytes_le: "boot",  # extended boot loader
    UUID("9e1a2d38-c612-4316-aa26-8b49521e5a8b").bytes_le: "boot",  # PReP
}


@dataclass(frozen=True)
class Partition:
    """An entry of a partition table, in bytes. ``role``: ``data``, ``boot`` or ``swap`` by its type;
    ``identity``: its PARTUUID; ``linux``: of a type that a root file system has."""

    number: int
    offset: int
    length: int
    role: str
    identity: bytes
    linux: bool


def find_filesystem(disk: Disk) -> tuple[int, int]:
    """Byte offset and length of the file system."""
    head = disk.read(0, min(disk.size, 4096))
    whole = head[_EXT4_MAGIC_AT : _EXT4_MAGIC_AT + 2] == b"\x53\xef"
    parts = [one for one in _partitions(disk, head) if one.linux]
    if parts and whole:
        raise DiskUnreadable("the disk has a partition table and a file system over the whole of it")
    if whole:
        return 0, disk.size
    if not parts:
        raise DiskUnreadable(
            "the disk has neither an ext4 file system nor a Linux partition",
            remedy="use a source whose root file system is ext4, without LVM",
        )
    offset, length = parts[0].offset, parts[0].length
    if offset + length > disk.size:
        raise DiskUnreadable(f"partition at byte {offset} ends beyond the disk")
    return offset, length


def partitions(disk: Disk) -> list[Partition]:
    """All partitions in the order of the table, logical ones last; none of a disk without a table."""
    return _partitions(disk, disk.read(0, min(disk.size, 4096)))


def _partitions(disk: Disk, head: bytes) -> list[Partition]:
    if head[510:512] != b"\x55\xaa":
        return []
    found: list[Partition] = []
    extended = 0
    for slot in range(4):
        kind, first, count = struct.unpack_from("<4xB3xII", head, 446 + slot * 16)
        if kind == _GPT_GUARD:
            return _gpt(disk, head)
        if kind in _EXTENDED:
            extended = first
        elif kind and count:
            found.append(_mbr(head, slot + 1, kind, first, count))
    if extended:
        found += _logical(disk, head, extended)
    return found


def _mbr(head: bytes, number: int, kind: int, first: int, count: int) -> Partition:
    return Partition(
        number,
        first * SECTOR_BYTES,
        count * SECTOR_BYTES,
        _ROLES_MBR.get(kind, "data"),
        b"%08x-%02x" % (int.from_bytes(head[440:444], "little"), number),
        kind == _LINUX_MBR and number <= PRIMARY,
    )


def _logical(disk: Disk, head: bytes, extended: int) -> list[Partition]:
    """The chain of an extended partition: each link holds a partition, and where the next link is."""
    found: list[Partition] = []
    at = extended
    for _ in range(MAX_LOGICAL):
        if (at + 1) * SECTOR_BYTES > disk.size:
            break
        sector = disk.read(at * SECTOR_BYTES, SECTOR_BYTES)
        if sector[510:512] != b"\x55\xaa":
            break
        kind, first, count = struct.unpack_from("<4xB3xII", sector, 446)
        follows, to, _ = struct.unpack_from("<4xB3xII", sector, 462)
        if kind and count:
            found.append(_mbr(head, PRIMARY + 1 + len(found), kind, at + first, count))
        if follows not in _EXTENDED or not to or extended + to <= at:
            break
        at = extended + to
    return found


def _gpt(disk: Disk, head: bytes) -> list[Partition]:
    if head[512:520] != b"EFI PART":
        raise DiskUnreadable("the partition table announces a GPT that is not there")
    table, count, size = struct.unpack_from("<QII", head, 512 + 72)
    if count > MAX_GPT_ENTRIES or not 128 <= size <= 4096:
        raise DiskUnreadable(f"the GPT has {count} entries of {size} bytes")
    data = disk.read(table * SECTOR_BYTES, count * size)
    found = []
    for number in range(count):
        at = number * size
        kind, identity = data[at : at + 16], data[at + 16 : at + 32]
        first, last = struct.unpack_from("<QQ", data, at + 32)
        if any(kind) and last >= first:
            found.append(
                Partition(
                    number + 1,
                    first * SECTOR_BYTES,
                    (last - first + 1) * SECTOR_BYTES,
                    _ROLES_GPT.get(kind, "data"),
                    str(UUID(bytes_le=identity)).encode(),
                    kind in _LINUX_GPT,
                )
            )
    return found
