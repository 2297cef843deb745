"""Replay of an ext4 journal in memory: the blocks that a mount would write, without writing any.

A frozen file system has a clean journal. One that was not frozen is read as the kernel would find it after a
power cut: whole transactions, revoked blocks left out. Source: fs/jbd2/recovery.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from backend.disks.ext4 import HAS_JOURNAL, RECOVER, S_IFREG, Ext4
from backend.disks.layers import Disk
from backend.errors import DiskUnreadable

_MAGIC = b"\xc0\x3b\x39\x98"
_DESCRIPTOR, _COMMIT, _SUPER_V1, _SUPER_V2, _REVOKE = 1, 2, 3, 4, 5
_TAG_ESCAPED, _TAG_SAME_UUID, _TAG_LAST = 1, 2, 8
_REVOKES, _WIDE, _ASYNC, _SUM_V2, _SUM_V3 = 1, 2, 4, 8, 16
MAX_JOURNAL_BYTES = 1 << 30


class _Journal:
    """The journal's blocks and header."""

    def __init__(self, fs: Ext4) -> None:
        inode = fs.inode(fs.journal_inode) if fs.journal_inode else None
        if inode is None or inode.mode & 0xF000 != S_IFREG or inode.size > MAX_JOURNAL_BYTES:
            raise DiskUnreadable(
                "not quiesced, and the journal cannot be read", remedy="freeze it and snapshot again"
            )
        self.fs = fs
        self.map: list[int] = []
        for logical, physical, count, written in fs.extents(inode):
            if logical != len(self.map) or not written:
                raise DiskUnreadable("the journal has a hole")
            self.map.extend(range(physical, physical + count))
        head = self.block(0)
        kind = int.from_bytes(head[4:8], "big")
        self.sequence: int
        self.start: int
        block_size, length, first, self.sequence, self.start = struct.unpack_from(">IIIII", head, 12)
        if head[:4] != _MAGIC or kind not in (_SUPER_V1, _SUPER_V2) or block_size != fs.block_size:
            raise DiskUnreadable("the journal has a broken superblock")
        if not 0 < first < length <= len(self.map) or (self.start and not first <= self.start < length):
            raise DiskUnreadable(f"the journal's {length} blocks begin at {first}")
        self.features = int.from_bytes(head[40:44], "big") if kind == _SUPER_V2 else 0
        if unknown := self.features & ~(_REVOKES | _WIDE | _SUM_V2 | _SUM_V3):
            raise DiskUnreadable(
                f"not quiesced, and the journal has features {unknown:#x} that cannot be replayed exactly",
                remedy="freeze it and snapshot again",
            )
        self.first: int = first
        self.length: int = length

    def block(self, index: int) -> bytes:
        if not 0 <= index < len(self.map):
            raise DiskUnreadable(f"journal block {index} does not exist")
        return self.fs.block(self.map[index])

    def after(self, index: int, steps: int = 1) -> int:
        """The block ``steps`` after ``index`` in the ring."""
        return self.first + (index - self.first + steps) % (self.length - self.first)

    def tags(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Target block and flags of each block that a descriptor announces."""
        wide = bool(self.features & _WIDE)
        end = len(data) - (4 if self.features & (_SUM_V2 | _SUM_V3) else 0)
        size = (
            16 if self.features & _SUM_V3 else 8 + (4 if wide else 0) + (2 if self.features & _SUM_V2 else 0)
        )
        at = 12
        while at + size <= end:
            if self.features & _SUM_V3:
                low, flags, high = struct.unpack_from(">III", data, at)
            else:
                low, _sum, flags = struct.unpack_from(">IHH", data, at)
                high = struct.unpack_from(">I", data, at + 8)[0] if wide else 0
            yield low | (high << 32 if wide else 0), flags
            at += size + (0 if flags & _TAG_SAME_UUID else 16)
            if flags & _TAG_LAST:
                return

    def revoked(self, data: bytes) -> Iterator[int]:
        """The blocks of a revocation record."""
        end = int.from_bytes(data[12:16], "big")
        width = 8 if self.features & _WIDE else 4
        if end > len(data):
            raise DiskUnreadable("the journal has a broken revocation record")
        for at in range(16, end - width + 1, width):
            yield int.from_bytes(data[at : at + width], "big")


def _committed(journal: _Journal) -> Iterator[tuple[int, list[tuple[int, bytes]], list[int]]]:
    """Each whole transaction: its sequence, ``(target block, content)`` pairs and revoked blocks."""
    index, sequence = journal.start, journal.sequence
    writes: list[tuple[int, bytes]] = []
    revokes: list[int] = []
    seen = 0
    while seen < journal.length:
        data = journal.block(index)
        magic, kind, number = data[:4], *struct.unpack_from(">II", data, 4)
        if magic != _MAGIC or number != sequence:
            return
        steps = 1
        if kind == _DESCRIPTOR:
            for target, flags in journal.tags(data):
                content = journal.block(journal.after(index, steps))
                writes.append((target, _MAGIC + content[4:] if flags & _TAG_ESCAPED else content))
                steps += 1
        elif kind == _REVOKE:
            revokes.extend(journal.revoked(data))
        elif kind == _COMMIT:
            yield sequence, writes, revokes
            writes, revokes = [], []
            sequence = (sequence + 1) & 0xFFFF_FFFF
        else:
            return
        index = journal.after(index, steps)
        seen += steps


def replay(fs: Ext4) -> dict[int, bytes]:
    """What the journal of ``fs`` holds beyond the file system: block → content."""
    journal = _Journal(fs)
    if not journal.start:
        return {}
    transactions = list(_committed(journal))
    revoked_at: dict[int, int] = {}
    for order, (_sequence, _writes, revokes) in enumerate(transactions):
        revoked_at.update(dict.fromkeys(revokes, order))
    patches: dict[int, bytes] = {}
    for order, (_sequence, writes, _revokes) in enumerate(transactions):
        for target, content in writes:
            if revoked_at.get(target, -1) < order:
                if target >= fs.block_count:
                    raise DiskUnreadable(f"the journal writes to block {target}, beyond the file system")
                patches[target] = content
    return patches


def open_filesystem(disk: Disk, offset: int, length: int) -> Ext4:
    """The file system at ``offset``, its journal replayed in memory when it was not frozen."""
    fs = Ext4(disk, offset, length)
    if not fs.incompat & RECOVER:
        return fs
    if not fs.compat & HAS_JOURNAL:
        raise DiskUnreadable("the file system wants recovery and has no journal")
    return Ext4(disk, offset, length, replay(fs))
