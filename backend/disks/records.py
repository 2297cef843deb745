"""Entries of a manifest in packed form: what the worker writes and the parent reads.

Free of the models, so that the worker starts fast and holds nothing but readers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from backend.errors import DiskUnreadable

NS_BIAS = 1 << 61  # times before 1970 stay positive; ext4 reaches from 1901 to 2446

HEAD = struct.Struct("<HIIIIQQQIIIHH")
LENGTHS = struct.Struct("<IHH")  # the end of a head: of attributes, path and target
_XATTR = struct.Struct("<HI")


class Node(NamedTuple):
    """A name and its inode. ``mode`` holds type and permission bits; ``rdev`` is None but for devices."""

    path: bytes
    mode: int
    uid: int
    gid: int
    links: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    rdev: tuple[int, int] | None
    target: bytes | None
    xattrs: tuple[tuple[bytes, bytes], ...]


def pack(node: Node) -> bytes:
    """One record. The same node always gives the same bytes."""
    major, minor = node.rdev or (0, 0)
    target = node.target or b""
    xattrs = b"".join(_XATTR.pack(len(name), len(value)) + name + value for name, value in node.xattrs)
    head = HEAD.pack(
        node.mode, node.uid, node.gid, node.links, node.inode, node.size, node.mtime_ns + NS_BIAS,
        node.ctime_ns + NS_BIAS, major, minor, len(xattrs), len(node.path), len(target),
    )  # fmt: skip
    return head + node.path + target + xattrs


def unpack(data: bytes) -> Iterator[Node]:
    """The nodes of joined records. Raises :class:`DiskUnreadable` on bytes that :func:`pack` never wrote."""
    at, end = 0, len(data)
    while at < end:
        if at + HEAD.size > end:
            raise DiskUnreadable("a manifest is cut off")
        (mode, uid, gid, links, inode, size, mtime, ctime, major, minor, xattr_bytes, path_bytes,
         target_bytes) = HEAD.unpack_from(data, at)  # fmt: skip
        at += HEAD.size
        stop = at + path_bytes + target_bytes + xattr_bytes
        if stop > end:
            raise DiskUnreadable("a manifest is cut off")
        path = data[at : at + path_bytes]
        at += path_bytes
        target = data[at : at + target_bytes]
        at += target_bytes
        kind = mode & 0xF000
        yield Node(
            path, mode, uid, gid, links, inode, size, mtime - NS_BIAS, ctime - NS_BIAS,
            (major, minor) if kind in (0x2000, 0x6000) else None, target if kind == 0xA000 else None,
            tuple(_xattrs(data[at:stop])) if xattr_bytes else (),
        )  # fmt: skip
        at = stop


def count(data: bytes) -> int:
    """How many nodes :func:`unpack` would give, without making them. Raises :class:`DiskUnreadable` too."""
    at, end, found = 0, len(data), 0
    while at + HEAD.size <= end:
        at += HEAD.size + sum(LENGTHS.unpack_from(data, at + HEAD.size - LENGTHS.size))
        found += 1
    if at != end:
        raise DiskUnreadable("a manifest is cut off")
    return found


def _xattrs(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + _XATTR.size <= len(data):
        name_bytes, value_bytes = _XATTR.unpack_from(data, at)
        at += _XATTR.size
        yield data[at : at + name_bytes], data[at + name_bytes : at + name_bytes + value_bytes]
        at += name_bytes + value_bytes
