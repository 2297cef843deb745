"""Image layers: a chain of qcow2 overlays on a qcow2 or raw base, read as one disk.

The caller gives the chain; a backing file's name inside an image is never followed. What cannot be read
exactly is refused with words. Source: docs/interop/qcow2.txt of QEMU.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import partial

from backend.disks.paged import Paged, Pread
from backend.errors import DiskUnreadable

RAW_SUFFIXES = (".raw", ".img")
SECTOR_BYTES = 512
MAX_DISK_BYTES = 64 << 40
MAX_L1_BYTES = 32 << 20  # QEMU's own limit
MAX_INFLATED_KEPT = 16  # decompressed clusters

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # version 2, 72 bytes
_FEATURES = struct.Struct(">QQQII")  # version 3, at 72
_MAGIC = b"QFI\xfb"
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _SUBCLUSTERS = (1 << bit for bit in range(5))
_REFUSED_FEATURES = {
    _CORRUPT: "is marked corrupt",
    _DATA_FILE: "keeps its data in another file",
    _COMPRESSION: "uses a compression other than zlib",
    _SUBCLUSTERS: "uses subclusters",
}
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_READS_ZERO = 1


class RawLayer:
    """A plain file; only ever the base of a chain. ``unit_bits``: the log2 of what is allocated together."""

    unit_bits = 16

    def __init__(self, fd: int, pread: Pread) -> None:
        found = os.fstat(fd)
        self._pread = pread
        self.size = os.lseek(fd, 0, os.SEEK_END)  # of a block device too
        self.identity = (found.st_dev, found.st_ino)

    def find(self, offset: int) -> tuple[bool, int | None]:
        """Whether this layer holds the unit around ``offset``, and a token for :meth:`read` (None: zeros)."""
        return True, offset >> self.unit_bits << self.unit_bits

    def read(self, token: int, within: int, length: int) -> bytes:
        """``length`` bytes of the unit behind ``token``, from ``within`` it."""
        return self._pread(length, token + within).ljust(length, b"\0")

    def units(self) -> Iterator[int]:
        """The offsets of all units that this layer holds."""
        yield from range(0, self.size, 1 << self.unit_bits)


class Qcow2Layer:
    """One qcow2 image, versions 2 and 3, zlib clusters included."""

    def __init__(self, fd: int, name: str, pread: Pread) -> None:
        found = os.fstat(fd)
        self.name, self._pread = name, pread
        self.identity = (found.st_dev, found.st_ino)
        self._file_bytes = found.st_size
        head = pread(112, 0)
        if len(head) < _HEADER.size or head[:4] != _MAGIC:
            raise DiskUnreadable(f"layer {name} is not qcow2", remedy="name raw images *.raw or *.img")
        (_, version, backing, _, bits, size, crypt, l1_count, l1_offset, _, _, _, _) = _HEADER.unpack_from(
            head
        )
        self.has_backing = backing != 0
        self.size: int = size
        self.unit_bits: int = bits
        self._check(version, bits, size, crypt, head)
        needed = -(-size >> (bits * 2 - 3)) if size else 0
        l1_bytes = min(l1_count, -(-size // (1 << (bits * 2 - 3)))) * 8
        if l1_count * 8 > MAX_L1_BYTES or l1_bytes < needed * 8:
            raise DiskUnreadable(f"layer {name} has a first-level table of {l1_count} entries")
        self._zero_flag = version >= 3
        self._l1 = _big_endian(self._exactly(l1_offset, l1_bytes))
        self._l2: dict[int, array[int] | None] = {}
        self._inflated: dict[int, bytes] = {}

    def _check(self, version: int, bits: int, size: int, crypt: int, head: bytes) -> None:
        if version not in (2, 3):
            raise DiskUnreadable(f"layer {self.name} is qcow2 version {version}", remedy="use version 2 or 3")
        if not 9 <= bits <= 21 or size > MAX_DISK_BYTES:
            raise DiskUnreadable(f"layer {self.name} has clusters of 2^{bits} bytes and a size of {size}")
        if crypt:
            raise DiskUnreadable(f"layer {self.name} is encrypted", remedy="use an image without encryption")
        if version == 3:
            incompatible, *_ = _FEATURES.unpack_from(head, 72)
            for bit, words in _REFUSED_FEATURES.items():
                if incompatible & bit:
                    raise DiskUnreadable(
                        f"layer {self.name} {words}", remedy="convert it with qemu-img convert"
                    )
            if incompatible & ~_DIRTY:
                raise DiskUnreadable(f"layer {self.name} has unknown features {incompatible:#x}")

    def _exactly(self, offset: int, length: int) -> bytes:
        data = self._pread(length, offset) if offset < self._file_bytes else b""
        if len(data) != length:
            raise DiskUnreadable(f"layer {self.name} ends before byte {offset + length}")
        return data

    def _table(self, index: int) -> array[int] | None:
        """A second-level table; None when nothing under it is allocated."""
        if index in self._l2:
            return self._l2[index]
        offset = self._l1[index] & _OFFSET_MASK if index < len(self._l1) else 0
        table = _big_endian(self._exactly(offset, 1 << self.unit_bits)) if offset else None
        self._l2[index] = table
        return table

    def find(self, offset: int) -> tuple[bool, int | None]:
        cluster = offset >> self.unit_bits
        table = self._table(cluster >> (self.unit_bits - 3))
        if table is None:
            return False, None
        entry = table[cluster & ((1 << (self.unit_bits - 3)) - 1)]
        if entry & _COMPRESSED:
            return True, entry
        if self._zero_flag and entry & _READS_ZERO:
            return True, None
        host = entry & _OFFSET_MASK
        return (True, host) if host else (False, None)

    def read(self, token: int, within: int, length: int) -> bytes:
        if token & _COMPRESSED:
            return self._inflate(token)[within : within + length]
        return self._exactly(token + within, length)

    def _inflate(self, entry: int) -> bytes:
        if (known := self._inflated.get(entry)) is not None:
            return known
        split = 62 - (self.unit_bits - 8)
        offset = entry & ((1 << split) - 1)
        sectors = (entry & (_COMPRESSED - 1)) >> split
        packed = self._pread((sectors + 1) * SECTOR_BYTES - offset % SECTOR_BYTES, offset)
        try:
            data = zlib.decompressobj(-15).decompress(packed, 1 << self.unit_bits)
        except zlib.error as error:
            raise DiskUnreadable(f"layer {self.name} has a broken compressed cluster: {error}") from error
        if len(data) != 1 << self.unit_bits:
            raise DiskUnreadable(f"layer {self.name} has a compressed cluster of {len(data)} bytes")
        while len(self._inflated) >= MAX_INFLATED_KEPT:
            self._inflated.pop(next(iter(self._inflated)))
        self._inflated[entry] = data
        return data

    def units(self) -> Iterator[int]:
        per_table = 1 << (self.unit_bits - 3)
        for index in range(len(self._l1)):
            table = self._table(index)
            if table is not None:
                for position, entry in enumerate(table):
                    if entry:
                        yield (index * per_table + position) << self.unit_bits


class Disk:
    """A chain of layers, base first, read as one disk of the top layer's size."""

    def __init__(self, layers: Sequence[RawLayer | Qcow2Layer]) -> None:
        if not layers:
            raise DiskUnreadable("no image layer was given")
        self.layers = layers
        self.size = layers[-1].size
        self.unit_bits = min(layer.unit_bits for layer in layers)
        self._places: dict[int, tuple[RawLayer | Qcow2Layer, int, int] | None] = {}

    def _place(self, unit: int) -> tuple[RawLayer | Qcow2Layer, int, int] | None:
        offset = unit << self.unit_bits
        for layer in reversed(self.layers):
            if offset >= layer.size:
                break
            held, token = layer.find(offset)
            if held:
                if token is None:
                    break
                return layer, token, offset & ((1 << layer.unit_bits) - 1)
        return None

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``. Raises :class:`DiskUnreadable` beyond the end of the disk."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DiskUnreadable(f"bytes {offset} to {offset + length} are beyond the disk's {self.size}")
        bits, places = self.unit_bits, self._places
        unit_bytes = 1 << bits
        parts: list[bytes] = []
        while length:
            unit, within = offset >> bits, offset & (unit_bytes - 1)
            step = min(length, unit_bytes - within)
            try:
                place = places[unit]
            except KeyError:
                place = places[unit] = self._place(unit)
            if place is None:
                parts.append(bytes(step))
            else:
                layer, token, start = place
                parts.append(layer.read(token, start + within, step))
            offset += step
            length -= step
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def units_above(self, shared: int) -> set[int]:
        """The units (of ``2**unit_bits`` bytes) that layers from index ``shared`` up hold."""
        found: set[int] = set()
        for layer in self.layers[shared:]:
            ratio = 1 << (layer.unit_bits - self.unit_bits)
            for offset in layer.units():
                first = offset >> self.unit_bits
                found.update(range(first, first + ratio))
        return found


def _big_endian(data: bytes) -> array[int]:
    table = array("Q", data)
    if sys.byteorder == "little":
        table.byteswap()
    return table


def open_chain(files: Sequence[tuple[int, str]], door: int | None = None) -> Disk:
    """A disk from ``(file descriptor, name)`` pairs, base first. The name, not the content, says whether the
    base is raw: what a guest wrote never decides how it is read. With a ``door`` the files are
    :class:`Paged`."""
    layers: list[RawLayer | Qcow2Layer] = []
    for position, (fd, name) in enumerate(files):
        pread = partial(os.pread, fd) if door is None else Paged(fd, position, door).pread
        if name.endswith(RAW_SUFFIXES):
            if position:
                raise DiskUnreadable(f"raw layer {name} lies on another layer", remedy="give the base first")
            layers.append(RawLayer(fd, pread))
            continue
        layer = Qcow2Layer(fd, name, pread)
        if layer.has_backing != (position > 0):
            wrong = (
                "names a backing file and is the base"
                if layer.has_backing
                else "lies on another and names none"
            )
            raise DiskUnreadable(f"layer {name} {wrong}", remedy="give the whole chain, base first")
        layers.append(layer)
    return Disk(layers)


def shared_layers(one: Disk, other: Disk) -> int:
    """How many layers, from the base up, both disks have in common."""
    count = 0
    for mine, theirs in zip(one.layers, other.layers, strict=False):
        if mine.identity != theirs.identity:
            break
        count += 1
    return count
