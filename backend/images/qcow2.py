"""What is looked at of a disk image that somebody else made, before any program opens it.

The format is the one that the user named. A qcow2 that leads to another file, that is encrypted, cut off, or
that uses what we do not know is refused with words. Source: docs/interop/qcow2.txt of QEMU.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from typing import Literal, NoReturn

from backend.errors import ImageRefused

Format = Literal["qcow2", "raw"]

MAGIC = b"QFI\xfb"
SECTOR_BYTES = 512
CLUSTER_BITS = range(12, 22)  # QEMU's own smallest, 512 bytes, would take a thousand times the tables
MAX_L1_BYTES = 32 << 20  # QEMU's own limit

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # version 2, 72 bytes
_FEATURES = struct.Struct(">QQQII")  # version 3, at 72
_COMPRESSION_AT = 104
_EXTENSION = struct.Struct(">II")
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZLIB_OR_ZSTD, _SUBCLUSTERS = 1 << 3, 1 << 4
_UNDERSTOOD = _ZLIB_OR_ZSTD | _SUBCLUSTERS
_REFUSED_FEATURES = {
    1 << 0: "was not closed properly",
    1 << 1: "is marked corrupt",
    1 << 2: "keeps its data in another file",
}
_BITMAPS, _BACKING_FORMAT = 0x2385_2875, 0xE279_2ACA
_REFUSED_EXTENSIONS = {
    0x4441_5441: "keeps its data in another file",
    0x0537_BE77: "is encrypted",
    _BITMAPS: "holds bitmaps",
}
MAX_BACKING_NAME = 1023
CONVERT = "make a plain one of it where it came from: qemu-img convert -O qcow2"


def check_image(fd: int, kind: Format, max_bytes: int, *, layer: bool = False) -> int:
    """The size of the disk that the open file holds, in bytes. Blocking. ``layer``: it is one of a domain of
    a host of ours, which may stand on another, and keep snapshots and bitmaps that nobody reads here.

    Raises:
        ImageRefused: why it is not used.
    """
    if kind == "qcow2":
        return _Qcow2(fd, max_bytes, layer=layer).check()
    size = os.fstat(fd).st_size
    if os.pread(fd, len(MAGIC), 0) == MAGIC:
        raise ImageRefused(
            "the image bears the mark of qcow2 and was named raw", remedy="name its format: qcow2"
        )
    _check_size(size, max_bytes)
    return size


def backing_of(fd: int) -> tuple[str, str] | None:
    """The name and the format of the file that a qcow2 file stands on, as its header has them; the format is
    empty where the header names none. Blocking."""
    return _Qcow2(fd, sys.maxsize, layer=True).backing()


def _check_size(size: int, max_bytes: int) -> None:
    if size < SECTOR_BYTES:
        raise ImageRefused(f"the image has a disk of {size} bytes", remedy="see that the download is whole")
    if size > max_bytes:
        raise ImageRefused(
            f"the image has a disk of {size >> 20} MB, at most {max_bytes >> 20} MB are taken",
            remedy="shrink it, or raise limits.image_gb",
        )


class _Qcow2:
    """One file. Every number in it is a claim, held against the file's length before it is used."""

    def __init__(self, fd: int, max_bytes: int, *, layer: bool = False) -> None:
        self._fd = fd
        self._max_bytes = max_bytes
        self._layer = layer
        self._file_bytes = os.lseek(fd, 0, os.SEEK_END)  # of a block device too

    def check(self) -> int:
        """All of it; the size of the disk."""
        head = self._exactly(0, _HEADER.size)
        magic, version, backing, _, bits, size, crypt, l1_count, l1_at, _, _, snapshots, _ = _HEADER.unpack(
            head
        )
        if magic != MAGIC:
            raise ImageRefused("the image does not begin as qcow2 does", remedy="name its true format")
        if version not in (2, 3):
            _refuse(f"is qcow2 version {version}")
        if backing and not self._layer:
            _refuse("stands on a backing file")
        if crypt:
            _refuse("is encrypted")
        if snapshots and not self._layer:
            _refuse(f"holds {snapshots} internal snapshots")
        if bits not in CLUSTER_BITS:
            _refuse(f"has clusters of 2^{bits} bytes")
        header_bytes = _HEADER.size
        subclusters = False
        if version == 3:
            header_bytes, subclusters = self._features(1 << bits)
        self._extensions(header_bytes, 1 << bits)
        disk_bytes = int(size)
        _check_size(disk_bytes, self._max_bytes)
        self._clusters(disk_bytes, bits, l1_at, l1_count, 16 if subclusters else 8)
        return disk_bytes

    def backing(self) -> tuple[str, str] | None:
        """See :func:`backing_of`."""
        _, version, name_at, name_bytes, bits, *_ = _HEADER.unpack(self._exactly(0, _HEADER.size))
        if not name_at:
            return None
        if name_bytes > MAX_BACKING_NAME or bits not in CLUSTER_BITS:
            _refuse(f"has a backing file's name of {name_bytes} bytes")
        start = self._features(1 << bits)[0] if version == 3 else _HEADER.size
        format = self._extension(_BACKING_FORMAT, start, 1 << bits)
        return os.fsdecode(self._exactly(name_at, name_bytes)), format.decode("ascii", "replace")

    def _extension(self, wanted: int, at: int, cluster_bytes: int) -> bytes:
        """What a header extension holds; nothing where there is none."""
        while at + _EXTENSION.size <= min(cluster_bytes, self._file_bytes):
            kind, length = _EXTENSION.unpack(self._exactly(at, _EXTENSION.size))
            if kind == wanted and length <= cluster_bytes:
                return self._exactly(at + _EXTENSION.size, length)
            if kind == 0:
                break
            at += _EXTENSION.size + -(-length // 8) * 8
        return b""

    def _features(self, cluster_bytes: int) -> tuple[int, bool]:
        """The header's length, and whether its tables have subclusters."""
        incompatible, _, autoclear, _, length = _FEATURES.unpack(self._exactly(_HEADER.size, _FEATURES.size))
        for bit, words in _REFUSED_FEATURES.items():
            if incompatible & bit:
                _refuse(words)
        if incompatible & ~_UNDERSTOOD:
            _refuse(f"has unknown features {incompatible & ~_UNDERSTOOD:#x}")
        if autoclear & 1 and not self._layer:
            _refuse("holds bitmaps")
        if not _HEADER.size + _FEATURES.size <= length <= cluster_bytes or length % 8:
            _refuse(f"has a header of {length} bytes")
        if incompatible & _ZLIB_OR_ZSTD and self._exactly(_COMPRESSION_AT, 1)[0] > 1:
            _refuse("uses an unknown compression")
        return length, bool(incompatible & _SUBCLUSTERS)

    def _extensions(self, start: int, cluster_bytes: int) -> None:
        """Header extensions, in the rest of the first cluster."""
        at = start
        while at + _EXTENSION.size <= min(cluster_bytes, self._file_bytes):
            kind, length = _EXTENSION.unpack(self._exactly(at, _EXTENSION.size))
            if kind == 0:
                return
            if kind in _REFUSED_EXTENSIONS and not (self._layer and kind == _BITMAPS):
                _refuse(_REFUSED_EXTENSIONS[kind])
            at += _EXTENSION.size + -(-length // 8) * 8
        if at > cluster_bytes:
            _refuse("has header extensions beyond its first cluster")

    def _clusters(self, size: int, bits: int, l1_at: int, l1_count: int, entry_bytes: int) -> None:
        """The tables, and that each cluster they name begins inside the file: QEMU would read zeros there."""
        cluster_bytes = 1 << bits
        per_table = cluster_bytes // entry_bytes
        needed = -(-size // (cluster_bytes * per_table))
        if l1_count * 8 > MAX_L1_BYTES or l1_count < needed:
            _refuse(f"has a first-level table of {l1_count} entries where {needed} are needed")
        split = 62 - (bits - 8)
        for entry in _big_endian(self._exactly(l1_at, needed * 8)):
            table_at = entry & _OFFSET_MASK
            if not table_at:
                continue
            table = _big_endian(self._exactly(table_at, cluster_bytes))[:: entry_bytes // 8]
            for cluster in filter(None, table):
                mask = (1 << split) - 1 if cluster & _COMPRESSED else _OFFSET_MASK
                if cluster & mask >= self._file_bytes:
                    self._cut_off(cluster & mask)

    def _exactly(self, offset: int, length: int) -> bytes:
        if offset + length > self._file_bytes:
            self._cut_off(offset + length)
        return os.pread(self._fd, length, offset)

    def _cut_off(self, byte: int) -> NoReturn:
        raise ImageRefused(
            f"the image is cut off: it has {self._file_bytes} bytes and needs byte {byte}",
            remedy="fetch it again, and compare its checksum",
        )


def _refuse(words: str) -> NoReturn:
    raise ImageRefused(f"the image {words}", remedy=CONVERT)


def _big_endian(data: bytes) -> array[int]:
    table = array("Q", data)
    if sys.byteorder == "little":
        table.byteswap()
    return table
