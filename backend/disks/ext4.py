"""An ext4 file system, read only: geometry, inodes, block maps, contents.

Nothing on the disk is believed: every offset and length is checked, and what this reader does not know
exactly is refused with words. Source: Documentation/filesystems/ext4 of Linux.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from backend import file_rights
from backend.disks import sums
from backend.disks.layers import Disk
from backend.errors import DiskUnreadable

ROOT_INODE = 2
MAX_EXTENT_DEPTH = 5
MAX_GROUPS = 1 << 20
CHUNK_BITS = 16
CHUNK_BYTES = 1 << CHUNK_BITS
MAX_CHUNKS_KEPT = 1024  # 64 MiB of inode tables
MAX_FILE_BYTES = 1 << 63

S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0xF000, 0x4000, 0x8000, 0xA000
S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK = 0x2000, 0x6000, 0x1000, 0xC000
_KINDS = frozenset((S_IFDIR, S_IFREG, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK))
FLAG_ENCRYPTED, FLAG_INDEX, FLAG_EXTENTS, FLAG_EA_INODE = 0x800, 0x1000, 0x80000, 0x200000
FLAG_INLINE, FLAG_CASEFOLD = 0x1000_0000, 0x4000_0000
SET_BY_CHATTR = {0x8: b"S", 0x10: b"i", 0x20: b"a", 0x40: b"d", 0x80: b"A", 0x4000: b"j", 0x10000: b"D"}
CHATTR = file_rights.CHATTR.encode()  # their name among the attributes, whose own names all have a dot
CHATTR_MASK = sum(SET_BY_CHATTR)

HAS_JOURNAL, SPARSE_SUPER2 = 0x4, 0x200
FILETYPE, RECOVER, META_BG, BIT64, CSUM_SEED, LARGEDIR = 0x2, 0x4, 0x10, 0x80, 0x2000, 0x4000
GDT_CSUM, METADATA_CSUM = 0x10, 0x400
_KNOWN_INCOMPAT = (
    FILETYPE | RECOVER | META_BG | BIT64 | LARGEDIR | CSUM_SEED | 0x40 | 0x100 | 0x200 | 0x400 | 0x8000
)
_TOLERATED_INCOMPAT = 0x10000 | 0x20000  # encryption, case folding: what uses them is judged where it is met
_REFUSED_INCOMPAT = {
    0x1: "compression",
    0x8: "the form of a journal device",
    0x1000: "data in directory entries",
}
_CREATED_BY_LINUX, _CRC32C = 0, 1
_UNINITIALISED = 1  # a group's inode table was never written

_INODE = struct.Struct("<HHI4xII4xHH4xI4x60s4xII6xHHH4x")
_INDEXES = struct.Struct("<IIH2x")
_EXTENTS = struct.Struct("<IHHI")
_EXTRA = struct.Struct("<H2xII")
_NUMBER = struct.Struct("<I")
_ZEROS = bytes(CHUNK_BYTES)
_UNWRITTEN_OVER = 32768

Extent = tuple[
    int, int, int, bool
]  # logical block, physical block, count, written (if not, it reads as zeros)


class Inode(NamedTuple):
    """The fields of an inode; times in ns, ``map`` is the 60-byte block map, ``raw`` the whole inode."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    ctime_ns: int
    mtime_ns: int
    flags: int
    map: bytes
    acl_block: int
    extra: int
    raw: bytes

    @property
    def owner(self) -> bytes:
        """Number and generation: what the sums of an inode's own blocks begin with."""
        return _NUMBER.pack(self.number) + self.raw[100:104]


class Ext4:
    """One file system at ``offset`` of a disk; ``patches`` (block → content) overlay it like a replayed
    journal."""

    def __init__(
        self, disk: Disk, offset: int, length: int, patches: Mapping[int, bytes] | None = None
    ) -> None:
        self.disk, self.offset, self.length = disk, offset, length
        self.patches: Mapping[int, bytes] = patches or {}
        self.block_size = 1024
        if length < 2048:
            raise DiskUnreadable("the file system is too small to have a superblock")
        head = disk.read(offset + 1024, 1024)
        bits = int.from_bytes(head[24:28], "little")
        patched = self.patches.get(0 if bits else 1)
        if patched is not None:
            head = patched[1024:2048] if bits else patched[:1024]
        self._read_super(head)
        self._read_groups()
        self._chunks: dict[int, bytes] = {}
        self.listings: dict[int, dict[bytes, int]] = {}  # names of folders on the way to the last paths

    # --- geometry --------------------------------------------------------------------------------------

    def _read_super(self, head: bytes) -> None:
        if head[56:58] != b"\x53\xef":
            raise DiskUnreadable("there is no ext4 superblock")
        word = struct.Struct("<I").unpack_from
        half = struct.Struct("<H").unpack_from
        (bits,) = word(head, 24)
        if bits > 6:
            raise DiskUnreadable(f"the file system has blocks of 2^{bits + 10} bytes")
        self.block_size = 1024 << bits
        self.inode_count: int = word(head, 0)[0]
        self.first_block: int = word(head, 20)[0]
        self.blocks_per_group: int = word(head, 32)[0]
        self.inodes_per_group: int = word(head, 40)[0]
        dynamic = word(head, 76)[0] >= 1
        self.first_inode: int = word(head, 84)[0] if dynamic else 11
        self.inode_size = half(head, 88)[0] if dynamic else 128
        self.compat, self.incompat, self.ro_compat = struct.unpack_from("<III", head, 92)
        self.sparse_super = bool(self.ro_compat & 1)
        self.backup_groups = struct.unpack_from("<II", head, 588)
        self.uuid = bytes(head[104:120])
        self.journal_inode = word(head, 224)[0]
        self.first_meta_group = word(head, 260)[0]
        wide = bool(self.incompat & BIT64)
        self.descriptor_size = half(head, 254)[0] if wide else 32
        self.block_count = word(head, 4)[0] | (word(head, 336)[0] << 32 if wide else 0)
        self._check_features(creator=word(head, 72)[0], revision=word(head, 76)[0])
        self._check_sums(head)
        self._check_geometry()

    def _check_features(self, *, creator: int, revision: int) -> None:
        if creator != _CREATED_BY_LINUX or revision > 1:
            raise DiskUnreadable(f"the file system is of system {creator}, revision {revision}")
        for bit, words in _REFUSED_INCOMPAT.items():
            if self.incompat & bit:
                raise DiskUnreadable(f"the file system uses {words}, which cannot be read exactly")
        if unknown := self.incompat & ~(_KNOWN_INCOMPAT | _TOLERATED_INCOMPAT):
            raise DiskUnreadable(f"the file system has unknown features {unknown:#x}")

    def _check_sums(self, head: bytes) -> None:
        """``seed`` is what all sums of this file system begin with; None where it keeps none. Those of
        attribute values are always kept."""
        self.seed: int | None = None
        seeded = self.incompat & CSUM_SEED
        self.attribute_seed = (
            int.from_bytes(head[624:628], "little") if seeded else sums.crc32c(sums.ALL_ONES, self.uuid)
        )
        if not self.ro_compat & METADATA_CSUM:
            return
        if head[373] != _CRC32C:
            raise DiskUnreadable(f"the file system has checksums of an unknown kind {head[373]}")
        stored = int.from_bytes(head[1020:1024], "little")
        sums.must_match(sums.crc32c(sums.ALL_ONES, head[:1020]), stored, "the superblock")
        self.seed = self.attribute_seed

    def _check_geometry(self) -> None:
        size = self.block_size
        if not 128 <= self.inode_size <= size or self.inode_size & (self.inode_size - 1):
            raise DiskUnreadable(f"inodes of {self.inode_size} bytes")
        least = 64 if self.incompat & BIT64 else 32
        if not least <= self.descriptor_size <= size or self.descriptor_size & (self.descriptor_size - 1):
            raise DiskUnreadable(f"group descriptors of {self.descriptor_size} bytes")
        if not 0 < self.blocks_per_group <= size * 8 * 16 or not 0 < self.inodes_per_group <= size * 8:
            raise DiskUnreadable(f"groups of {self.blocks_per_group} blocks, {self.inodes_per_group} inodes")
        if self.block_count * size > self.length or self.first_block >= self.block_count:
            raise DiskUnreadable(f"{self.block_count} blocks of {size} bytes do not fit the disk")
        self.group_count = -(-(self.block_count - self.first_block) // self.blocks_per_group)
        if self.group_count > MAX_GROUPS or self.inode_count > self.group_count * self.inodes_per_group:
            raise DiskUnreadable(f"{self.group_count} groups for {self.inode_count} inodes")

    def _read_groups(self) -> None:
        """The tables of block bitmaps, inode bitmaps and inode tables, a block number for each group."""
        size, per_block = self.descriptor_size, self.block_size // self.descriptor_size
        wide = size >= 64
        self.bitmaps: list[tuple[int, int]] = []
        self.tables: list[int] = []
        self.used: list[int] = []  # inodes at the start of each table that were ever in use
        self.descriptor_blocks: list[int] = []
        for index in range(-(-self.group_count // per_block)):
            number = self._descriptor_block(index, per_block)
            self.descriptor_blocks.append(number)
            data = self.block(number)
            for at in range(0, min(per_block, self.group_count - index * per_block) * size, size):
                self._check_descriptor(data[at : at + size])
                blocks, inodes, table = struct.unpack_from("<III", data, at)
                if wide:
                    high = struct.unpack_from("<III", data, at + 32)
                    blocks, inodes, table = (
                        low | top << 32 for low, top in zip((blocks, inodes, table), high, strict=True)
                    )
                self.bitmaps.append((blocks, inodes))
                self.tables.append(table)

    def _check_descriptor(self, data: bytes) -> None:
        """The next group's: how many inodes of its table were ever used is noted too."""
        summed = self.ro_compat & (GDT_CSUM | METADATA_CSUM)
        flags, unused_low = struct.unpack_from("<H8xH", data, 18)
        unused = unused_low | (int.from_bytes(data[50:52], "little") << 16 if len(data) >= 64 else 0)
        if summed:
            sums.check_descriptor(self.seed, self.uuid, len(self.tables), data)
        never = self.inodes_per_group if flags & _UNINITIALISED else unused
        self.used.append(self.inodes_per_group - never if summed else self.inodes_per_group)

    def _descriptor_block(self, index: int, per_block: int) -> int:
        """Where the descriptors' block ``index`` is, meta block groups considered."""
        if not self.incompat & META_BG or index < self.first_meta_group:
            return (2 if self.block_size == 1024 else 1) + index
        group = index * per_block
        start = self.first_block + group * self.blocks_per_group
        if not group and self.block_size == 1024 and not self.first_block:
            start += 1
        return start + (1 if self._has_super(group) else 0)

    def _has_super(self, group: int) -> bool:
        if not group or (group == 1 and not self.compat & SPARSE_SUPER2) or not self.sparse_super:
            return True
        if self.compat & SPARSE_SUPER2:
            return group in self.backup_groups
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False

    def block(self, number: int) -> bytes:
        """One block."""
        if not 0 <= number < self.block_count:
            raise DiskUnreadable(f"block {number} is beyond the file system's {self.block_count}")
        patched = self.patches.get(number)
        if patched is not None:
            return patched
        return self.disk.read(self.offset + number * self.block_size, self.block_size)

    def run(self, number: int, count: int) -> bytes:
        """``count`` blocks in a row."""
        if number < 0 or count < 0 or number + count > self.block_count:
            raise DiskUnreadable(f"blocks {number} to {number + count} are beyond the file system")
        size = self.block_size
        data = self.disk.read(self.offset + number * size, count * size)
        if self.patches and any(at in self.patches for at in range(number, number + count)):
            return b"".join(
                self.patches.get(number + at, data[at * size : (at + 1) * size]) for at in range(count)
            )
        return data

    # --- inodes ----------------------------------------------------------------------------------------

    def inode_place(self, number: int) -> tuple[bytes, int]:
        """A piece of an inode table and where in it the inode is."""
        if not 0 < number <= self.inode_count:
            raise DiskUnreadable(f"inode {number} is beyond the file system's {self.inode_count}")
        group, index = divmod(number - 1, self.inodes_per_group)
        at = index * self.inode_size
        data = self._chunks.get(group << 16 | at >> CHUNK_BITS)
        if data is None:
            data = self._load_chunk(group, at >> CHUNK_BITS)
        return data, at & CHUNK_BYTES - 1

    def raw_inode(self, number: int) -> bytes:
        """The bytes of an inode."""
        data, at = self.inode_place(number)
        return data[at : at + self.inode_size]

    def _load_chunk(self, group: int, chunk: int) -> bytes:
        """64 KiB of a group's inode table: neighbours are read together."""
        first = chunk * CHUNK_BYTES // self.block_size
        table = -(-self.inodes_per_group * self.inode_size // self.block_size)
        count = min(max(CHUNK_BYTES // self.block_size, 1), table - first)
        data = self.run(self.tables[group] + first, count)
        if len(self._chunks) >= MAX_CHUNKS_KEPT:
            self._chunks.clear()
        self._chunks[group << 16 | chunk] = data
        return data

    def inode_chunks(self) -> Iterator[tuple[int, bytes]]:
        """The parts of the inode tables that were ever written: the first inode's number, and the bytes."""
        for group in range(self.group_count):
            table_bytes = self.used[group] * self.inode_size
            for at in range(0, table_bytes, CHUNK_BYTES):
                number = group * self.inodes_per_group + at // self.inode_size + 1
                data = self.inode_place(number)[0][: table_bytes - at] if number <= self.inode_count else b""
                if data != _ZEROS[: len(data)]:
                    yield number, data

    def must_be_used(self, numbers: Collection[int]) -> None:
        """Raises :class:`DiskUnreadable` where a name's inode is one of those that :meth:`inode_chunks`
        leaves out: the kernel reads it all the same, so a guest could hide whatever it likes there."""
        try:
            if all(map(self._in_chunks.__getitem__, numbers)):
                return
        except IndexError:
            pass
        raise DiskUnreadable("a name leads to an inode that its group calls never used")

    @cached_property
    def _in_chunks(self) -> bytearray:
        """By the number of an inode, whether :meth:`inode_chunks` shows it."""
        shown = bytearray(1)
        for used in self.used:
            shown += b"\1" * used + bytes(self.inodes_per_group - used)
        return shown

    def inode(self, number: int) -> Inode:
        """An inode in use. Raises :class:`DiskUnreadable` for a free or damaged one."""
        raw = self.raw_inode(number)
        self.must_be_used([number])
        (mode, uid, size, ctime, mtime, gid, links, flags, block_map, acl_low, size_high, acl_high, uid_high,
         gid_high) = _INODE.unpack_from(raw)  # fmt: skip
        if not mode or not links:
            raise DiskUnreadable(f"a name leads to inode {number}, which is free")
        kind = mode & S_IFMT
        if kind not in _KINDS:
            raise DiskUnreadable(f"inode {number} is of an unknown kind {mode:#o}")
        if kind == S_IFREG or (kind == S_IFDIR and self.incompat & LARGEDIR):
            size |= size_high << 32
        ctime_ns, mtime_ns = _signed(ctime) * 1_000_000_000, _signed(mtime) * 1_000_000_000
        extra = 0
        if self.inode_size > 128:
            extra, ctime_extra, mtime_extra = _EXTRA.unpack_from(raw, 128)
            if extra & 3 or 128 + extra > self.inode_size:
                raise DiskUnreadable(f"inode {number} has {extra} extra bytes")
        if self.seed is not None:
            sums.check_inode(self.seed, number, raw, extra)
        if size >= MAX_FILE_BYTES:
            raise DiskUnreadable(f"inode {number} has {size} bytes")
        if extra:
            if extra >= 8:
                ctime_ns += ((ctime_extra & 3) << 32) * 1_000_000_000 + (ctime_extra >> 2)
            if extra >= 12:
                mtime_ns += ((mtime_extra & 3) << 32) * 1_000_000_000 + (mtime_extra >> 2)
        return Inode(
            number, mode, uid | uid_high << 16, gid | gid_high << 16, size, links, ctime_ns, mtime_ns, flags,
            block_map, acl_low | acl_high << 32, extra, raw,
        )  # fmt: skip

    # --- block maps --------------------------------------------------------------------------------------

    def extents(self, inode: Inode, visited: list[int] | None = None) -> Iterator[Extent]:
        """What is mapped, in order. ``visited`` collects the blocks that hold the map itself."""
        if inode.flags & FLAG_INLINE:
            return iter(())
        if inode.flags & FLAG_EXTENTS:
            return self._extent_tree(inode, visited)
        return self._indirect(inode, visited)

    def _extent_tree(self, inode: Inode, visited: list[int] | None) -> Iterator[Extent]:
        stack: list[tuple[int, int]] = [(-1, -1)]
        reached = nodes = 0
        while stack:
            number, expected = stack.pop()
            node = inode.map if number < 0 else self.block(number)
            if number >= 0 and self.seed is not None:
                sums.check_extents(self.seed, inode.owner, node, inode.number)
            magic, entries, most, depth = struct.unpack_from("<HHHH", node)
            nodes += 1
            fits = entries <= most <= (len(node) - 12) // 12 and most
            if magic != 0xF30A or depth > MAX_EXTENT_DEPTH or not fits:
                raise DiskUnreadable(f"inode {inode.number} has a broken extent tree")
            if not entries and (depth or number >= 0):
                raise DiskUnreadable(f"inode {inode.number} has an extent tree with an empty node")
            if (expected >= 0 and depth != expected) or nodes > self.block_count:
                raise DiskUnreadable(f"inode {inode.number} has an extent tree that does not end")
            if depth:
                children = [
                    low | high << 32 for _, low, high in _INDEXES.iter_unpack(node[12 : 12 + entries * 12])
                ]
                if visited is not None:
                    visited.extend(children)
                stack.extend((child, depth - 1) for child in reversed(children))
                continue
            for logical, count, high, low in _EXTENTS.iter_unpack(node[12 : 12 + entries * 12]):
                physical = low | high << 32
                written = count <= _UNWRITTEN_OVER
                if not written:
                    count -= _UNWRITTEN_OVER
                if logical < reached or not count or not 0 < physical <= self.block_count - count:
                    raise DiskUnreadable(f"inode {inode.number} has an extent that is out of order or bounds")
                reached = logical + count
                yield logical, physical, count, written

    def _indirect(self, inode: Inode, visited: list[int] | None) -> Iterator[Extent]:
        pointers = struct.unpack("<15I", inode.map)
        per_block = self.block_size // 4
        limit = -(-inode.size // self.block_size)
        blocks = self._indirect_blocks(pointers, per_block, limit, visited)
        for mapped, (logical, physical) in enumerate(blocks, 1):
            if mapped > self.block_count or physical >= self.block_count:
                raise DiskUnreadable(f"inode {inode.number} has a broken block map")
            yield logical, physical, 1, True

    def _indirect_blocks(
        self, pointers: tuple[int, ...], per_block: int, limit: int, visited: list[int] | None
    ) -> Iterator[tuple[int, int]]:
        logical = 12
        roots = [(at, pointers[at], 0) for at in range(12)]
        for level in (1, 2, 3):
            roots.append((logical, pointers[11 + level], level))
            logical += per_block**level
        stack = roots[::-1]
        while stack:
            logical, pointer, level = stack.pop()
            if not pointer or logical >= limit:
                continue
            if level == 0:
                yield logical, pointer
                continue
            if visited is not None:
                visited.append(pointer)
            span = per_block ** (level - 1)
            table = struct.unpack(f"<{per_block}I", self.block(pointer))
            stack.extend(
                (logical + at * span, table[at], level - 1)
                for at in range(per_block - 1, -1, -1)
                if table[at]
            )


def _signed(value: int) -> int:
    return value - (1 << 32) if value & 0x8000_0000 else value
