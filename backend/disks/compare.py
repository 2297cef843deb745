"""What differs between two disks of one lineage, found from the blocks that differ.

Only layers that the two do not share can hold a difference, so the cost follows the change and not the disk.
Times are never the proof: a guest that turns its clock back, or writes past its file system, is seen too.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterable, Iterator

from backend.disks.directories import list_directory
from backend.disks.ext4 import (
    FLAG_EA_INODE,
    FLAG_EXTENTS,
    RECOVER,
    ROOT_INODE,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    Ext4,
    Inode,
)
from backend.disks.layers import shared_layers
from backend.disks.tree import enter, join
from backend.errors import DiskUnreadable

_SAME_GEOMETRY = (
    "uuid", "offset", "block_size", "block_count", "blocks_per_group", "inode_size", "inodes_per_group",
    "tables",
)  # fmt: skip
_INLINE_LINK_BYTES = 60
_FLAGS = slice(32, 36)  # of an inode
# mode, size, links, flags; entries, depth; the first extent: count, start; attribute block
_ONE_EXTENT = struct.Struct("<H2xI18xH4xI4x2xH2xH4x4xHHI40xI")

Pair = tuple[bytes, Inode | None, Inode | None]  # path, before, after


class Comparer:
    """Finds the names whose inodes or contents may differ between ``before`` and ``after``."""

    def __init__(self, before: Ext4, after: Ext4) -> None:
        for name in _SAME_GEOMETRY:
            if getattr(before, name) != getattr(after, name):
                raise DiskUnreadable(
                    f"the two file systems differ in their {name.replace('_', ' ')}",
                    remedy="compare two points of one sandbox, or two sandboxes of one source",
                )
        self.before, self.after = before, after
        self.blocks = changed_blocks(before, after)
        self.inodes = self._changed_inodes()

    def pairs(self) -> list[Pair]:
        """The candidates, sorted by path; a candidate may differ in nothing but its times."""
        if not self.blocks:
            return []
        # Every inode that uses such a block: one that was written to behind the file system's back is found,
        # though another claims the block too.
        self.inodes |= _owners(self.after, sorted(self.blocks))
        return self._walk()

    def same_content(self, before: Inode, after: Inode) -> bool:
        """Whether two inodes hold the same bytes for sure: the same map over blocks that did not change."""
        same_map = (before.map, before.size, before.flags) == (after.map, after.size, after.flags)
        if not same_map or before.raw[128 + before.extra :] != after.raw[128 + after.extra :]:
            return False
        return self.blocks.isdisjoint(footprint(self.after, after))

    def must_explain_records(self) -> None:
        """Raises :class:`DiskUnreadable` where a record may be another and :meth:`pairs` need not know it: an
        attribute that has an inode of its own, or features that say how inodes are read."""
        if (self.before.incompat ^ self.after.incompat) & ~RECOVER:
            raise DiskUnreadable("the two file systems differ in their features")
        for number in self.inodes:
            for fs in (self.before, self.after):
                if int.from_bytes(fs.raw_inode(number)[_FLAGS], "little") & FLAG_EA_INODE:
                    raise DiskUnreadable(f"inode {number}, which holds an attribute, is another")

    def _changed_inodes(self) -> set[int]:
        """Numbers of inodes whose bytes differ."""
        fs = self.after
        starts = sorted((table, group) for group, table in enumerate(fs.tables))
        per_block = fs.block_size // fs.inode_size
        length = -(-fs.inodes_per_group // per_block)
        found: set[int] = set()
        for number in self.blocks:
            at = bisect.bisect_right(starts, (number, len(starts))) - 1
            if at < 0 or number >= starts[at][0] + length:
                continue
            table, group = starts[at]
            old, new = self.before.block(number), fs.block(number)
            first = group * fs.inodes_per_group + (number - table) * per_block + 1
            for index in range(per_block):
                where = slice(index * fs.inode_size, (index + 1) * fs.inode_size)
                if old[where] != new[where]:
                    found.add(first + index)
        return found

    def _walk(self) -> list[Pair]:
        """Both trees side by side; a directory that did not change is listed once."""
        found: list[Pair] = []
        if ROOT_INODE in self.inodes:
            found.append((b"/", self.before.inode(ROOT_INODE), self.after.inode(ROOT_INODE)))
        self._visited: tuple[set[int], set[int]] = (set(), set())
        folders = directory_inodes(self.after)
        hot = self.inodes | folders
        stack: list[tuple[bytes, int, int]] = [(b"/", ROOT_INODE, ROOT_INODE)]
        while stack:
            folder, old, new = stack.pop()
            names, touched = self._list(1, new) if new else ({}, True)
            if old == new and not touched:
                enter(self._visited[0], old)
                if hot.isdisjoint(names.values()):
                    continue
                for name, number in names.items():
                    if number in self.inodes:
                        self._step(join(folder, name), number, number, found, stack)
                    elif number in folders:
                        stack.append((join(folder, name), number, number))
                continue
            earlier, _ = self._list(0, old) if old else ({}, True)
            for name in names.keys() | earlier.keys():
                self._step(join(folder, name), earlier.get(name, 0), names.get(name, 0), found, stack)
        found.sort(key=lambda pair: pair[0])
        return found

    def _list(self, side: int, number: int) -> tuple[dict[bytes, int], bool]:
        """Names in a directory and whether they can differ between the two sides."""
        enter(self._visited[side], number)
        fs = self.after if side else self.before
        names, blocks = list_directory(fs, fs.inode(number))
        fs.must_be_used(names.values())
        return names, number in self.inodes or not self.blocks.isdisjoint(blocks)

    def _step(
        self, path: bytes, old: int, new: int, found: list[Pair], stack: list[tuple[bytes, int, int]]
    ) -> None:
        after = self.after.inode(new) if new else None
        if old == new and new not in self.inodes:
            before = after
        else:
            before = self.before.inode(old) if old else None
            found.append((path, before, after))
        inside_old = old if before is not None and before.mode & S_IFMT == S_IFDIR else 0
        inside_new = new if after is not None and after.mode & S_IFMT == S_IFDIR else 0
        if inside_old or inside_new:
            stack.append((path, inside_old, inside_new))


def changed_blocks(before: Ext4, after: Ext4) -> set[int]:
    """Numbers of the file system's blocks whose bytes differ."""
    shared = shared_layers(before.disk, after.disk)
    if not shared:
        raise DiskUnreadable("the two disks share no layer", remedy="compare two points of one sandbox")
    size, count = after.block_size, after.block_count
    found: set[int] = set()
    runs: set[tuple[int, int]] = set()
    for disk in (before.disk, after.disk):
        unit_bytes = 1 << disk.unit_bits
        for unit in disk.units_above(shared):
            start = unit * unit_bytes - after.offset
            runs.add((max(start // size, 0), min((start + unit_bytes - 1) // size, count - 1)))
    for first, last in sorted(runs):
        if first <= last:
            _compare_run(before, after, first, last - first + 1, found)
    for number in before.patches.keys() | after.patches.keys():
        if before.block(number) != after.block(number):
            found.add(number)
        else:
            found.discard(number)
    return found


def _compare_run(before: Ext4, after: Ext4, first: int, count: int, found: set[int]) -> None:
    size = after.block_size
    old = before.disk.read(before.offset + first * size, count * size)
    new = after.disk.read(after.offset + first * size, count * size)
    if old != new:
        for index in range(count):
            if old[index * size : (index + 1) * size] != new[index * size : (index + 1) * size]:
                found.add(first + index)


def footprint(fs: Ext4, inode: Inode) -> set[int]:
    """All blocks of an inode: its data, the map of it and its attributes."""
    visited: list[int] = []
    blocks: set[int] = set()
    if inode.mode & S_IFMT in (S_IFREG, S_IFDIR) or inode.size >= len(inode.map):
        for _logical, physical, count, _written in fs.extents(inode, visited):
            blocks.update(range(physical, physical + count))
    blocks.update(visited)
    if inode.acl_block:
        blocks.add(inode.acl_block)
    return blocks


def directory_inodes(fs: Ext4) -> set[int]:
    """Numbers of all inodes that are directories, in use or not, from the inode tables."""
    found: set[int] = set()
    for first, data in fs.inode_chunks():
        kinds = data[1 :: fs.inode_size]  # the high byte of each mode
        found.update(first + index for index, kind in enumerate(kinds) if kind >> 4 == S_IFDIR >> 12)
    return found


def _owners(fs: Ext4, wanted: list[int]) -> set[int]:
    """Inodes in use that use one of the blocks."""
    return {number for number in _suspects(fs, wanted) if _uses(fs, number, wanted)}


def _suspects(fs: Ext4, wanted: list[int]) -> Iterator[int]:
    """Inodes that may use a block: those with one extent are judged here, in bulk."""
    each = struct.Struct(f"{_ONE_EXTENT.format}{fs.inode_size - _ONE_EXTENT.size}x")
    for first, data in fs.inode_chunks():
        for index, row in enumerate(each.iter_unpack(data)):
            mode, length, links, flags, entries, depth, count, high, low, attributes = row
            if not mode or not links:  # free
                continue
            if not attributes:
                if mode & S_IFMT == S_IFLNK and length < _INLINE_LINK_BYTES:
                    continue
                if flags & FLAG_EXTENTS and not depth and entries <= 1:
                    start = low | high << 32
                    place = bisect.bisect_left(wanted, start)
                    if (
                        not entries
                        or place == len(wanted)
                        or wanted[place] >= start + (count & 0x7FFF or 0x8000)
                    ):
                        continue
            yield first + index


def _uses(fs: Ext4, number: int, wanted: Iterable[int]) -> bool:
    return not footprint(fs, fs.inode(number)).isdisjoint(wanted)
