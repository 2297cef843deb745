"""Directories of an ext4 file system: linear blocks, hash trees (read linearly) and inline data."""

from __future__ import annotations

import struct

from backend.disks.ext4 import FLAG_ENCRYPTED, FLAG_INDEX, FLAG_INLINE, Ext4, Inode
from backend.disks.files import inline_data
from backend.disks.sums import check_directory
from backend.errors import DiskUnreadable

_ENTRY = struct.Struct("<IHB")
_INLINE_HEAD_BYTES = 4  # the parent's inode number, in place of "." and ".."
_SELF = (b".", b"..")
_LEAST_RECORD = 12
_WIDEST_RECORD = (0, 0xFFFF)  # how a record of 64 KiB is written


def list_directory(fs: Ext4, inode: Inode) -> tuple[dict[bytes, int], list[int]]:
    """The names of a directory with their inode numbers, and the blocks that hold them (its map's too)."""
    if inode.flags & FLAG_ENCRYPTED:
        raise DiskUnreadable(f"directory inode {inode.number} is encrypted, which cannot be read exactly")
    found: dict[bytes, int] = {}
    if inode.flags & FLAG_INLINE:
        data = inline_data(fs, inode)
        names = _parse(data[_INLINE_HEAD_BYTES:60], found, inode.number)
        names += _parse(data[60:], found, inode.number)
        blocks: list[int] = []
    else:
        names, blocks = _linear(fs, inode, found)
    joined = b"/".join(found)
    if len(found) != names or joined.count(b"/") != max(len(found) - 1, 0) or b"\0" in joined:
        raise DiskUnreadable(f"directory inode {inode.number} has a name twice or one that no file can have")
    if found and min(found.values()) < fs.first_inode:
        raise DiskUnreadable(f"directory inode {inode.number} names an inode of the file system's own")
    return found, blocks


def _linear(fs: Ext4, inode: Inode, found: dict[bytes, int]) -> tuple[int, list[int]]:
    blocks: list[int] = []
    reached = names = 0
    size = fs.block_size
    wanted = inode.size // size
    owner, indexed = inode.owner, bool(inode.flags & FLAG_INDEX)
    if inode.size % size or not wanted:
        raise DiskUnreadable(f"directory inode {inode.number} has a size of {inode.size}")
    for logical, physical, count, written in fs.extents(inode, blocks):
        if logical >= wanted:
            break
        if logical != reached or not written:
            raise DiskUnreadable(f"directory inode {inode.number} has a hole")
        count = min(count, wanted - logical)
        reached += count
        blocks.extend(range(physical, physical + count))
        data = fs.run(physical, count)
        for at in range(0, len(data), size):
            block = data[at : at + size] if count > 1 else data
            if fs.seed is not None:
                check_directory(fs.seed, owner, block, indexed=indexed, number=inode.number)
            names += _parse(block, found, inode.number)
    if reached != wanted:
        raise DiskUnreadable(f"directory inode {inode.number} ends after {reached} of {wanted} blocks")
    return names, blocks


def _parse(data: bytes, found: dict[bytes, int], number: int) -> int:
    """Add the names of one block to ``found``; how many there were."""
    at, end, names = 0, len(data), 0
    unpack = _ENTRY.unpack_from
    while at + 8 <= end:
        inode, record, length = unpack(data, at)
        if record in _WIDEST_RECORD and end == 1 << 16:
            record = end
        name_end = at + 8 + length
        stop = at + record
        if name_end > stop or record & 3 or stop > end or record < _LEAST_RECORD or (inode and not length):
            raise DiskUnreadable(f"directory inode {number} has a broken record")
        if inode and (length > 2 or data[at + 8 : name_end] not in _SELF):
            found[data[at + 8 : name_end]] = inode
            names += 1
        at = stop
    if at != end:
        raise DiskUnreadable(f"directory inode {number} has a record that is cut off")
    return names
