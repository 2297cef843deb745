"""Replay of an ext4 journal in memory: the blocks that a mount would write, without writing any.

A frozen file system has a clean journal. One that was not frozen is read as the kernel would find it after a
power cut: whole transactions, revoked blocks left out. Source: fs/jbd2/recovery.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial

from backend.disks.ext4 import HAS_JOURNAL, RECOVER, S_IFMT, S_IFREG, Ext4
from backend.disks.layers import Disk
from backend.disks.sums import ALL_ONES, crc32c, must_match
from backend.errors import DiskUnreadable

_MAGIC = b"\xc0\x3b\x39\x98"
_DESCRIPTOR, _COMMIT, _SUPER_V1, _SUPER_V2, _REVOKE = 1, 2, 3, 4, 5
_TAG_ESCAPED, _TAG_SAME_UUID, _TAG_LAST = 1, 2, 8
_REVOKES, _WIDE, _ASYNC, _SUM_V2, _SUM_V3 = 1, 2, 4, 8, 16
_SUPER_SUM_AT, _COMMIT_SUM_AT = 252, 16
MAX_JOURNAL_BYTES = 1 << 30


class _Journal:
    """The journal's blocks and header."""

    def __init__(self, fs: Ext4) -> None:
        if not fs.journal_inode:
            raise DiskUnreadable(
                "not quiesced, and the journal is on another device", remedy="freeze it and snapshot again"
            )
        inode = fs.inode(fs.journal_inode)
        if inode.mode & S_IFMT != S_IFREG or inode.size > MAX_JOURNAL_BYTES:
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
        self.summed = bool(self.features & (_SUM_V2 | _SUM_V3))
        self.seed = crc32c(ALL_ONES, head[48:64])
        if self.summed:
            self._check(
                crc32c(ALL_ONES, head[:_SUPER_SUM_AT] + bytes(4) + head[256:1024]), head, _SUPER_SUM_AT
            )

    def _check(self, found: int, data: bytes, at: int) -> None:
        must_match(
            found, int.from_bytes(data[at : at + 4], "big"), "not quiesced, and a block of the journal"
        )

    def check(self, data: bytes, at: int) -> None:
        """A block of the journal's own, which keeps its sum at ``at``."""
        if self.summed:
            self._check(crc32c(self.seed, data[:at] + bytes(4) + data[at + 4 :]), data, at)

    def check_content(self, sequence: int, content: bytes, stored: int) -> None:
        """A block that a descriptor announces, as it lies in the journal."""
        if self.summed:
            mask = ALL_ONES if self.features & _SUM_V3 else 0xFFFF
            found = crc32c(self.seed, sequence.to_bytes(4, "big") + content) & mask
            must_match(found, stored, "not quiesced, and a block in the journal")

    def block(self, index: int) -> bytes:
        if not 0 <= index < len(self.map):
            raise DiskUnreadable(f"journal block {index} does not exist")
        return self.fs.block(self.map[index])

    def after(self, index: int, steps: int = 1) -> int:
        """The block ``steps`` after ``index`` in the ring."""
        return self.first + (index - self.first + steps) % (self.length - self.first)

    def tags(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """Target block, flags and stored sum of each block that a descriptor announces."""
        wide = bool(self.features & _WIDE)
        end = len(data) - (4 if self.features & (_SUM_V2 | _SUM_V3) else 0)
        size = (
            16 if self.features & _SUM_V3 else 8 + (4 if wide else 0) + (2 if self.features & _SUM_V2 else 0)
        )
        at = 12
        while at + size <= end:
            if self.features & _SUM_V3:
                low, flags, high, stored = struct.unpack_from(">IIII", data, at)
            else:
                low, stored, flags = struct.unpack_from(">IHH", data, at)
                high = struct.unpack_from(">I", data, at + 8)[0] if wide else 0
            yield low | (high << 32 if wide else 0), flags, stored
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


class _Transaction:
    """What one transaction writes and revokes. A doubt about it counts only once it is committed: a power cut
    leaves the blocks of the last one half written."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, bytes]] = []
        self.revokes: list[int] = []
        self.doubt: DiskUnreadable | None = None

    def describe(self, journal: _Journal, index: int, sequence: int, data: bytes) -> int:
        """Take the blocks that a descriptor announces; how many there are."""
        steps = 0
        for target, flags, stored in journal.tags(data):
            steps += 1
            content = journal.block(journal.after(index, steps))
            self.try_check(partial(journal.check_content, sequence, content, stored))
            self.writes.append((target, _MAGIC + content[4:] if flags & _TAG_ESCAPED else content))
        self.try_check(partial(journal.check, data, len(data) - 4))
        return steps

    def revoke(self, journal: _Journal, data: bytes) -> None:
        """Take the blocks of a revocation record."""
        self.try_check(partial(journal.check, data, len(data) - 4))
        self.try_check(partial(self._revoke, journal, data))

    def _revoke(self, journal: _Journal, data: bytes) -> None:
        self.revokes.extend(journal.revoked(data))

    def try_check(self, check: Callable[[], None]) -> None:
        """Keep the first doubt."""
        try:
            check()
        except DiskUnreadable as doubt:
            self.doubt = self.doubt or doubt


def _committed(journal: _Journal) -> Iterator[_Transaction]:
    """Each whole transaction, in order."""
    index, sequence = journal.start, journal.sequence
    transaction = _Transaction()
    seen = 0
    while seen < journal.length:
        data = journal.block(index)
        magic, kind, number = data[:4], *struct.unpack_from(">II", data, 4)
        if magic != _MAGIC or number != sequence:
            return
        steps = 1
        if kind == _DESCRIPTOR:
            steps += transaction.describe(journal, index, sequence, data)
        elif kind == _REVOKE:
            transaction.revoke(journal, data)
        elif kind == _COMMIT:
            journal.check(data, _COMMIT_SUM_AT)
            if transaction.doubt:
                raise transaction.doubt
            yield transaction
            transaction = _Transaction()
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
    for order, transaction in enumerate(transactions):
        revoked_at.update(dict.fromkeys(transaction.revokes, order))
    patches: dict[int, bytes] = {}
    for order, transaction in enumerate(transactions):
        for target, content in transaction.writes:
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
